"""Rankings from exact scores, without an engine: the quality of a model, apart from how it is served.

The corpus comes in blocks, in its order, and only the best passages of each question are kept: the memory needed grows
with the number of questions, and not with that of passages.
"""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.sparse import SparseRows, SparseVector
from resources.engines.fusion import fuse
from resources.parquet import BLOCK

DEPTH = 100
_QUERIES = 256  # questions of one block

Blocks = Iterable[Encoded]
"""The vectors of a corpus, in consecutive parts."""
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Dense and lexical scores [Q, N] -> the scores to rank by."""


class ScoreBlock(NamedTuple):
    """The scores [Q, N] of some questions and some passages, of which the first has this number."""

    queries: slice
    first: int
    dense: np.ndarray
    lexical: np.ndarray


def in_blocks(passages: Encoded) -> Iterator[Encoded]:
    """Yield vectors that are in memory in blocks."""
    for start in range(0, len(passages.sparse), BLOCK):
        rows = slice(start, start + BLOCK)
        yield Encoded(passages.dense[rows], passages.sparse[rows], 0)


def score_blocks(queries: Encoded, passages: Blocks) -> Iterator[ScoreBlock]:
    """Yield the scores of every question and passage: the blocks of the corpus in order, each for all questions."""
    asked = [slice(start, start + _QUERIES) for start in range(0, len(queries.sparse), _QUERIES)]
    terms = [_Terms(queries.sparse[rows]) for rows in asked]
    first = 0
    for block in passages:
        sparse = SparseRows.of(block.sparse)
        for rows, known in zip(asked, terms, strict=True):
            yield ScoreBlock(rows, first, queries.dense[rows] @ block.dense.T, known.scores(sparse))
        first += len(sparse)


def lexical_scores(queries: Sequence[SparseVector], passages: Sequence[SparseVector]) -> np.ndarray:
    """Return inner products [Q, N]."""
    terms = _Terms(queries)
    blocks = [terms.scores(SparseRows.of(passages[n : n + BLOCK])) for n in range(0, len(passages), BLOCK)]
    return np.concatenate(blocks, axis=1) if blocks else np.empty((len(queries), 0), np.float32)


class _Terms:
    """Questions as rows with one column for each of their tokens: all other tokens of a passage add 0."""

    def __init__(self, queries: Sequence[SparseVector]) -> None:
        self._tokens = np.unique(np.concatenate([ids for ids, _ in queries])) if queries else np.empty(0, np.int32)
        self._rows = SparseRows.of(queries).wide(self._tokens)

    def scores(self, passages: SparseRows) -> np.ndarray:
        return self._rows @ passages.wide(self._tokens).T


class Top:
    """The best `depth` passages of each question so far; of equal scores those that come first in the corpus."""

    def __init__(self, queries: int, depth: int) -> None:
        self.scores = np.full((queries, depth), -np.inf, np.float32)
        self._rows = np.full((queries, depth), -1, np.int64)  # -1: nothing yet
        self._others = np.zeros((queries, depth), np.float32)

    def add(self, queries: slice, first: int, scores: np.ndarray, others: np.ndarray | None = None) -> None:
        """Take the scores [Q, N] of these questions, of passages that follow those before; keep `others` with them.

        A score that is not a number ranks below all others.
        """
        scores = np.where(np.isnan(scores), -np.inf, scores)  # no comparison with it is true
        kept = self.scores[queries]
        depth = kept.shape[1]
        wanted = scores > kept[:, -1:]
        if scores.shape[1] > depth and self._rows[queries, -1].min() < 0:  # else nearly all would be sorted
            wanted &= scores >= -np.partition(-scores, depth - 1, axis=1)[:, depth - 1 : depth]
        asked, columns = np.nonzero(wanted)
        if not len(asked):
            return
        owners = np.concatenate([np.repeat(np.arange(len(kept)), depth), asked])
        values = np.concatenate([kept.ravel(), scores[asked, columns]])
        rows = np.concatenate([self._rows[queries].ravel(), first + columns])
        order = np.lexsort((rows, -values, owners))
        starts = np.searchsorted(owners[order], np.arange(len(kept)))
        best = order[starts[:, None] + np.arange(depth)]
        self.scores[queries], self._rows[queries] = values[best], rows[best]
        if others is not None:
            self._others[queries] = np.concatenate([self._others[queries].ravel(), others[asked, columns]])[best]

    def rows(self) -> list[np.ndarray]:
        """Return the numbers of the passages, best first, for each question."""
        return [found[found >= 0] for found in self._rows]

    def pairs(self, query: int) -> dict[int, tuple[float, float]]:
        """Return number -> its score and the other one, for one question."""
        found = zip(self._rows[query].tolist(), self.scores[query], self._others[query], strict=True)
        return {row: (score, other) for row, score, other in found if row >= 0}


class _Candidates:
    """The ranking of a fusion that looks at the best passages of each arm only (`dbsf`, `rrf`)."""

    def __init__(self, fusion: Fusion, queries: int) -> None:
        self._fusion = fusion
        self._dense, self._lexical = Top(queries, fusion.prefetch_limit), Top(queries, fusion.prefetch_limit)

    def add(self, block: ScoreBlock) -> None:
        self._dense.add(block.queries, block.first, block.dense, block.lexical)
        self._lexical.add(block.queries, block.first, block.lexical, block.dense)

    def rows(self, depth: int) -> list[np.ndarray]:
        return [self._rank(query, depth) for query in range(len(self._dense.scores))]

    def _rank(self, query: int, depth: int) -> np.ndarray:
        found = {row: (dense, lexical) for row, (lexical, dense) in self._lexical.pairs(query).items()}
        found |= self._dense.pairs(query)
        rows = np.array(sorted(found), np.int64)
        dense, lexical = (np.array([found[row][arm] for row in rows.tolist()], np.float32)[None] for arm in (0, 1))
        fused = fuse(self._fusion, dense, lexical)[0]
        return rows[np.argsort(-fused, kind="stable")[:depth]]


def rank(
    queries: Encoded, passages: Blocks, methods: Mapping[str, Fusion | Scorer], depth: int = DEPTH
) -> dict[str, list[np.ndarray]]:
    """Return for each method the numbers of at most `depth` passages of each question, best first."""
    count = len(queries.sparse)
    sums = {name: _scorer(method) for name, method in methods.items() if _is_by_point(method)}
    tops = {name: Top(count, depth) for name in sums}
    others = {name: _Candidates(method, count) for name, method in methods.items() if isinstance(method, Fusion)}
    others = {name: candidates for name, candidates in others.items() if name not in sums}
    for block in score_blocks(queries, passages):
        for name, scorer in sums.items():
            tops[name].add(block.queries, block.first, scorer(block.dense, block.lexical))
        for candidates in others.values():
            candidates.add(block)
    found = {name: top.rows() for name, top in tops.items()}
    found |= {name: candidates.rows(depth) for name, candidates in others.items()}
    return {name: found[name] for name in methods}


def _is_by_point(method: Fusion | Scorer) -> bool:
    """Return whether the score of a passage depends on no other passage."""
    return not isinstance(method, Fusion) or method.fusion == "weighted_sum"


def _scorer(method: Fusion | Scorer) -> Scorer:
    return (lambda dense, lexical: fuse(method, dense, lexical)) if isinstance(method, Fusion) else method


def dense_alone(dense: np.ndarray, _lexical: np.ndarray) -> np.ndarray:
    """Return the dense scores, as a method of `rank`."""
    return dense


def lexical_alone(_dense: np.ndarray, lexical: np.ndarray) -> np.ndarray:
    """Return the lexical scores, as a method of `rank`."""
    return lexical


def named(rows: Iterable[np.ndarray], ids: Sequence[str]) -> list[list[str]]:
    """Return the ids of ranked passages."""
    return [[str(ids[row]) for row in found.tolist()] for found in rows]


def rank_arms(queries: Encoded, passages: Blocks, ids: Sequence[str], fusion: Fusion) -> dict[str, list[list[str]]]:
    """Return the `dense`, the `sparse` and the `fused` ranking of every query."""
    methods: dict[str, Fusion | Scorer] = {"dense": dense_alone, "sparse": lexical_alone, "fused": fusion}
    return {name: named(rows, ids) for name, rows in rank(queries, passages, methods).items()}


def rank_bm25(
    contents: Sequence[str], ids: Sequence[str], queries: Sequence[str], settings: Bm25Settings
) -> list[list[str]]:
    """Return the ranking of BM25 for every query: what a search without any model would find."""
    passages, bm25 = index_bm25(contents, settings)
    return named(rank_lexical(sparse_queries(bm25, queries), passages, DEPTH), ids)


def rank_lexical(queries: Sequence[SparseVector], passages: SparseRows, depth: int) -> list[np.ndarray]:
    """Return the numbers of the `depth` passages with the highest inner product for each question."""
    nothing = np.empty((max(len(queries), len(passages)), 0), np.float32)
    asked, corpus = Encoded(nothing[: len(queries)], list(queries), 0), Encoded(nothing[: len(passages)], passages, 0)
    return rank(asked, in_blocks(corpus), {"lexical": lexical_alone}, depth)["lexical"]
