"""Rankings from exact scores, without an engine: the quality of a model, apart from how it is served."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.embedding.model import Encoded, SparseVector
from resources.engines.fusion import fuse

_DEPTH = 100
_QUERIES, _PASSAGES = 256, 4096  # rows of one block
_SCORES = 2**25  # of one block and arm, at most: 128 MB


def score_blocks(queries: Encoded, passages: Encoded) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield for each block of queries its rows, dense scores and lexical scores [B, N].

    The memory needed does not grow with the number of queries, nor, beyond 131,072, with that of passages.
    """
    size = max(1, min(_QUERIES, _SCORES // max(1, len(passages.sparse))))
    for start in range(0, len(queries.sparse), size):
        rows = slice(start, start + size)
        dense = queries.dense[rows] @ passages.dense.T
        yield rows, dense, lexical_scores(queries.sparse[rows], passages.sparse)


def lexical_scores(queries: Sequence[SparseVector], passages: Sequence[SparseVector]) -> np.ndarray:
    """Return inner products [Q, N]. Only tokens of the queries are used: all others add 0."""
    tokens = np.unique(np.concatenate([ids for ids, _ in queries])) if queries else np.empty(0, np.int32)
    left = _to_rows(queries, tokens)
    blocks = [left @ _to_rows(passages[n : n + _PASSAGES], tokens).T for n in range(0, len(passages), _PASSAGES)]
    return np.concatenate(blocks, axis=1) if blocks else np.empty((len(queries), 0), np.float32)


def best(scores: np.ndarray, ids: Sequence[str], depth: int = _DEPTH) -> list[list[str]]:
    """Return at most `depth` ids for each row, highest score first; equal scores stay in the corpus's order."""
    ranking = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return [[str(ids[column]) for column in row] for row in ranking]


def rank_arms(queries: Encoded, passages: Encoded, ids: Sequence[str], fusion: Fusion) -> dict[str, list[list[str]]]:
    """Return the `dense`, the `sparse` and the `fused` ranking of every query."""
    rankings: dict[str, list[list[str]]] = {"dense": [], "sparse": [], "fused": []}
    for _, dense, lexical in score_blocks(queries, passages):
        rankings["dense"] += best(dense, ids)
        rankings["sparse"] += best(lexical, ids)
        rankings["fused"] += best(fuse(fusion, dense, lexical), ids)
    return rankings


def rank_bm25(
    contents: Sequence[str], ids: Sequence[str], queries: Sequence[str], settings: Bm25Settings
) -> list[list[str]]:
    """Return the ranking of BM25 for every query: what a search without any model would find."""
    passages, bm25 = index_bm25(contents, settings)
    ranked: list[list[str]] = []
    for start in range(0, len(queries), _QUERIES):
        weights = sparse_queries(bm25, queries[start : start + _QUERIES])
        ranked += best(lexical_scores(weights, passages), ids)
    return ranked


def _to_rows(vectors: Sequence[SparseVector], tokens: np.ndarray) -> np.ndarray:
    """Return sparse vectors as rows with one column for each of `tokens`. [N, tokens]"""
    wide = np.zeros((len(vectors), len(tokens)), dtype=np.float32)
    for row, (ids, weights) in enumerate(vectors):
        kept = np.isin(ids, tokens)
        wide[row, np.searchsorted(tokens, ids[kept])] = weights[kept]
    return wide
