"""Retrieval quality on public data sets: BM25 compared with the platform's encoder, before and after its training.

    python benchmarks/retrieval.py all --stard STARD --cmrc CMRC2018 --work WORK [--base NAME]

runs these commands for both data sets, and writes benchmarks/results/retrieval.json:

    python benchmarks/retrieval.py prepare stard SOURCE WORK   # queries.json -> BEIR layout in WORK
    python benchmarks/retrieval.py prepare cmrc SOURCE WORK    # cmrc2018_dev.json, cmrc2018_trial.json -> the same
    python benchmarks/retrieval.py base-model WORK             # a small Chinese encoder from scratch -> WORK/encoder
    python benchmarks/retrieval.py run WORK [--base NAME] [--by-likeness]   # files to a released collection
    python benchmarks/retrieval.py measure WORK                # the table; TREC runs and judgements in WORK/runs
    python benchmarks/retrieval.py lengths WORK                # BM25 on the part of a document that an encoder reads

Your own data in BEIR layout (corpus.jsonl, queries.jsonl, qrels/*.tsv): put it into WORK and leave `prepare` out.
The platform gets only paths and settings; the environment (FT__…) overrides any of them.

STARD: github.com/oneal2000/STARD, MIT: lay questions and the statutes that answer them. CMRC 2018:
github.com/ymcui/cmrc2018, CC BY-SA 4.0: questions on passages of Wikipedia. The platform's ledger assigns the questions
to splits, STARD's by similarity (many share a statute), CMRC's by document. Without --base (any name that
embedding.base_model takes) the encoder is a vocabulary learnt from the corpus and the training questions, and a random
two-layer BERT: all that it learns comes from the platform's training. BM25 counts pairs of neighbouring characters
(bm25s, its defaults).
"""

# bm25s, tokenizers and numpy's shapes are untyped here
# pyright: basic
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expectations.markdown import markdown_table
from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import DOCUMENT_METRICS, METRICS, measure, measure_documents
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.exact_search import score_blocks
from ft_assets.embedding.lexical import with_lexical_arm
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Questions, read_passages, read_questions
from ft_assets.retrieval.choose_fusion import fusion_of, label
from ft_assets.retrieval.encode import base_encoder
from ft_assets.retrieval.exact import StoredVectors, serving_in
from ft_assets.retrieval.jobs import SweepSummary
from ft_assets.retrieval.sweep import compared_fusions
from ft_assets.retrieval.vectors import query_side_of
from resources import accelerator
from resources.artifacts import ArtifactStore, library_versions, write_json
from resources.engines.fusion import fuse
from resources.parquet import read_rows, row_count
from resources.telemetry import METRICS_FILE, read_metrics

RESULTS = Path(__file__).parent / "results/retrieval.json"
VOCABULARY = 12_000
HIDDEN = 256
_DEPTH = 100

RELEASED = ("released_collection",)

Row = dict[str, str]
Ranked = list[list[tuple[str, float]]]
"""For each question (passage, score), best first."""


