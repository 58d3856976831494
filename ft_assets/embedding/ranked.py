"""The corpus as a training ranks it: by BM25, which needs no training, and by the encoder as far as it has come."""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from expectations.rules.ranking_metrics import measure
from ft_assets.embedding.exact_search import dense_alone, in_blocks, lexical_scores, named, rank, rank_lexical
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.negatives import mine_negatives
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.sparse import SparseVector

MOST = 20_000
"""Passages that are encoded to rank questions; of a larger corpus those that matter most, and an even sample."""
LEARNED_WEIGHT = 0.3
"""Weight of the learned lexical score next to the dense one (1.0): BGE-M3's."""
_NEAR = 10  # passages of a larger corpus that are kept for each question because BM25 finds them
_BLOCK = 256  # questions
# The usual rules: BM25 only proposes here, so the rules of `retrieval` need not change what is trained.
_BM25 = Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75)


class Ranked(NamedTuple):
    """nDCG@10 of each validation question: of the dense arm, and fused with the lexical one."""

    dense: list[float]
    fused: list[float]


class RankedCorpus:
    """The passages that a training reads, and their rankings."""

    def __init__(self, passages: Passages, questions: Sequence[Questions]) -> None:
        """`questions`: all that will be ranked. A larger corpus is reduced to what they need."""
        self.sparse, self._queries = index_bm25(passages.contents, _BM25)
        self.bm25 = self._queries.bm25
        self.passages = passages
        self.row_of = {passage: row for row, passage in enumerate(passages.ids)}
        if len(passages.ids) > MOST:
            rows = self._needed(questions)
            self.passages, self.sparse = passages.take(rows), self.sparse.take(rows)
            self.row_of = {passage: row for row, passage in enumerate(self.passages.ids)}
        self._dense = np.empty((0, 0), np.float32)
        self._learned: Encoded | None = None
        self.weighed: Sequence[SparseVector] = []
        """BM25's weights times the factors of the encoder, if it has some."""

    def content_of(self, passage: str) -> str:
        """Return the text of a passage that is embedded."""
        return self.passages.contents[self.row_of[passage]]

    def answers(self, questions: Questions) -> list[list[str]]:
        """Return for each question the passages to train on: of every judgement the passage that BM25 ranks first.

        A judgement may name a section or a whole document, of which most passages do not answer.
        """
        judged = questions.named or [[[passage] for passage in qrels] for qrels in questions.qrels]
        chosen = [[group[0] for group in groups] for groups in judged]
        # to score a question takes time for each passage of the corpus
        open_ones = [row for row, groups in enumerate(judged) if any(len(group) > 1 for group in groups)]
        for block in _blocks(len(open_ones)):
            rows = open_ones[block]
            texts = [questions.texts[row] for row in rows]
            scores = lexical_scores(sparse_queries(self._queries, texts), self.sparse)
            for row, found in zip(rows, scores, strict=True):
                chosen[row] = [
                    max(group, key=lambda name, found=found: found[self.row_of[name]]) for group in judged[row]
                ]
        return [list(dict.fromkeys(names)) for names in chosen]

    def encode(self, encoder: HybridEncoder) -> None:
        """Take the vectors that the encoder gives the passages now."""
        encoded = encoder.encode(self.passages.contents, "passage", bm25=self.bm25 if encoder.factors else None)
        self._dense, self.weighed = encoded.dense, encoded.sparse
        self._learned = encoded if encoder.head and not encoder.factors else None

    def mine(self, encoder: HybridEncoder, questions: Questions) -> list[list[int]]:
        """Return for each question the rows of the wrong passages that rank highest, dense + BM25."""
        queries = encoder.encode(questions.texts, "query")._replace(
            sparse=sparse_queries(self._queries, questions.texts)
        )
        return mine_negatives(queries, Encoded(self._dense, self.sparse, 0), questions, self.passages, 1.0)

    def weigh(self, questions: Questions) -> list[SparseVector]:
        """Return BM25's weights of the terms of each question."""
        return sparse_queries(self._queries, questions.texts)

    def mine_by_bm25(self, questions: Questions) -> list[list[int]]:
        """Return for each question the rows of the wrong passages that BM25 ranks highest."""
        nothing = np.zeros((max(len(questions.ids), len(self.sparse)), 0), np.float32)
        asked = Encoded(nothing[: len(questions.ids)], self.weigh(questions), 0)
        corpus = Encoded(nothing[: len(self.sparse)], self.sparse, 0)
        return mine_negatives(asked, corpus, questions, self.passages, 1.0)

    def measure(self, encoder: HybridEncoder, questions: Questions, *, factors: bool = False) -> Ranked:
        """Return nDCG@10 of each question, fused as by default: with the learned head if there is one, or with BM25,
        with the encoder's `factors` if they are wanted."""
        queries, corpus, weight = encoder.encode(questions.texts, "query"), self._learned, LEARNED_WEIGHT
        if corpus is None:
            queries = queries._replace(sparse=sparse_queries(self._queries, questions.texts))
            corpus, weight = Encoded(self._dense, self.weighed if factors else self.sparse, 0), 1.0
        methods = {"dense": dense_alone, "fused": lambda dense, lexical: dense + weight * lexical}
        found = rank(queries, in_blocks(corpus), methods)
        rankings = (named(found[arm], self.passages.ids) for arm in Ranked._fields)
        return Ranked(*(measure(questions.qrels, ranked)["ndcg_at_10"] for ranked in rankings))

    def _needed(self, questions: Sequence[Questions]) -> list[int]:
        """Return the rows of all judged passages, of those that BM25 finds for a question, and of an even sample."""
        rows: set[int] = set()
        for asked in questions:
            judged = chain.from_iterable([*asked.qrels, *asked.negatives.values()])
            rows |= {self.row_of[passage] for passage in judged}
        if len(rows) == len(self.row_of):
            return sorted(rows)
        for asked in questions:
            near = rank_lexical(sparse_queries(self._queries, asked.texts), self.sparse, _NEAR)
            rows |= set(np.concatenate([np.empty(0, np.int64), *near]).tolist())
        left = max(MOST - len(rows), 1)
        return sorted(rows | set(np.linspace(0, len(self.row_of) - 1, left).astype(int).tolist()))


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]
