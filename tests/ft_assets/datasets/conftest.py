"""A small project on disk (corpus, three data sets, config.yaml), and runs of the real assets and checks on it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_assets.corpus import assets as corpus
from ft_assets.corpus import checks as corpus_checks
from ft_assets.datasets import assets as datasets
from ft_assets.datasets import checks as dataset_checks
from ft_assets.graph.gates import build_checks
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.parquet import read_rows
from tests.ft_assets.settings_assets import SETTINGS

GATES = [*corpus_checks.GATES, *dataset_checks.GATES]
TOPICS = {f"topic{n:02d}": f"第{n}章" for n in range(24)}
CONFIG: dict[str, Any] = {
    "corpus": {"files": ["docs/*.md"]},
    "datasets": {
        "instruction": {"files": ["data/instruction.jsonl"]},
        "preference": {"files": ["data/preference.jsonl"]},
        "retrieval": {"queries": ["data/queries.jsonl"], "qrels": ["data/qrels.tsv"]},
        "split": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "max_quarantined_share": 0.5,
    },
    "sft": {"base_model": "x"},
    "dpo": {"base_model": "x"},
    "embedding": {"base_model": "x"},
}


def question(topic: str, n: int = 0) -> str:
    """Return a question that is similar to no other."""
    dice = random.Random(f"{topic} {n}")  # noqa: S311
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(4)]
    return f"{topic} {' '.join(words)}?"


def instruction(topic: str, n: int = 0, **more: Any) -> dict[str, Any]:
    row = {"record_id": f"i-{topic}-{n}", "question": question(topic, n), "answer": f"答案 {topic} {n}"}
    return row | {"evidence": [f"{topic}#basics"], "difficulty": "easy"} | more


def preference(topic: str, n: int = 0, **more: Any) -> dict[str, Any]:
    row = {"record_id": f"p-{topic}-{n}", "question": question(topic, n), "chosen": f"好 {n}", "rejected": f"坏 {n}"}
    return row | {"evidence": [topic]} | more


def ddr(query: str, **more: Any) -> dict[str, Any]:
    chosen, rejected = {"text": "对的答案", "rouge_score": 0.9}, {"text": "错的答案", "rouge_score": 0.1}
    return {"query": query, "retrieval_result": ["段落"], "chosen": chosen, "rejected": rejected} | more


class Project:
    """The project's files, its state, and its runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.store = ArtifactStore(self.state / "artifacts")
        self.config = json.loads(json.dumps(CONFIG))
        self.instance = dg.DagsterInstance.ephemeral()
        for topic, title in TOPICS.items():
            self.document(topic, f"# {title}\n\n## Basics\n\n{topic} 的基本知识在这里写得足够长，可以成为一个段落。\n")
        self.instructions([instruction(topic) for topic in TOPICS])
        self.preferences([preference(topic) for topic in TOPICS])
        self.retrieval({f"q-{topic}": (question(topic), [topic]) for topic in TOPICS})

    def document(self, stem: str, text: str) -> None:
        path = self.root / "docs" / f"{stem}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")

    def instructions(self, rows: Sequence[Any]) -> None:
        self.lines("instruction.jsonl", rows)

    def preferences(self, rows: Sequence[Any]) -> None:
        self.lines("preference.jsonl", rows)

    def retrieval(self, queries: dict[str, tuple[str, list[str]]]) -> None:
        self.lines("queries.jsonl", [{"_id": name, "text": text} for name, (text, _) in queries.items()])
        judged = [f"{name}\t{passage}\t1" for name, (_, found) in queries.items() for passage in found]
        self.lines("qrels.tsv", ["query-id\tcorpus-id\tscore", *judged])

    def lines(self, name: str, rows: Sequence[Any]) -> None:
        path = self.root / "data" / name
        path.parent.mkdir(exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", "utf-8")

    def run(self, *names: str, checks: bool = True) -> dg.ExecuteInProcessResult:
        """Materialize the named assets (all of settings, corpus and datasets if none is named) with their checks."""
        (self.root / "config.yaml").write_text(json.dumps(self.config, ensure_ascii=False))
        definitions = [*SETTINGS, *corpus.ASSETS, *datasets.ASSETS, *(build_checks(GATES) if checks else [])]
        selection = dg.AssetSelection.assets(*names) if names else None
        return dg.materialize(
            definitions, resources=self.resources(), instance=self.instance, selection=selection, raise_on_error=False
        )

    def resources(self) -> dict[str, Any]:
        return {
            "artifacts": ArtifactsResource(state_dir=str(self.state), config_path=str(self.root / "config.yaml")),
            "qdrant": QdrantResource(state_dir=str(self.state)),
        }

    def rows(self, asset: str, file: str) -> list[dict[str, Any]]:
        return list(read_rows(self.store.require(asset).file(file)))

    def quarantine(self, asset: str) -> list[dict[str, Any]]:
        path = self.store.require(asset).file("quarantine.jsonl")
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def splits(self) -> dict[tuple[str, str], str]:
        """Return (data set, record id) -> split in the ledger."""
        return {(row["dataset"], row["record_id"]): row["split"] for row in self.rows("split_ledger", "ledger.parquet")}


def failures(result: dg.ExecuteInProcessResult) -> str:
    """Return all errors of a run as text."""
    steps = [event.step_failure_data.error.to_string() for event in result.get_step_failure_events()]
    violations = [
        f"{e.asset_key.to_user_string()}.{e.check_name}: {[r.data for r in e.metadata['violations'].records]}"
        for e in result.get_asset_check_evaluations()
        if not e.passed
    ]
    return "\n".join([*violations, *steps])


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