def main() -> int:
    """Run one command. Return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("all")
    step.add_argument("--stard", type=Path)
    step.add_argument("--cmrc", type=Path)
    step.add_argument("--work", type=Path, required=True)
    step.add_argument("--base")
    step.add_argument("--out", type=Path, default=RESULTS)
    step = commands.add_parser("prepare")
    step.add_argument("dataset", choices=list(PREPARE))
    step.add_argument("source", type=Path)
    step.add_argument("work", type=Path)
    for name in ("base-model", "run"):
        step = commands.add_parser(name)
        step.add_argument("work", type=Path)
        step.add_argument(
            "--by-likeness", action="store_true", help="many questions share a document: split them by similarity"
        )
    step.add_argument("--base")
    commands.add_parser("measure").add_argument("work", type=Path)
    commands.add_parser("lengths").add_argument("work", type=Path)
    chosen = parser.parse_args()
    match chosen.command:
        case "all":
            reports = {}
            for name, source in (("stard", chosen.stard), ("cmrc", chosen.cmrc)):
                if source:
                    reports[name] = run_all(name, source, chosen.work / name, chosen.base)
                    write_json(chosen.out, {"machine": machine(), "datasets": reports})
        case "prepare":
            PREPARE[chosen.dataset](chosen.source, chosen.work)
        case "base-model":
            build_encoder(chosen.work, by_likeness=chosen.by_likeness)
        case "run":
            return run(chosen.work, chosen.base, by_likeness=chosen.by_likeness)
        case "lengths":
            print(json.dumps(lengths(chosen.work), indent=2))
        case _:
            print(table(compare(chosen.work)))
    return 0


def run_all(name: str, source: Path, work: Path, base: str | None) -> dict[str, Any]:
    """Return the report on one data set, from its source files, with the seconds of each step."""
    load = os.getloadavg()[0]
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def done(step: str) -> None:
        nonlocal started
        seconds[step] = round(time.monotonic() - started, 1)
        started = time.monotonic()

    by_likeness = name == "stard"
    PREPARE[name](source, work)
    if not base:
        build_encoder(work, by_likeness=by_likeness)
    done("prepare")
    if run(work, base, by_likeness=by_likeness):
        raise SystemExit(f"{name}: ft run failed, see above")
    done("ft_run")
    report = compare(work)
    done("measure")
    report["seconds"] |= {**seconds, "all": round(sum(seconds.values()), 1)}
    report["load_before"] = round(load, 2)
    print(f"\n## {name}\n\n{table(report)}\n\n{report['seconds']}")
    return report


# -- data ---------------------------------------------------------------------------------------------------------
def prepare_stard(source: Path, work: Path) -> None:
    """Write BEIR files from STARD's queries.json: each statute text once, each question, each judgement.

    A statute is identified by its text. The official numbers do not help: `match_id` and `match_name` of a row are in
    different orders, and some statutes have exactly the same text under several numbers.
    """
    statutes: dict[str, Row] = {}
    queries: list[Row] = []
    judged: dict[tuple[str, str], None] = {}
    for row in json.loads((source / "queries.json").read_text("utf-8")):
        query = str(row["query_id"])
        queries.append({"_id": query, "text": row["问题"].strip()})
        for name, content in row["相关法规"].items():
            text = content.strip()
            statute = statutes.setdefault(text, {"_id": str(len(statutes)), "title": name, "text": text})
            judged[query, statute["_id"]] = None
    _write(work, statutes.values(), queries, judged)


def prepare_cmrc(source: Path, work: Path) -> None:
    """Write BEIR files from CMRC 2018's dev and trial files: each passage is a document, right for its questions."""
    passages: list[Row] = []
    queries: list[Row] = []
    judged: list[tuple[str, str]] = []
    for name in ("cmrc2018_dev.json", "cmrc2018_trial.json"):
        for article in json.loads((source / name).read_text("utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                passages.append({"_id": paragraph["id"], "title": article["title"], "text": paragraph["context"]})
                for question in paragraph["qas"]:
                    queries.append({"_id": question["id"], "text": question["question"].strip()})
                    judged.append((question["id"], paragraph["id"]))
    _write(work, passages, queries, judged)


PREPARE = {"stard": prepare_stard, "cmrc": prepare_cmrc}


def _write(work: Path, corpus: Iterable[Row], queries: list[Row], judged: Iterable[tuple[str, str]]) -> None:
    (work / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (work / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in judged)]
    (work / "qrels/all.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(queries)} questions, {len(lines) - 1} judgements in {work}")


# -- the platform -------------------------------------------------------------------------------------------------
def build_encoder(work: Path, *, by_likeness: bool = False) -> None:
    """Write a random BERT, with a vocabulary of one and two characters learnt from corpus and training questions."""
    import torch
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    if run(work, by_likeness=by_likeness, assets=["retrieval_splits"]):
        raise SystemExit("the questions could not be split, see above")
    passages, questions = _training_texts(work)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # BPE over runs between punctuation: WordPiece would cut Chinese into single characters first. Words of two
    # characters occur again in other texts; with four, BM25 over these tokens lost 6 points on validation questions.
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, max_token_length=2, show_progress=False, min_frequency=20
    )
    tokenizer.train_from_iterator([*passages, *questions], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = work / "encoder"
    folder.mkdir(exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * HIDDEN,
    )
    BertModel(config).save_pretrained(folder)
    print(f"{len(fast)} tokens, {HIDDEN} dimensions in {folder}")


def _training_texts(work: Path) -> tuple[list[str], list[str]]:
    """Return the texts that training may use: the corpus and the training questions."""
    store = ArtifactStore(work / "state/artifacts")
    passages = read_passages(store.require("passages"))
    return list(passages.contents), read_questions(store.require("retrieval_splits"), "train", passages).texts


# Chosen on validation questions and on held-out training questions. A base model is fine-tuned with the defaults.
FROM_SCRATCH: dict[str, Any] = {"temperature": 0.02, "epochs": 8, "max_steps": 300, "learning_rate": 5e-4}
# questions of similarity 0.5 share a split, otherwise the gate against contamination refuses them
SPLIT: dict[str, Any] = {"near_duplicate": 0.5}
BY_LIKENESS: dict[str, Any] = {**SPLIT, "group_by": ["question"]}


def run(work: Path, base: str | None = None, *, by_likeness: bool = False, assets: Sequence[str] = RELEASED) -> int:
    """Make `assets` and all upstream, given only paths and training settings. Return the exit code."""
    work = work.resolve()
    retrieval = {"queries": [str(work / "queries.jsonl")], "qrels": [str(path) for path in work.glob("qrels/*.tsv")]}
    sections: dict[str, dict[str, Any]] = {
        "corpus": {"files": [str(work / "corpus.jsonl")], "glossary": [], "min_chars": 5},
        "datasets": {
            "instruction": {"files": []},
            "preference": {"files": []},
            "retrieval": retrieval,
            "split": BY_LIKENESS if by_likeness else SPLIT,
        },
        "embedding": {
            "base_model": base or str(work / "encoder"),
            "matryoshka": [],
            **({} if base else FROM_SCRATCH),
        },
    }
    if not base and not (work / "encoder").is_dir():  # its vocabulary is learned from the splits that are made here
        sections["corpus"]["max_tokens"] = None
        sections["embedding"] = {"max_unknown_share": 1.0}
    overrides = {
        "FT_STATE_DIR": str(work / "state"),
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in _flat("FT", sections)},
    }
    wanted = [part for asset in assets for part in ("--asset", asset)]
    command = [str(Path(sys.executable).with_name("ft")), "run", *wanted, "--upstream"]
    return subprocess.run(command, env={**overrides, **os.environ}, check=False).returncode


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield `FT__SECTION__KEY` and the value of every leaf."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}__{name.upper()}", inner)
    else:
        yield prefix, value


