"""The sweep recommends only what is certain, and names what it cannot know."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.model import Encoded
from ft_assets.retrieval.choose_fusion import FusionChoice, label, weighted_sums
from ft_assets.retrieval.jobs import SweepSummary
from ft_assets.retrieval.sweep import compared_fusions, summarise, sweep

CONFIGURED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)


def results(**gains: tuple[float, float]) -> dict[str, list[float]]:
    """Return scores of 40 questions: each fusion's are the configured one's, moved by a mean and a deviation."""
    usual = np.full(40, 0.5)
    turns = np.tile([1.0, -1.0], 20)
    moved = {name.replace("_", " / "): usual + mean + deviation * turns for name, (mean, deviation) in gains.items()}
    return {label(fusion): usual.tolist() for fusion in compared_fusions(CONFIGURED, "cosine")} | {
        name: values.tolist() for name, values in moved.items()
    }


def summary_of(values: dict[str, list[float]]) -> SweepSummary:
    """Return the summary where the configuration fixes the fusion."""
    return summarise(values, "1.0 / 0.3", 0, FusionChoice(by="config", fusion=CONFIGURED, questions=40, reason=""))


def test_a_certain_gain_is_recommended() -> None:
    summary = summary_of(results(**{"1.0_0.7": (0.05, 0.02)}))
    assert (summary.best, summary.recommended, summary.gain_is_certain) == ("1.0 / 0.7", "1.0 / 0.7", True)
    assert summary.advice.startswith("Take 1.0 / 0.7 in place of 1.0 / 0.3: nDCG@10 +0.05")
    assert (summary.chosen, summary.chosen_by) == ("1.0 / 0.3", "config")


def test_a_gain_that_may_be_chance_is_not_and_the_questions_that_would_decide_are_named() -> None:
    summary = summary_of(results(**{"1.0_0.7": (0.01, 0.1)}))
    assert (summary.best, summary.recommended, summary.gain_is_certain) == ("1.0 / 0.7", "1.0 / 0.3", False)
    assert summary.questions_needed == pytest.approx((1.96 * 0.1 / 0.01) ** 2, rel=0.05)
    assert f"about {summary.questions_needed} questions would decide" in summary.advice


def test_the_configured_fusion_wins_a_tie() -> None:
    summary = summary_of(results())
    assert summary.best == summary.recommended == "1.0 / 0.3"
    assert summary.questions_needed is None
    assert summary.advice == "Keep 1.0 / 0.3: no other fusion ranks better."


@pytest.mark.parametrize(("best", "arm"), [("0.0_1", "dense"), ("1.0_0", "lexical")])
def test_an_arm_that_adds_nothing_is_named(best: str, arm: str) -> None:
    assert f"The {arm} arm adds nothing here." in summary_of(results(**{best: (0.05, 0.02)})).advice


def test_without_a_question_the_configured_fusion_stays() -> None:
    summary = summary_of({})
    assert (summary.best, summary.recommended, summary.chosen) == ("1.0 / 0.3", "1.0 / 0.3", "1.0 / 0.3")
    assert summary.gain_over_configured is None
    assert "no validation question" in summary.advice


def test_a_configured_fusion_beside_the_grid_is_compared_and_dbsf_is_left_out_where_it_cannot_serve() -> None:
    other = Fusion(fusion="weighted_sum", dense_weight=0.4, sparse_weight=0.35, prefetch_limit=200)
    fusions = compared_fusions(other, "euclid")
    assert [label(fusion) for fusion in fusions][-2:] == ["rrf", "0.4 / 0.35"]
    assert len(fusions) == len(weighted_sums(other)) + 2
    assert {fusion.prefetch_limit for fusion in fusions} == {200}


def test_questions_without_a_token_of_any_passage_are_ranked_without_a_warning() -> None:
    dice = np.random.default_rng(0)
    dense = dice.normal(size=(30, 8)).astype(np.float32)
    nothing = (np.empty(0, np.int32), np.empty(0, np.float32))
    passages = Encoded(dense, [(np.asarray([n], np.int32), np.ones(1, np.float32)) for n in range(30)], 0)
    queries = Encoded(dense[:3], [nothing, (np.asarray([99], np.int32), np.ones(1, np.float32)), nothing], 0)
    ids = [f"p{n}" for n in range(30)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = sweep(
            queries, [passages], ids, [{f"p{n}": 1} for n in range(3)], compared_fusions(CONFIGURED, "cosine")
        )
    # the lexical arm alone finds nothing: it keeps the order of the corpus
    assert all(values == scores["1.0 / 0"] for name, values in scores.items() if name != "0.0 / 1")
