"""Asks a collection, dense, lexical or fused: the one way for serving and for evaluation, on every engine.

Weights through RRF are not offered: at k = 60 Qdrant's weighted RRF ranks the lighter arm first where the two disagree.
"""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from expectations.contracts.embedding import EmbeddingContract
from expectations.violations import Refused, Violation
from ft_assets.embedding.truncate import truncate
from resources.engines.protocol import Arm, Query, Scored, VectorClient

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
) -> list[list[Scored]]:
    """The best `limit` points for each query. Raises Refused (FT-RET-005) on queries of another dimension."""
    if contract.serving is None or (arm == "fused" and contract.fusion is None):
        raise ValueError("asking needs a contract that says how it is served")
    dense = _cut(queries.dense, contract, name).tolist()
    asked = [
        Query(vector, sparse, arm, limit, tuple(payload), None, contract.fusion, contract.serving.distance)
        for vector, sparse in zip(dense, queries.sparse, strict=True)
    ]
    return client.query(name, asked)


def arm_scores(
    client: VectorClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    ids: Sequence[Sequence[str]],
) -> list[dict[str, float]]:
    """The raw score of one arm for the given points of each query (points that it does not score are left out)."""
    dense = _cut(queries.dense, contract, name).tolist()
    asked = [
        Query(vector, sparse, arm, max(len(mine), 1), ids=tuple(mine))
        for vector, sparse, mine in zip(dense, queries.sparse, ids, strict=True)
    ]
    return [{point.id: point.score for point in found} for found in client.query(name, asked)]


def _cut(dense: np.ndarray, contract: EmbeddingContract, name: str) -> np.ndarray:
    width, full = contract.serving.dimension if contract.serving else 0, contract.dense.dimensions[0]
    if dense.shape[1] not in (full, width):
        raise Refused(
            f"querying {name}",
            [
                Violation(
                    code="FT-RET-005", where=name, message="the query has another dimension than the collection.",
                    field="dimension", found=dense.shape[1], expected=sorted({full, width}),
                    fix="encode queries with the model that the collection's contract names",
                )
            ],
        )  # fmt: skip
    return truncate(dense, width)