# -- measuring ----------------------------------------------------------------------------------------------------
def compare(work: Path) -> dict[str, Any]:
    """Return each system's figures on the test questions, by exact search. Write TREC files to `work`/runs."""
    store = ArtifactStore(work / "state/artifacts")
    passages = read_passages(store.require("passages"))
    splits, model = store.require("retrieval_splits"), store.require("embedding_model")
    questions = read_questions(splits, "test", passages)
    trained_with = dict(model.manifest.recipe.settings)
    settings = EmbeddingSettings.model_validate({k: v for k, v in trained_with.items() if k != "base_version"})
    fusion, sweep = fusion_of(store), store.require("fusion_sweep").summary_as(SweepSummary)
    compute, passage_vectors = accelerator.choose(), store.require("passage_vectors")
    lexical = query_side_of(passage_vectors)
    trained = StoredVectors(passage_vectors)
    base = StoredVectors(store.require("base_vectors"), lexical_of=passage_vectors)
    systems = {
        "base": (base_encoder(settings, work / "state", compute), base),
        "trained": (HybridEncoder.load(model.folder(), compute), trained),
    }
    distance = serving_in(store.require("qdrant_collection")).distance
    fusions = {label(one): one for one in compared_fusions(fusion, distance)}
    rankings = {("BM25", "bigram"): bm25(passages.contents, passages.ids, questions.texts)}
    seconds: dict[str, float] = {}
    for system, (encoder, corpus) in systems.items():
        queries = with_lexical_arm(encoder.encode(questions.texts, "query"), questions.texts, lexical)
        ranked: dict[str, Ranked] = {"dense": [], "sparse": [], "fused": [], f"best on validation, {sweep.best}": []}
        blocks = list(score_blocks(queries, corpus))
        for rows in dict.fromkeys((block.queries.start, block.queries.stop) for block in blocks):
            mine = [block for block in blocks if block.queries.start == rows[0]]
            dense = np.concatenate([block.dense for block in mine], axis=1)
            sparse = np.concatenate([block.lexical for block in mine], axis=1)
            scores = [dense, sparse, fuse(fusion, dense, sparse), fuse(fusions[sweep.best], dense, sparse)]
            for arm, values in zip(ranked, scores, strict=True):
                ranked[arm] += best(values, passages.ids)
        rankings |= {(system, arm): lists for arm, lists in ranked.items()}
    seconds["train"] = max((r["seconds"] for r in read_metrics(model.file(METRICS_FILE))), default=0.0)
    write_runs(work / "runs", questions, rankings)
    measured: dict[tuple[str, str], dict[str, list[float]]] = {}
    for key, lists in rankings.items():
        named = [[passage for passage, _ in row] for row in lists]
        by_document = measure_documents(questions.qrels, named, passages.document_of)
        measured[key] = measure(questions.qrels, named) | by_document
    best_known = measured["trained", "fused"]["ndcg_at_10"]
    return {
        "passages": len(passages.ids),
        "questions": {split: row_count(splits.file(f"{split}.parquet")) for split in ("train", "validation", "test")},
        "embedding": {**trained_with, "base_model": settings.base_model.removeprefix(f"{work.resolve()}/")},
        "fusion": msgspec.to_builtins(fusion),
        "scores": {
            f"{system} {arm}": {name: msgspec.to_builtins(bootstrap(values)) for name, values in metrics.items()}
            for (system, arm), metrics in measured.items()
        },
        "gain_of_trained_fused_ndcg_at_10": {
            f"over {system} {arm}": msgspec.to_builtins(paired_bootstrap(best_known, metrics["ndcg_at_10"]))
            for (system, arm), metrics in measured.items()
            if (system, arm) != ("trained", "fused")
        },
        "seconds": seconds,
    }


