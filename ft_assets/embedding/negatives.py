"""Hard negatives: passages that the model ranks high for a question of training and that do not answer it."""

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
"""Passages looked at for each question, besides the right ones."""
NEARLY_EQUAL = 0.8  # Jaccard similarity of 3-grams, as in datasets.split.near_duplicate


def mine(
    queries: Encoded, corpus: Encoded, questions: Questions, passages: Passages, sparse_weight: float
) -> list[list[int]]:
    """For each question the rows of the wrong passages that score highest, dense + sparse_weight * lexical.

    Never a passage that is judged right, nor one whose text is nearly equal to such a passage's: it answers as well.
    """
    row_of = {passage: row for row, passage in enumerate(passages.ids)}
    grams = cache(lambda row: three_grams(passages.contents[row]))

    def answers(candidate: int, right: list[int]) -> bool:
        found = grams(candidate)
        return any(len(found & grams(row)) >= NEARLY_EQUAL * len(found | grams(row)) for row in right)

    mined: list[list[int]] = []
    for rows, dense, lexical in score_blocks(queries, corpus):
        order = np.argsort(-(dense + sparse_weight * lexical), axis=1, kind="stable")
        for qrels, columns in zip(questions.qrels[rows], order, strict=True):
            right = [row_of[passage] for passage in qrels]
            first = columns[: POOL + len(right)].tolist()
            mined.append([row for row in first if row not in right and not answers(row, right)][:POOL])
    return mined
