"""The ten best that every engine serves are the ten best by definition, on 5,000 passages like real ones."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from qdrant_client import QdrantClient

from expectations.contracts.embedding import Fusion, Serving
from ft_assets.config.model import RetrievalSettings
from resources.engines.client import ServerClient
from resources.engines.fusion import fuse
from resources.engines.protocol import Condition, Points, Query, Scored, VectorClient
from tests.resources.test_engines import ENGINES, engine, key

PASSAGES, TOPICS, DIMENSION, VOCABULARY, BATCH = 5000, 200, 64, 3000, 250
QUESTIONS = {"local": 5, "edge": 100, "server": 100, "memory": 2}
TENANTS = 4


class Texts:
    """Vectors like those of texts: dense ones around topics, lexical ones of Zipf's terms and a few of the topic."""

    def __init__(self, count: int, terms: int, seed: int) -> None:
        dice = np.random.default_rng(seed)
        topics = dice.integers(0, TOPICS, count)
        centres = np.random.default_rng(0).normal(size=(TOPICS, DIMENSION))
        dense = centres[topics] + dice.normal(size=(count, DIMENSION))
        self.dense = (dense / np.linalg.norm(dense, axis=1, keepdims=True)).astype(np.float32)
        zipf = 1 / np.arange(1, VOCABULARY + 1)
        self.sparse: list[tuple[np.ndarray, np.ndarray]] = []
        for topic in topics:
            own = VOCABULARY // 2 + (7 * topic + dice.integers(0, 20, terms // 4)) % (VOCABULARY // 2)
            common = dice.choice(VOCABULARY, terms, p=zipf / zipf.sum())
            ids = np.unique(np.concatenate([common, own])).astype(np.int32)
            self.sparse.append((ids, dice.uniform(0.05, 1, len(ids)).astype(np.float32)))

    @cached_property
    def wide(self) -> np.ndarray:
        rows = np.zeros((len(self.sparse), VOCABULARY), np.float32)
        for row, (ids, weights) in zip(rows, self.sparse, strict=True):
            row[ids] = weights
        return rows


CORPUS, ASKED = Texts(PASSAGES, 40, 1), Texts(100, 8, 2)


@dataclass
class Served:
    client: VectorClient
    name: str
    distance: str
    questions: int

    def answers(self, fusion: Fusion, where: tuple[Condition, ...] = ()) -> list[list[Scored]]:
        vectors = zip(ASKED.dense[: self.questions].tolist(), ASKED.sparse, strict=False)
        queries = [
            Query(dense, sparse, "fused", 10, fusion=fusion, distance=self.distance, where=where)
            for dense, sparse in vectors
        ]
        return self.client.query(self.name, queries)


@pytest.fixture(scope="module", params=[*ENGINES, "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["cosine", "euclid"])
def distance(request: pytest.FixtureRequest) -> Any:
    return request.param


def opened(kind: str, path: Path) -> AbstractContextManager[VectorClient]:
    """Open an engine; `memory`: what a server is sent, answered by qdrant-client itself."""
    if kind == "memory":
        return closing(ServerClient(lambda: QdrantClient(":memory:")))
    return engine(path, kind).open()


@pytest.fixture(scope="module")
def served(kind: str, distance: Any, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    name = f"ft_test_{uuid.uuid4().hex[:12]}"
    with opened(kind, tmp_path_factory.mktemp(kind)) as client:
        client.create(name, Serving(dimension=DIMENSION, distance=distance), {})
        for start in range(0, PASSAGES, BATCH):
            numbers = range(start, start + BATCH)
            payloads = [{"tenant": f"t{n % TENANTS}"} for n in numbers]
            rows = slice(start, start + BATCH)
            client.upsert(name, Points([key(n) for n in numbers], CORPUS.dense[rows], CORPUS.sparse[rows], payloads))
        client.index(name)
        yield Served(client, name, distance, QUESTIONS[kind])
        client.drop(name)


def share_exact(answers: list[list[Scored]], fusion: Fusion, tenant: int | None = None) -> float:
    """Return the share of questions whose answer is the ten best by definition, up to ties, with their scores."""
    asked = slice(0, len(answers))
    chosen = np.arange(PASSAGES) if tenant is None else np.arange(tenant, PASSAGES, TENANTS)
    dense = ASKED.dense[asked] @ CORPUS.dense[chosen].T
    scores = fuse(fusion, dense, ASKED.wide[asked] @ CORPUS.wide[chosen].T)
    places = {key(int(n)): column for column, n in enumerate(chosen)}
    same = 0
    for row, answer in zip(scores, answers, strict=True):
        best = np.sort(row)[::-1][:10]
        found = [point.score for point in answer]
        mine = row[[places[point.id] for point in answer]]
        same += len(answer) == 10 and np.allclose(found, best, atol=1e-4) and np.allclose(mine, best, atol=1e-4)
    return same / len(answers)


@pytest.mark.parametrize(
    ("method", "weight"),
    [*(("weighted_sum", weight) for weight in (0.1, 0.3, 1.0, 3.0)), ("dbsf", 1.0), ("rrf", 1.0)],
)
def test_the_ten_best_are_those_by_definition(served: Served, method: Any, weight: float) -> None:
    if (served.distance, method) == ("euclid", "dbsf"):
        with pytest.raises(ValidationError, match="reverse order"):
            RetrievalSettings(distance="euclid", fusion="dbsf")
        return
    fusion = Fusion(fusion=method, dense_weight=1.0, sparse_weight=weight, prefetch_limit=100)
    assert share_exact(served.answers(fusion), fusion) >= 0.99


def test_they_are_among_the_points_that_meet_a_condition(served: Served) -> None:
    fusion = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=1.0, prefetch_limit=100)
    answers = served.answers(fusion, (Condition("tenant", "=", "t1"),))
    assert share_exact(answers, fusion, tenant=1) >= 0.99


def test_a_question_without_a_term_is_ranked_by_the_dense_arm(served: Served) -> None:
    empty = (np.empty(0, np.int32), np.empty(0, np.float32))
    for method in ("weighted_sum", "rrf"):
        fusion = Fusion(fusion=method, dense_weight=1.0, sparse_weight=1.0, prefetch_limit=100)
        query = Query(ASKED.dense[0].tolist(), empty, "fused", 10, fusion=fusion, distance=served.distance)
        (found,) = served.client.query(served.name, [query])
        nearest = np.argsort(-(CORPUS.dense @ ASKED.dense[0]))[:10]
        assert [point.id for point in found] == [key(int(n)) for n in nearest]
