"""STARD (Chinese lay legal questions and the statutes that answer them) through the retrieval side of the platform.

    python benchmarks/stard.py prepare SOURCE OUT      # SOURCE/queries.json -> OUT in BEIR layout
    python benchmarks/stard.py base-model OUT          # a small Chinese encoder from scratch -> OUT/encoder
    python benchmarks/stard.py run OUT                 # files to a released collection, by paths and overrides alone

STARD: github.com/oneal2000/STARD, MIT. The encoder is a vocabulary learnt from the bare texts (no judgements) and a
randomly initialised two-layer BERT: it knows nothing but what the platform teaches it. Any hub model works as
well: set FT__EMBEDDING__BASE_MODEL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VOCABULARY = 12_000
HIDDEN = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("prepare")
    step.add_argument("source", type=Path)
    step.add_argument("out", type=Path)
    for name in ("base-model", "run"):
        commands.add_parser(name).add_argument("out", type=Path)
    arguments = parser.parse_args()
    match arguments.command:
        case "prepare":
            prepare(arguments.source, arguments.out)
        case "base-model":
            build_encoder(arguments.out)
        case _:
            sys.exit(run(arguments.out))


def prepare(source: Path, out: Path) -> None:
    """BEIR files from STARD's queries.json: each statute text once, each question, each judgement.

    Statutes go by what they say. Their official numbers do not help: `match_id` and `match_name` of a row stand in
    different orders, and some statutes say the same to the letter under several numbers.
    """
    statutes: dict[str, tuple[str, str]] = {}  # text -> its number here, its name
    queries: list[dict[str, str]] = []
    qrels = ["query-id\tcorpus-id\tscore"]
    for row in json.loads((source / "queries.json").read_text("utf-8")):
        query_id = str(row["query_id"])
        queries.append({"_id": query_id, "text": row["问题"].strip()})
        for name, text in row["相关法规"].items():
            number, _ = statutes.setdefault(text.strip(), (str(len(statutes)), name))
            qrels.append(f"{query_id}\t{number}\t1")
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": number, "title": name, "text": text} for text, (number, name) in statutes.items()]
    for path, rows in ((out / "corpus.jsonl", corpus), (out / "queries.jsonl", queries)):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    (out / "qrels/all.tsv").write_text("\n".join(dict.fromkeys(qrels)) + "\n", "utf-8")
    print(f"{len(corpus)} statutes, {len(queries)} questions, {len(qrels) - 1} judgements in {out}")


def build_encoder(out: Path) -> None:
    """A BPE vocabulary learnt from the texts, and a random two-layer BERT over it."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # BPE over runs between punctuation: WordPiece would cut Chinese into single characters first
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, max_token_length=4, show_progress=False, min_frequency=3
    )
    tokenizer.train_from_iterator(_texts(out / "corpus.jsonl", out / "queries.jsonl"), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = out / "encoder"
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


def run(out: Path) -> int:
    """The platform itself, told only where things lie and how to train."""
    state = out.resolve() / "state"
    overrides = {
        "FT_STATE_DIR": str(state),
        "FT__CORPUS__FILES": json.dumps([str(out.resolve() / "corpus.jsonl")]),
        "FT__CORPUS__GLOSSARY": "[]",
        "FT__CORPUS__MIN_CHARS": "5",
        "FT__DATASETS__INSTRUCTION__FILES": "[]",
        "FT__DATASETS__PREFERENCE__FILES": "[]",
        "FT__DATASETS__RETRIEVAL__QUERIES": json.dumps([str(out.resolve() / "queries.jsonl")]),
        "FT__DATASETS__RETRIEVAL__QRELS": json.dumps([str(out.resolve() / "qrels/all.tsv")]),
        # questions share statutes: grouped by statute nearly all of them would be one cluster
        "FT__DATASETS__SPLIT__GROUP_BY": "[question]",
        "FT__EMBEDDING__BASE_MODEL": str(out.resolve() / "encoder"),
        "FT__EMBEDDING__EPOCHS": "12",
        "FT__EMBEDDING__LEARNING_RATE": "5e-4",
        "FT__EMBEDDING__HEAD_LEARNING_RATE": "5e-3",
        "FT__EMBEDDING__MATRYOSHKA": "[]",
        "FT__RETRIEVAL__SPARSE_WEIGHT": "0.5",
    }
    command = [str(Path(sys.executable).with_name("ft")), "run", "--asset", "released_collection", "--upstream"]
    return subprocess.run(command, env={**overrides, **os.environ}, check=False).returncode


def _texts(*paths: Path) -> Iterator[str]:
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)["text"]


if __name__ == "__main__":
    main()
