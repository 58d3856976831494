"""A corpus in shards on its way to the collection: unchanged shards are shared, and everything is as in one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ft_assets.corpus import shards
from ft_assets.corpus.collect import PASSAGES
from ft_assets.definitions import GATES
from ft_assets.embedding.lexical import FrequencyCounter
from ft_assets.graph.gates import judge
from ft_assets.retrieval.collection import passage_versions
from ft_assets.retrieval.vectors import VECTORS_FILE, frequencies_of, read_vectors
from resources.artifacts import Artifact
from tests.ft_assets.retrieval.conftest import Graph
from tests.ft_assets.retrieval.test_graph import AFTER_CORPUS, QUESTION, search

pytestmark = pytest.mark.slow


def inodes(artifact: Artifact, table: str) -> set[int]:
    return {path.stat().st_ino for path in artifact.table(table)}


def rows(vectors: Artifact) -> list[tuple[object, ...]]:
    return [
        (row.passage_id, row.document_id, row.heading, row.content_sha256, row.dense.tobytes(), row.indices.tobytes())
        for row in read_vectors(vectors)
    ]


def require_sound(graph: Graph) -> None:
    for asset in ("passages", "passage_vectors", "qdrant_collection"):
        for gate in GATES:
            if gate.asset == asset:
                assert judge(gate, graph.evidence).violations == [], gate.name


def test_a_change_writes_its_own_shard_and_nothing_else(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, answers = rows(graph.artifact("passage_vectors")), search(graph, QUESTION)
    monkeypatch.setattr(shards, "LEAST_FILES", 4)
    monkeypatch.setattr(shards, "FILES_A_SHARD", 2)
    graph.configure(corpus={"max_quarantined_share": 0.5})
    path = sorted((graph.root / "corpus").glob("*.md"))[2]
    first = _change(path, "The committee met in the spring of that year.")
    made = graph.run("corpus_settings", *AFTER_CORPUS)
    before = {name: graph.artifact(name) for name in ("passages", "passage_vectors")}
    parts = before["passages"].table_parts(PASSAGES)
    assert len(parts) > 2 and made["passage_vectors"]["encoded"] == first
    assert len(rows(before["passage_vectors"])) == len(whole) + first
    assert set(whole) <= set(rows(before["passage_vectors"]))
    require_sound(graph)

    second = _change(path, "Another committee met in the autumn, and agreed.")
    made = graph.run(*AFTER_CORPUS)
    after = {name: graph.artifact(name) for name in before}
    assert made["passage_vectors"]["encoded"] == made["qdrant_collection"]["upserted"] == second
    for name, table in (("passages", PASSAGES), ("passage_vectors", VECTORS_FILE)):
        assert len(inodes(after[name], table) & inodes(before[name], table)) == len(parts) - 1
    counter = FrequencyCounter()
    for row in read_vectors(after["passage_vectors"]):
        counter.add(row.indices.astype(np.int64), 1)
    assert frequencies_of(after["passage_vectors"]) == counter.result().to_text()
    require_sound(graph)
    with graph.qdrant.engine().open() as client:
        name = graph.artifact("qdrant_collection").summary["collection"]
        assert client.field(name, "version") == passage_versions(after["passage_vectors"], after["passages"])
    assert search(graph, QUESTION)[0][0].passage_id == answers[0][0].passage_id


def _change(path: Path, sentence: str) -> int:
    """Add a section to a document. Return the number of passages that change."""
    path.write_text(path.read_text("utf-8") + f"\n## Meeting {len(sentence)}\n\n{sentence}\n", "utf-8")
    return 1
