"""The protocols of the state in one small scenario without models: publish, point, build, release, retire, roll back.

It takes a part of a second and is the same on every run, so that a state after a fault and a clean rerun can be
compared with one that was never disturbed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from expectations.contracts.embedding import Fusion
from expectations.rules import retrieval as rules
from ft_assets.retrieval.collection import build, collection_name, inspect, passage_versions, points_version
from ft_assets.retrieval.jobs import COLLECTION_FILE, CollectionFile
from ft_assets.retrieval.release import is_served, release_collection, retire_collections, rollback_collection, settle
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.call_cache import CallCache
from resources.files import write_json
from resources.qdrant import QdrantEngine, aliased
from resources.releases import Releases
from resources.text_source import ModelReply
from tests.ft_assets.retrieval.synthetic import SERVING, contract, corpus, publish

pa.array([0])  # imports pandas where it is installed: once, and not in every child
SERVED = contract().served(SERVING, None)
SIZE, ROUNDS = 12, 3
LABELS = {1: ("draft", "final")}
"""Version of the corpus -> the labels that its passages have, one after another."""


class State:
    """A state folder, and the steps of the scenario on it."""

    def __init__(
        self, root: Path, kind: str, url: str | None = None, alias: str = "passages", rounds: int = ROUNDS
    ) -> None:
        self.root, self.alias, self.rounds = root, alias, rounds
        self.store, self.releases = ArtifactStore(root / "artifacts"), Releases(root / "released")
        self.engine = QdrantEngine(
            kind, root / "qdrant", url, alias, os.environ.get("QDRANT_API_KEY") if url else None, 20.0
        )

    def run(self) -> None:
        """Release versions of a corpus (`rounds`) in turn, then roll back once. What is there already is reused."""
        self.store.sweep()
        for number in range(self.rounds):
            self.release(number)
        book = self.releases.book("collection")
        if book and not book.withheld:
            with self.releases.exclusive("collection"):
                rollback_collection(self.store, self.releases, self.engine, None, who="test", why="scenario")
        calls = CallCache(self.root)
        calls.put("key", ModelReply(text="a reply", prompt_tokens=1, tokens=2, finish="stop"))
        calls.close()

    def release(self, number: int) -> None:
        """Make the artifacts of one version, build its collection and release it, as the assets do."""
        name = self.prepare(number)
        with self.releases.exclusive("collection"):
            if not self._was_released(name):
                release_collection(self.store, self.releases, self.engine)
            book = self.releases.book("collection")
            if book:
                retire_collections(self.engine, book, 2, name)
        self.store.prune("fusion_sweep", 1)

    def prepare(self, number: int) -> str:
        """Make the candidate of one version, and return the name of its collection."""
        texts = corpus(SIZE + number, changed={n: f"第 {n} 段第 {number} 版" for n in range(number)})
        if number == 2:
            del texts[next(iter(texts))]
        for label in LABELS.get(number, ("",)):
            name = self._build(texts, {passage: {"label": label} for passage in texts} if label else None)
        described = CollectionFile(collection=name, contract=SERVED.to_json(), points=len(texts))
        self._publish("qdrant_collection", msgspec.to_builtins(described), COLLECTION_FILE)
        fusion = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.1 * (number + 1), prefetch_limit=200)
        self._publish("retrieval_evaluation", number, "scores.json", settings={"fusion": msgspec.to_builtins(fusion)})
        return name

    def _build(self, texts: dict[str, str], labels: dict[str, dict[str, object]] | None) -> str:
        """Make the vectors and the collection of these texts, and return its name."""
        vectors, passages = publish(self.root, texts, payloads=labels)
        name = collection_name(self.alias, SERVED, vectors.data_version)
        self._publish("embedding_model", {}, "model.json")
        self._publish("fusion_sweep", {}, "sweep.json", inputs={"passage_vectors": vectors.data_version})
        if not self._was_released(name):
            with self.engine.open() as client:
                build(client, name, SERVED, vectors, passages)
        return name

    def _was_released(self, name: str) -> bool:
        """Return whether a release of this collection is in the record, after finishing one that was interrupted."""
        with self.engine.open() as client:
            settle(client, self.releases, self.alias)
        book = self.releases.book("collection")
        return book is not None and name in [release.details["collection"] for release in book.history]

    def _publish(self, asset: str, content: object, file: str, **recipe: Any) -> Artifact:
        made_of = Recipe(asset=asset, code_version=str(content), **recipe)
        artifact = self.store.find(asset, made_of.id)
        if artifact is None or artifact.verify():
            if artifact is not None:
                self.store.discard(artifact)
            # as a person may leave it: it is set aside
            (self.store.root / asset / made_of.id).mkdir(parents=True, exist_ok=True)
            with self.store.stage(made_of) as staging:
                write_json(staging.path / file, content)
                artifact = staging.publish()
        self.store.point(artifact)
        return artifact

    def faults(self) -> list[str]:
        """Return what is half done and can be seen. An interrupted move is settled first, as every opening does."""
        found: list[str] = []
        folders = sorted(path for path in self.store.root.glob("[!.]*") if path.is_dir())
        for folder in folders:
            for artifact in self.store.versions(folder.name):
                found += [f"{artifact.path}: {fault}" for fault in artifact.verify()]
            if (folder / "current.json").exists() and self.store.current(folder.name) is None:
                found.append(f"{folder}: current.json names no whole artifact")
        with self.engine.open() as client:
            settle(client, self.releases, self.alias)
            release, name = self.releases.current("collection"), aliased(client, self.alias)
            if (release.details["collection"] if release else None) != name:
                found.append(f"the record names {release}, the alias {name}")
            if release and not is_served(client, self.alias, release):
                found.append(f"{name} has another fusion than its release")
            if name:
                found += self._points(client, name)
        return found

    def _points(self, client: Any, name: str) -> list[str]:
        made = [
            (vectors, passages)
            for vectors in self.store.versions("passage_vectors")
            for passages in self.store.versions("passages")
            if passages.summary["passages"] == vectors.summary["passages"]
        ]
        made_of = client.metadata(name)["whole"]
        vectors, texts = next((pair for pair in made if points_version(*pair) == made_of), (None, None))
        if vectors is None or texts is None:
            return [f"{name} serves and is not whole ({made_of!r})"]
        stored = inspect(client, name)
        wanted = passage_versions(vectors, texts)
        return [
            str(fault)
            for fault in (
                *rules.collection_is_complete(name, len(wanted), stored.points, stored.dense, stored.sparse),
                *rules.points_are_current(name, wanted, client.field(name, "version")),
            )
        ]

    def versions(self) -> dict[str, object]:
        """Return all that an undisturbed run decides: artifacts, pointers, releases, moves, collections, the alias."""
        assets = sorted(path.name for path in self.store.root.glob("[!.]*") if path.is_dir())
        book = self.releases.book("collection")
        with self.engine.open() as client:
            alias, names = aliased(client, self.alias), client.names()
            names = [name for name in names if name.startswith(self.alias)]  # a server may have others
        kept = {
            asset: sorted(a.data_version for a in self.store.versions(asset))
            for asset in assets
            if asset != "fusion_sweep"
        }
        left = sorted(path.name for path in (self.root / "artifacts/.staging").glob("*"))
        calls = CallCache(self.root)
        reply = calls.get(["key"])["key"].text
        calls.close()
        return {
            "kept": kept,
            "current": {asset: self.store.require(asset).recipe_id for asset in assets},
            "releases": [release.version for release in book.history] if book else [],
            "moves": [(move.kind, move.before, move.after) for move in book.moves] if book else [],
            "withheld": book.withheld if book else [],
            "alias": alias,
            "collections": names,
            "left": left,
            "reply": reply,
        }
