"""Hard negatives: passages that the model ranks high for a training question and that do not answer it."""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

from functools import cache

from ft_assets.datasets.near_duplicates import three_grams
from ft_assets.embedding.exact_search import in_blocks, rank
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

    @cache
    def grams_of(row: int) -> set[str]:
        return three_grams(passages.contents[row])

    def is_answer(candidate: int, right: list[int]) -> bool:
        grams = grams_of(candidate)
        return any(len(grams & grams_of(row)) >= NEARLY_EQUAL * len(grams | grams_of(row)) for row in right)

    depth = POOL + max(map(len, questions.qrels), default=0)
    methods = {"fused": lambda dense, lexical: dense + sparse_weight * lexical}
    negatives: list[list[int]] = []
    for qrels, ranked_rows in zip(
        questions.qrels, rank(queries, in_blocks(corpus), methods, depth)["fused"], strict=True
    ):
        right = [row_of[passage] for passage in qrels]
        pool = ranked_rows[: POOL + len(right)].tolist()
        wrong = [row for row in pool if row not in right and not is_answer(row, right)]
        negatives.append(wrong[:POOL])
    return negatives
