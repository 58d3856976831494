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
from ft_assets.corpus.payload import read_payload
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.collection import passage_versions, payload_labels, point_id, version_of
from ft_assets.retrieval.vectors import VECTORS_FILE, VectorRow, read_vectors
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


def audit(client: VectorClient, name: str, vectors: Artifact, passages: Artifact, contract: EmbeddingContract) -> Audit:
    """Read every point of a collection; compare all vectors, or those of a sample (see the module)."""
    ids = read_columns(vectors.table(VECTORS_FILE), ["passage_id"])["passage_id"]
    wanted, labels = passage_versions(vectors, passages), _labels(passages)
    if len(ids) > ALL_VECTORS:
        versions: dict[str, str] = {}
        for page in client.payloads(name):
            versions |= _versions(page, labels)
        sampled = audit_sample(client, name, vectors, passages, contract, SAMPLED)
        return Audit(wanted, versions, sampled.deviations)
    return _compare(client.scroll(name, _BATCH), read_vectors(vectors), _Expected(wanted, labels, contract))


def audit_sample(  # noqa: PLR0917 - what a collection is made of
    client: VectorClient, name: str, vectors: Artifact, passages: Artifact, contract: EmbeddingContract, size: int
) -> Audit:
    """Read and compare the points of about `size` passages, other ones every hour."""
    chosen = sample(read_columns(vectors.table(VECTORS_FILE), ["passage_id"])["passage_id"], size)
    ids = [point_id(passage) for passage in chosen]
    batches = (client.retrieve(name, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH))
    versions = passage_versions(vectors, passages)
    expected = _Expected({key: versions[key] for key in ids}, _labels(passages), contract)
    return _compare(batches, read_vectors(vectors, only=chosen), expected)


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


class _Expected(NamedTuple):
    """The released or current form of the points that are compared."""

    versions: dict[str, str]
    labels: dict[str, OpenJson]
    """Point id -> the values of its `corpus.payload`; empty without that setting."""
    contract: EmbeddingContract


def _compare(batches: Iterable[Points], vectors: Iterable[VectorRow], expected: _Expected) -> Audit:
    serving = expected.contract.serving
    if serving is None:
        raise ValueError("the contract does not say how the collection is served")
    rows = {point_id(row.passage_id): row for row in vectors}
    versions: dict[str, str] = {}
    deviations: dict[str, float] = {}
    for points in batches:
        versions |= _versions(dict(zip(points.ids, points.payloads, strict=True)), expected.labels)
        for key, dense, sparse in zip(points.ids, points.dense, points.sparse, strict=True):
            if row := rows.pop(key, None):
                deviations[f"{row.passage_id} (dense)"] = _dense_deviation(dense, row.dense, serving)
                deviations[f"{row.passage_id} (sparse)"] = _sparse_deviation(sparse, (row.indices, row.values))
    for row in rows.values():
        deviations |= {f"{row.passage_id} ({arm})": math.inf for arm in ("dense", "sparse")}
    return Audit(expected.versions, versions, deviations)


def _labels(passages: Artifact) -> dict[str, OpenJson]:
    return {point_id(passage): read_payload(label) for passage, label in payload_labels(passages).items()}


def _versions(payloads: Mapping[str, OpenJson], labels: Mapping[str, OpenJson]) -> dict[str, str]:
    return {key: _version(key, payload, labels.get(key, {})) for key, payload in payloads.items()}


def _version(key: str, payload: OpenJson, label: OpenJson) -> str:
    """Return the version of what a point holds. It equals no version where the point contradicts itself."""
    content, passage, recorded = payload.get("content"), payload.get("passage_id"), str(payload.get("version"))
    if not isinstance(content, str) or not isinstance(passage, str) or point_id(passage) != key:
        return "of another passage"
    version = version_of(text_digest(content), payload.get("document_id"), payload.get("heading"))
    if version != recorded.partition(".")[0]:
        return f"{version}, recorded as {recorded}"
    changed = [name for name, value in label.items() if payload.get(name) != value]
    return f"{version}, other values of {', '.join(changed)}" if changed else recorded


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
