"""Hard negatives: passages that the model ranks high for a training question and that do not answer it."""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from functools import cache

import numpy as np

from ft_assets.datasets.near_duplicates import three_grams
from ft_assets.embedding.exact_search import score_blocks
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.pairs import Passages, Questions

POOL = 30
"""Passages considered for each question, besides the right ones."""
NEARLY_EQUAL = 0.8  # Jaccard similarity of 3-grams, as in datasets.split.near_duplicate


def mine_negatives(
    queries: Encoded, corpus: Encoded, questions: Questions, passages: Passages, sparse_weight: float
) -> list[list[int]]:
    """Return for each question the rows of the wrong passages that score highest, dense + sparse_weight * lexical.

    Leaves out passages judged right, and passages whose text is nearly equal to such a one: they answer it too.
    """
    row_of = {passage: row for row, passage in enumerate(passages.ids)}
    grams_of = cache(lambda row: three_grams(passages.contents[row]))

    def is_answer(candidate: int, right: list[int]) -> bool:
        grams = grams_of(candidate)
        return any(len(grams & grams_of(row)) >= NEARLY_EQUAL * len(grams | grams_of(row)) for row in right)

    negatives: list[list[int]] = []
    for rows, dense, lexical in score_blocks(queries, corpus):
        ranking = np.argsort(-(dense + sparse_weight * lexical), axis=1, kind="stable")
        for qrels, ranked_rows in zip(questions.qrels[rows], ranking, strict=True):
            right = [row_of[passage] for passage in qrels]
            pool = ranked_rows[: POOL + len(right)].tolist()
            wrong = [row for row in pool if row not in right and not is_answer(row, right)]
            negatives.append(wrong[:POOL])
    return negatives
