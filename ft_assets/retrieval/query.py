"""Queries a collection, dense, lexical or fused. Serving and evaluation both use it, on every engine.

RRF takes no weights here: at k = 60, Qdrant's weighted RRF ranks the arm of less weight first where the two disagree.
"""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expectations.contracts.embedding import EmbeddingContract
from expectations.violations import Refused, violation
from ft_assets.embedding.truncate import truncate
from resources.engines.protocol import Arm, Condition, Query, Scored, VectorClient

if TYPE_CHECKING:
    from ft_assets.embedding.model import Encoded
    from resources.cross_encoder import CrossScorer


TOLERANCE = 1e-4
"""Difference of scores that counts as none: engines round in their own ways."""


class Reranking(NamedTuple):
    """The model that ranks again, and the questions as text."""

    model: CrossScorer
    texts: Sequence[str]
    batch_size: int = 32


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
    reranking: Reranking | None = None,
) -> list[list[Scored]]:
    """Return the best `limit` points for each query.

    Raises Refused: FT-RET-005 queries of another dimension, FT-RET-015 the contract has a rerank model and none is
    given.
    """
    fusion = contract.fusion
    if arm != "fused" or fusion is None or fusion.rerank is None:
        return candidates(client, name, contract, queries, arm, limit=limit, payload=payload, where=where)
    if reranking is None:
        rerank = fusion.rerank
        none = violation("FT-RET-015", where=name, field=rerank.model, found="none", expected=rerank.version)
        raise Refused(f"querying {name}", [none])
    depth, names = max(limit, fusion.rerank.top_n), (*payload, "content")
    found = candidates(client, name, contract, queries, arm, limit=depth, payload=names, where=where)
    return [points[:limit] for points in rank_again(found, fusion.rerank.top_n, reranking)]


def rank_again(found: Sequence[Sequence[Scored]], top_n: int, reranking: Reranking) -> list[list[Scored]]:
    """Return the points of each query with the first `top_n` in the order of the model; they carry its scores.

    Each has `content` in its payload. Of equal scores the first one stays first; a text in another batch may have a
    score that differs after the fifth decimal, which counts as equal.
    """
    questions = zip(reranking.texts, found, strict=True)
    pairs = [[(text, str(point.payload["content"])) for point in points[:top_n]] for text, points in questions]
    scores = iter(reranking.model.score([*chain.from_iterable(pairs)], reranking.batch_size).tolist())
    ranked: list[list[Scored]] = []
    for points in found:
        best = [point._replace(rerank=next(scores)) for point in points[:top_n]]
        ranked.append([*sorted(best, key=lambda point: -round(point.rerank or 0.0, 5)), *points[top_n:]])
    return ranked


def candidates(
    client: VectorClient,
    name: str,
    contract: EmbeddingContract,
    queries: Encoded,
    arm: Arm,
    *,
    limit: int,
    payload: Sequence[str] = ("passage_id",),
    where: Sequence[Condition] = (),
    exact: bool = False,
) -> list[list[Scored]]:
    """Return the best `limit` points for each query, before any rerank model. Raises Refused as `ask` does.

    `exact`: compare with every point, by the exact vectors.
    """
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
            exact=exact,
            oversampling=storage.oversampling if storage else None,
        )
        for vector, sparse in zip(dense, queries.sparse, strict=True)
    ]
    return client.query(name, requests)


def count_equal(exact: Sequence[Scored], found: Sequence[Scored]) -> int:
    """Return how many of the best answers another ranking has too. A tie with the last one counts as equal."""
    common = {point.id for point in exact} & {point.id for point in found}
    last = exact[-1].score if exact else 0.0
    tied = sum(abs(point.score - last) <= TOLERANCE for point in found if point.id not in common)
    return min(len(common) + tied, len(exact))


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
        Query(vector, sparse, arm, max(len(points), 1), ids=tuple(points), exact=True)
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
