"""Compares the points of a collection with the vectors that they were built from.

The texts of all points are read: their hash must be the one that the point and passage_vectors record. The vectors of
all points are compared up to 20,000 of them, beyond that those of a sample that changes from hour to hour.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from expectations.canonical import text_digest
from expectations.contracts.embedding import EmbeddingContract, Serving
from expectations.rules import retrieval as rules
from expectations.violations import Violation
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.collection import passage_versions, point_id, version_of
from ft_assets.retrieval.vectors import VECTORS_FILE, read_vectors
from resources.artifacts import Artifact
from resources.engines.protocol import OpenJson, Points, VectorClient
from resources.parquet import read_columns

ALL_VECTORS = 20_000
SAMPLED = 2_000
_BATCH = 256
_HOUR = 3600
_SparsePair = tuple[np.ndarray, np.ndarray]


class Audit(NamedTuple):
    """The points of a collection as they are."""

    wanted: dict[str, str]
    """Point id -> version of its passage, for the passages that were looked for."""
    versions: dict[str, str]
    """Point id -> version of the text and the fields that the point holds now."""
    deviations: dict[str, float]
    """Passage and arm -> largest difference between a number of the stored vector and the encoded one."""


def audit(client: VectorClient, name: str, vectors: Artifact, contract: EmbeddingContract) -> Audit:
    """Read every point of a collection; compare all vectors, or those of a sample (see the module)."""
    passages = read_columns(vectors.file(VECTORS_FILE), ["passage_id"])["passage_id"]
    if len(passages) > ALL_VECTORS:
        versions: dict[str, str] = {}
        for page in client.payloads(name):
            versions |= _versions(page)
        sampled = audit_sample(client, name, vectors, contract, sample(passages, SAMPLED))
        return Audit(passage_versions(vectors), versions, sampled.deviations)
    return _compare(client.scroll(name, _BATCH), vectors, contract, None)


def audit_sample(
    client: VectorClient, name: str, vectors: Artifact, contract: EmbeddingContract, passages: Collection[str]
) -> Audit:
    """Read and compare the points of these passages only."""
    ids = [point_id(passage) for passage in passages]
    batches = (client.retrieve(name, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH))
    return _compare(batches, vectors, contract, passages)


def sample(passages: Collection[str], size: int) -> set[str]:
    """Return about `size` of the passages: other ones every hour, all of them in turn."""
    parts = max(len(passages) // size, 1)
    turn = int(time.time() // _HOUR) % parts
    return {passage for passage in passages if int(point_id(passage)[:8], 16) % parts == turn}


def point_violations(name: str, audited: Audit) -> list[Violation]:
    """Return violations for points that are missing, of no passage, or not as they were built (FT-COL-007, -004)."""
    return [
        *rules.points_are_current(name, audited.wanted, audited.versions),
        *rules.stored_vectors_match(name, audited.deviations),
    ]


def _compare(
    batches: Iterable[Points], vectors: Artifact, contract: EmbeddingContract, passages: Collection[str] | None
) -> Audit:
    serving = contract.serving
    if serving is None:
        raise ValueError("the contract does not say how the collection is served")
    rows = {point_id(row.passage_id): row for row in read_vectors(vectors, only=passages)}
    wanted = {key: version_of(row.content_sha256, row.document_id, row.heading) for key, row in rows.items()}
    versions: dict[str, str] = {}
    deviations: dict[str, float] = {}
    for points in batches:
        versions |= _versions(dict(zip(points.ids, points.payloads, strict=True)))
        for key, dense, sparse in zip(points.ids, points.dense, points.sparse, strict=True):
            if row := rows.pop(key, None):
                deviations[f"{row.passage_id} (dense)"] = _dense_deviation(dense, row.dense, serving)
                deviations[f"{row.passage_id} (sparse)"] = _sparse_deviation(sparse, (row.indices, row.values))
    for row in rows.values():
        deviations |= {f"{row.passage_id} ({arm})": math.inf for arm in ("dense", "sparse")}
    return Audit(wanted, versions, deviations)


def _versions(payloads: Mapping[str, OpenJson]) -> dict[str, str]:
    return {key: _version(key, payload) for key, payload in payloads.items()}


def _version(key: str, payload: OpenJson) -> str:
    """Return the version of what a point holds. It equals no version where the point contradicts itself."""
    content, passage = payload.get("content"), payload.get("passage_id")
    if not isinstance(content, str) or not isinstance(passage, str) or point_id(passage) != key:
        return "of another passage"
    version = version_of(text_digest(content), payload.get("document_id"), payload.get("heading"))
    recorded = payload.get("version")
    return version if version == recorded else f"{version}, recorded as {recorded}"


def _dense_deviation(stored: np.ndarray, encoded: np.ndarray, serving: Serving) -> float:
    expected = truncate(encoded[None, :], serving.dimension)[0]
    if stored.shape != expected.shape:
        return math.inf
    if serving.distance == "cosine":  # the engine stores directions only
        stored, expected = (vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in (stored, expected))
    return float(np.abs(stored - expected).max(initial=0.0))


def _sparse_deviation(stored: _SparsePair, encoded: _SparsePair) -> float:
    (left, left_values), (right, right_values) = (_sorted(*pair) for pair in (stored, encoded))
    if not np.array_equal(left, right):
        return math.inf
    return float(np.abs(left_values - right_values).max(initial=0.0))


def _sorted(indices: np.ndarray, values: np.ndarray) -> _SparsePair:
    order = np.argsort(indices)
    return indices[order], values[order]
