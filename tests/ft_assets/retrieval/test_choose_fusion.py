"""The choice of the weights: from one arm alone to the other, robust on few questions, and none on hardly any."""

from __future__ import annotations

import numpy as np
import pytest

from expectations.contracts.embedding import Fusion
from ft_assets.config.model import RetrievalSettings
from ft_assets.retrieval.choose_fusion import choose, configured_fusion, label, middle_of_best, weighted_sums

CONFIGURED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=1.0, prefetch_limit=150)
WEIGHTS = [label(fusion) for fusion in weighted_sums(CONFIGURED)]


def scored(curve: np.ndarray, questions: int, noise: float = 0.0) -> dict[str, list[float]]:
    """Return a score for each weight and question around the curve's value for the weight."""
    dice = np.random.default_rng(3)
    return {
        name: (mean + noise * dice.normal(size=questions)).tolist() for name, mean in zip(WEIGHTS, curve, strict=True)
    }


@pytest.mark.parametrize(("curve", "chosen", "off"), [(1, "0.0 / 1", "dense"), (-1, "1.0 / 0", "lexical")])
def test_a_poor_arm_is_switched_off(curve: int, chosen: str, off: str) -> None:
    choice = choose(CONFIGURED, scored(0.5 + 0.01 * curve * np.arange(len(WEIGHTS)), 40), 40)
    assert (label(choice.fusion), choice.by, choice.questions) == (chosen, "auto", 40)
    assert choice.fusion.prefetch_limit == 150
    assert "dense alone" in choice.reason and "lexical alone" in choice.reason and "40 validation" in choice.reason
    assert f"so the {off} arm does not count" in choice.reason


def test_where_many_weights_are_best_the_middle_of_them_is_chosen() -> None:
    curve = np.where((np.arange(len(WEIGHTS)) >= 4) & (np.arange(len(WEIGHTS)) <= 10), 1.0, 0.5)
    choice = choose(CONFIGURED, scored(curve, 20), 20)
    assert label(choice.fusion) == WEIGHTS[7] and "does not count" not in choice.reason


def test_one_lucky_weight_does_not_decide() -> None:
    curve = 0.8 - 0.02 * np.abs(np.arange(len(WEIGHTS)) - 6)
    dice = np.random.default_rng(0)
    scores = [curve[:, None] + 0.1 * dice.normal(size=(len(WEIGHTS), 30)) for _ in range(50)]
    best = [abs(int(one.mean(axis=1).argmax()) - 6) for one in scores]
    chosen = [abs(middle_of_best(one) - 6) for one in scores]
    assert np.mean(chosen) < 0.7 * np.mean(best)


def test_the_choice_is_the_same_on_every_run() -> None:
    scores = np.random.default_rng(0).random((17, 25))
    assert middle_of_best(scores) == middle_of_best(scores.copy())


def test_every_weight_that_can_be_chosen_is_one_that_the_consumers_take() -> None:
    weights = [(fusion.dense_weight, fusion.sparse_weight) for fusion in weighted_sums(CONFIGURED)]
    assert {max(pair) for pair in weights} == {1.0}
    assert len(set(WEIGHTS)) == len(weights) == 16
    assert {"1.0 / 0.3", "1.0 / 1", "0.5 / 1", "0.0625 / 1"} < set(WEIGHTS)


@pytest.mark.parametrize("questions", [0, 4])
def test_few_questions_keep_the_configured_weights_and_say_so(questions: int) -> None:
    given = configured_fusion(RetrievalSettings(fusion="auto", sparse_weight=0.3))
    choice = choose(given, scored(np.linspace(0, 1, len(WEIGHTS)), questions) if questions else {}, questions)
    assert choice.fusion == given
    assert choice.reason.startswith(f"1.0 / 0.3 as configured: {questions} validation questions are too few")


def test_a_weight_without_a_method_is_a_weighted_sum() -> None:
    assert RetrievalSettings().fusion == "auto"
    assert RetrievalSettings(sparse_weight=0.3).fusion == "weighted_sum"
    assert RetrievalSettings(fusion="auto", sparse_weight=0.3).fusion == "auto"
    assert RetrievalSettings.model_validate(RetrievalSettings().model_dump()).fusion == "auto"
