"""Queries a collection, dense, lexical or fused. Serving and evaluation both use it, on every engine.

RRF takes no weights here: at k = 60, Qdrant's weighted RRF ranks the arm of less weight first where the two disagree.
"""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from expectations.contracts.embedding import EmbeddingContract
from expectations.violations import Refused, violation
from ft_assets.embedding.truncate import truncate
from resources.engines.protocol import Arm, Condition, Query, Scored, VectorClient

if TYPE_CHECKING:
    from ft_assets.embedding.model import Encoded


def ask(
    client: VectorClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    limit: int,
    payload: Sequence[str] = ("passage_id",),
    where: Sequence[Condition] = (),
) -> list[list[Scored]]:
    """Return the best `limit` points for each query. Raises Refused (FT-RET-005) on queries of another dimension."""
    if contract.serving is None or (arm == "fused" and contract.fusion is None):
        raise ValueError("a query needs a contract that says how the collection is served")
    dense, storage = _served_vectors(queries.dense, contract, name).tolist(), contract.serving.storage
    requests = [
        Query(
            vector,
            sparse,
            arm,
            limit,
            payload=tuple(payload),
            fusion=contract.fusion,
            distance=contract.serving.distance,
            where=tuple(where),
            oversampling=storage.oversampling if storage else None,
        )
        for vector, sparse in zip(dense, queries.sparse, strict=True)
    ]
    return client.query(name, requests)


def arm_scores(
    client: VectorClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    ids: Sequence[Sequence[str]],
) -> list[dict[str, float]]:
    """Return the raw score of one arm for the given points of each query. Points without a score are left out."""
    dense = _served_vectors(queries.dense, contract, name).tolist()
    requests = [
        Query(vector, sparse, arm, max(len(points), 1), ids=tuple(points))
        for vector, sparse, points in zip(dense, queries.sparse, ids, strict=True)
    ]
    return [{point.id: point.score for point in answer} for answer in client.query(name, requests)]


def _served_vectors(dense: np.ndarray, contract: EmbeddingContract, name: str) -> np.ndarray:
    width, full = contract.serving.dimension if contract.serving else 0, contract.dense.dimensions[0]
    if dense.shape[1] not in (full, width):
        found, expected = dense.shape[1], sorted({full, width})
        other = violation("FT-RET-005", where=name, field="dimension", found=found, expected=expected)
        raise Refused(f"querying {name}", [other])
    return truncate(dense, width)
