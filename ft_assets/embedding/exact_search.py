"""Rankings from exact scores, without an engine: what a model can do, apart from how it is served."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ft_assets.embedding.model import Encoded, SparseVector

DEPTH = 100
_QUERIES, _PASSAGES = 256, 4096  # rows of one block


def score_blocks(queries: Encoded, passages: Encoded) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each block of queries its rows, dense scores and lexical scores [B, N]; memory is flat in the queries."""
    for start in range(0, len(queries.sparse), _QUERIES):
        rows = slice(start, start + _QUERIES)
        dense = queries.dense[rows] @ passages.dense.T
        yield rows, dense, lexical_scores(queries.sparse[rows], passages.sparse)


def lexical_scores(queries: Sequence[SparseVector], passages: Sequence[SparseVector]) -> np.ndarray:
    """Inner products [Q, N], over the tokens that some query has: the others count for nothing."""
    tokens = np.unique(np.concatenate([ids for ids, _ in queries])) if queries else np.empty(0, np.int32)
    left = _spread(queries, tokens)
    blocks = [left @ _spread(passages[n : n + _PASSAGES], tokens).T for n in range(0, len(passages), _PASSAGES)]
    return np.concatenate(blocks, axis=1) if blocks else np.empty((len(queries), 0), np.float32)


def best(scores: np.ndarray, ids: Sequence[str], depth: int = DEPTH) -> list[list[str]]:
    """Ids by falling score, at most `depth`; equal scores stay in the corpus's order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return [[str(ids[column]) for column in row] for row in order]


def rank_arms(
    queries: Encoded, passages: Encoded, ids: Sequence[str], dense_weight: float, sparse_weight: float
) -> dict[str, list[list[str]]]:
    """The `dense`, the `sparse` and the `fused` (weighted sum) ranking of every query."""
    made: dict[str, list[list[str]]] = {"dense": [], "sparse": [], "fused": []}
    for _, dense, lexical in score_blocks(queries, passages):
        made["dense"] += best(dense, ids)
        made["sparse"] += best(lexical, ids)
        made["fused"] += best(dense_weight * dense + sparse_weight * lexical, ids)
    return made


def _spread(vectors: Sequence[SparseVector], tokens: np.ndarray) -> np.ndarray:
    """Sparse vectors as rows over `tokens` alone. [N, tokens]"""
    wide = np.zeros((len(vectors), len(tokens)), dtype=np.float32)
    for row, (ids, weights) in enumerate(vectors):
        kept = np.isin(ids, tokens)
        wide[row, np.searchsorted(tokens, ids[kept])] = weights[kept]
    return wide
