"""The floor of scores: between questions with an answer and without, and none where they are alike or few."""

from __future__ import annotations

import numpy as np
import pytest

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.model import Encoded
from ft_assets.retrieval.score_floor import best_scores, calibrate

FUSION = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=1.0, prefetch_limit=100)


def test_the_floor_loses_the_share_and_tells_what_it_catches() -> None:
    answered = [1.0 + n / 100 for n in range(100)]
    floor = calibrate(answered, [score - 0.9 for score in answered], 0.05)
    assert floor is not None
    assert (floor.score, floor.lost, floor.questions) == (1.04, 0.04, 100)
    assert floor.caught == pytest.approx(0.94)


def test_the_floor_keeps_its_share_on_other_questions() -> None:
    dice = np.random.default_rng(0)
    lost: list[float] = []
    for _ in range(300):
        floor = calibrate(dice.normal(3, 1, 40).tolist(), dice.normal(-3, 1, 40).tolist(), 0.05)
        assert floor is not None
        lost.append(float((dice.normal(3, 1, 1000) < floor.score).mean()))
    assert 0.03 < np.mean(lost) < 0.06


@pytest.mark.parametrize("questions", [1, 18])
def test_few_questions_give_no_floor(questions: int) -> None:
    assert calibrate([1.0] * questions, [0.0] * questions, 0.05) is None
    assert calibrate([1.0] * 19, [0.0] * 19, 0.05) is not None


def test_scores_that_do_not_tell_the_two_apart_give_no_floor() -> None:
    scores = np.linspace(0, 1, 200).tolist()
    assert calibrate(scores, scores, 0.05) is None


def test_the_whole_document_is_taken_away() -> None:
    dense = np.asarray([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    terms = [(np.asarray([n], np.int32), np.ones(1, np.float32)) for n in (1, 2, 3)]
    passages = Encoded(dense, terms, 0)
    queries = Encoded(dense[:1], terms[:1], 0)
    documents = {"a1": "a", "a2": "a", "b": "b"}
    scores = best_scores(queries, [passages], ["a1", "a2", "b"], [{"a1": 1}], documents=documents, fusion=FUSION)
    assert scores == ([2.0], [0.0])
