"""Asks a collection, dense, lexical or fused: the one way for serving and for evaluation.

Weighted sums are Qdrant formulas over both raw scores. Weights through RRF are not offered: at k = 60 Qdrant's weighted
RRF ranks the lighter arm first where the two disagree.
"""

# qdrant_client takes and gives untyped unions
# pyright: basic
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from expectations.contracts.embedding import EmbeddingContract
from expectations.violations import Refused, Violation
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.collection import DENSE, SPARSE

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from ft_assets.embedding.model import Encoded

Arm = Literal["dense", "sparse", "fused"]
_BATCH = 64  # queries in one request


class Point(NamedTuple):
    """One answer of the engine: its id, its score, its payload."""

    id: str
    score: float
    payload: dict[str, Any]


def ask(
    client: QdrantClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    limit: int,
    payload: Sequence[str] = ("passage_id",),
) -> list[list[Point]]:
    """The best `limit` points for each query. Raises Refused (FT-RET-005) on queries of another dimension."""
    from qdrant_client import models

    dense = _cut(queries.dense, contract, name)
    wanted = models.PayloadSelectorInclude(include=list(payload))
    requests = [
        models.QueryRequest(limit=limit, with_payload=wanted, **_query(models, contract, arm, vector, sparse))
        for vector, sparse in zip(dense.tolist(), queries.sparse, strict=True)
    ]
    answers: list[list[Point]] = []
    for start in range(0, len(requests), _BATCH):
        for answer in client.query_batch_points(name, requests[start : start + _BATCH]):
            answers.append([Point(str(p.id), float(p.score), p.payload or {}) for p in answer.points])
    return answers


def arm_scores(
    client: QdrantClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    ids: Sequence[Sequence[str]],
) -> list[dict[str, float]]:
    """The raw score of one arm for the given points of each query (points that it does not score are left out)."""
    from qdrant_client import models

    dense = _cut(queries.dense, contract, name)
    requests = [
        models.QueryRequest(
            limit=max(len(mine), 1), with_payload=False,
            filter=models.Filter(must=[models.HasIdCondition(has_id=list(mine))]),
            **_query(models, contract, arm, vector, sparse),
        )
        for vector, sparse, mine in zip(dense.tolist(), queries.sparse, ids, strict=True)
    ]  # fmt: skip
    return [{str(p.id): float(p.score) for p in answer.points} for answer in client.query_batch_points(name, requests)]


def _query(models: Any, contract: EmbeddingContract, arm: Arm, dense: list[float], sparse: Any) -> dict[str, Any]:
    """One arm's query, or the fused query with both arms as its prefetch."""
    lexical = models.SparseVector(indices=sparse[0].tolist(), values=sparse[1].tolist())
    if arm == "dense":
        return {"query": dense, "using": DENSE}
    if arm == "sparse":
        return {"query": lexical, "using": SPARSE}
    fusion, serving = contract.fusion, contract.serving
    if fusion is None or serving is None:
        raise ValueError("fusing needs a contract that says how")
    # the limit is always said: the engine's own default is 10, and beyond it an arm counts 0
    prefetch = [
        models.Prefetch(query=dense, using=DENSE, limit=fusion.prefetch_limit),
        models.Prefetch(query=lexical, using=SPARSE, limit=fusion.prefetch_limit),
    ]
    if fusion.fusion != "weighted_sum":
        return {"prefetch": prefetch, "query": models.FusionQuery(fusion=models.Fusion(fusion.fusion))}
    score: Any = "$score[0]"
    missing = 0.0
    if serving.distance == "euclid":
        # unit vectors: the cosine is 1 - d²/2, so that a smaller distance counts more and an unseen point counts 0
        score = models.SumExpression(sum=[1.0, models.MultExpression(mult=[-0.5, score, score])])
        missing = math.sqrt(2)
    formula = models.SumExpression(
        sum=[
            models.MultExpression(mult=[fusion.dense_weight, score]),
            models.MultExpression(mult=[fusion.sparse_weight, "$score[1]"]),
        ]
    )
    defaults = {"$score[0]": missing, "$score[1]": 0.0}
    return {"prefetch": prefetch, "query": models.FormulaQuery(formula=formula, defaults=defaults)}


def _cut(dense: np.ndarray, contract: EmbeddingContract, name: str) -> np.ndarray:
    width, full = contract.serving.dimension if contract.serving else 0, contract.dense.dimensions[0]
    if dense.shape[1] not in (full, width):
        raise Refused(
            f"querying {name}",
            [
                Violation(
                    code="FT-RET-005", where=name, message="the query has another dimension than the collection.",
                    field="dimension", found=dense.shape[1], expected=sorted({full, width}),
                    mend="encode queries with the model that the collection's contract names",
                )
            ],
        )  # fmt: skip
    return truncate(dense, width)