def best(scores: np.ndarray, ids: Sequence[str]) -> Ranked:
    """Return the passages of each row of scores [Q, N], highest score first; equal ones stay in the corpus's order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
    return [[(ids[int(n)], float(row[n])) for n in columns] for row, columns in zip(scores, order, strict=True)]


def bm25(passages: Sequence[str], ids: Sequence[str], questions: Sequence[str]) -> Ranked:
    """Return BM25 rankings, over pairs of Chinese characters and whole words of other scripts."""
    import bm25s

    index = bm25s.BM25()
    index.index([split_terms(text) for text in passages], show_progress=False)
    return best(np.stack([index.get_scores(split_terms(text)) for text in questions]), ids)


def lengths(work: Path) -> dict[str, Any]:
    """Return for 256 and 512 tokens of WORK/encoder the share of documents and tokens beyond, and BM25's nDCG@10."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(work / "encoder/tokenizer.json"))
    documents = [json.loads(line) for line in (work / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [f"{row['title']}\n{row['text']}" for row in documents]
    encoded = tokenizer.encode_batch(texts)
    counts = np.array([len(row.ids) for row in encoded])
    splits = ArtifactStore(work / "state/artifacts").require("retrieval_splits")
    asked = list(read_rows(splits.file("test.parquet"), ["query", "positive_ids"]))
    ids, questions = [row["_id"] for row in documents], [row["query"] for row in asked]
    qrels = [dict.fromkeys(row["positive_ids"], 1) for row in asked]

    def score(parts: Sequence[str]) -> float:
        rankings = [[name for name, _ in ranked] for ranked in bm25(parts, ids, questions)]
        return round(float(np.mean(measure(qrels, rankings)["ndcg_at_10"])), 4)

    report: dict[str, Any] = {"documents": len(ids), "bm25_on_all": score(texts)}
    for limit in (256, 512):
        # the last token read is the special one at the end
        ends = [row.offsets[limit - 2][1] if len(row.ids) > limit else None for row in encoded]
        report[f"{limit}_tokens"] = {
            "documents_beyond": round(float((counts > limit).mean()), 4),
            "tokens_beyond": round(float(np.clip(counts - limit, 0, None).sum() / counts.sum()), 4),
            "bm25_on_what_is_read": score([text[:end] for text, end in zip(texts, ends, strict=True)]),
        }
    return report


def split_terms(text: str) -> list[str]:
    """Return the pairs of neighbouring Chinese characters (a single one is a term too), and words in lower case."""
    terms: list[str] = []
    for run in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        chinese = "\u3400" <= run[0] <= "\u9fff" and len(run) > 1
        terms += [run[n : n + 2] for n in range(len(run) - 1)] if chinese else [run]
    return terms


def write_runs(folder: Path, questions: Questions, rankings: Mapping[tuple[str, str], Ranked]) -> None:
    """Write a TREC file for each system and arm (query Q0 document rank score tag), and the judgements, also as tsv."""
    folder.mkdir(exist_ok=True)
    judged: list[tuple[str, str, int]] = []
    for query, qrels in zip(questions.ids, questions.qrels, strict=True):
        judged += [(query, passage, score) for passage, score in qrels.items()]
    (folder / "qrels.txt").write_text("".join(f"{q} 0 {p} {s}\n" for q, p, s in judged), "utf-8")
    tsv = ["query-id\tcorpus-id\tscore", *(f"{q}\t{p}\t{s}" for q, p, s in judged)]
    (folder / "qrels.tsv").write_text("\n".join(tsv) + "\n", "utf-8")
    for (system, arm), ranked in rankings.items():
        tag = re.sub(r"\W+", "-", f"{system}-{arm}")
        lines: list[str] = []
        for query, row in zip(questions.ids, ranked, strict=True):
            lines += [
                f"{query} Q0 {passage} {rank} {score:.6f} {tag}\n" for rank, (passage, score) in enumerate(row, 1)
            ]
        (folder / f"{tag}.run").write_text("".join(lines), "utf-8")


def table(report: dict[str, Any]) -> str:
    """Return the scores as a Markdown table, in percent, with the 95 % interval of nDCG@10."""
    rows: list[list[str]] = []
    for name, metrics in report["scores"].items():
        low, high = (100 * metrics["ndcg_at_10"][end] for end in ("low", "high"))
        cells = [f"{100 * metrics[metric]['mean']:.1f}" for metric in (*METRICS, DOCUMENT_METRICS[0])]
        cells[0] += f" [{low:.1f}, {high:.1f}]"
        rows.append([name, *cells])
    return markdown_table(["", "nDCG@10", "Recall@10", "Recall@100", "MRR@10", "nDCG@10 by document"], rows)


def machine() -> dict[str, Any]:
    """Return the machine on which the seconds were measured."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    compute = accelerator.choose()
    return {
        "cpu": name,
        "cores": accelerator.cores(),
        "device": compute.device,
        "dtype": compute.dtype,
        "libraries": library_versions(),
    }


if __name__ == "__main__":
    sys.exit(main())
