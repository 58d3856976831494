"""Generated rows in a training: training rows only, at most their share, counted by origin, and off by default."""

# rows are open JSON, and the lab is untyped here
# pyright: basic
from __future__ import annotations

from typing import Any

import pytest

from expectations.rules.training import check_generated_share
from ft_assets.adapters import train
from ft_assets.adapters.assets import material_of
from ft_assets.adapters.preflight import read_result
from ft_assets.adapters.rows.generated import HAND_MADE, count_origins, limit_share
from ft_assets.config.model import DpoSettings, SftSettings
from ft_assets.generation.jobs import PAIRS, VERIFIED
from tests.ft_assets.adapters.tiny_llm import instruction, preference, publish_splits


def rows_of(by_hand: int, made: int) -> list[dict[str, Any]]:
    own = [{"record_id": f"h{n}"} for n in range(by_hand)]
    return [*own, *({"record_id": f"g{n}", "origin": VERIFIED} for n in range(made))]


@pytest.mark.parametrize(
    ("by_hand", "made", "most", "kept"),
    [(10, 30, 0.5, 10), (10, 4, 0.5, 4), (9, 30, 0.25, 3), (10, 30, 0.0, 0), (0, 5, 0.5, 0), (0, 5, 1.0, 5)],
)
def test_generated_rows_are_at_most_their_share(by_hand: int, made: int, most: float, kept: int) -> None:
    limited = limit_share(rows_of(by_hand, made), most)
    assert count_origins(limited) == {name: n for name, n in ((HAND_MADE, by_hand), (VERIFIED, kept)) if n}


def test_the_rows_that_stay_do_not_depend_on_the_others() -> None:
    few, many = ({row["record_id"] for row in limit_share(rows_of(5, made), 0.5)} for made in (20, 21))
    assert len(few & many) >= 9 and limit_share(list(reversed(rows_of(5, 20))), 0.5) != []
    assert {row["record_id"] for row in limit_share(list(reversed(rows_of(5, 20))), 0.5)} == few


def test_recipes_of_trainings_without_generated_rows_do_not_change() -> None:
    for settings in (SftSettings(base_model="x"), DpoSettings(base_model="x")):
        assert not {"generated", "generated_share"} & material_of(settings).keys()
    assert material_of(SftSettings(base_model="x", generated=True))["generated_share"] == 0.5


def test_a_training_on_more_generated_rows_than_allowed_is_named() -> None:
    assert not check_generated_share({HAND_MADE: 5, VERIFIED: 5}, HAND_MADE, 0.5, "sft_adapter")
    (too_many,) = check_generated_share({HAND_MADE: 4, VERIFIED: 5}, HAND_MADE, 0.5, "sft_adapter")
    assert (too_many.code, too_many.found) == ("FT-JOIN-001", 0.5556)


@pytest.mark.slow
def test_sft_trains_on_half_generated_rows_and_validates_on_hand_made_ones(lab: Any) -> None:
    made = {"train": [instruction(n) for n in range(40, 70)], "validation": [instruction(99)], "test": []}
    generated = publish_splits(lab.store, VERIFIED, made)
    trained = train.main(lab.sft_job([lab.instructions(), generated], generated=True, max_steps=2))
    assert trained.summary["origins"] == {HAND_MADE: 12, VERIFIED: 12}
    assert (trained.summary["rows"], trained.summary["validation_rows"]) == (24, 4)
    assert read_result(trained, "rows_are_trainable").figures["origins"] == trained.summary["origins"]
    assert "origins" not in train.main(lab.sft_job(lab.instructions(), max_steps=2)).summary


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_dpo_trains_on_generated_pairs_alone_and_validates_on_theirs(lab: Any, loss: str) -> None:
    parts = {"train": [preference(n) for n in range(12)], "validation": [preference(n) for n in range(20, 24)]}
    pairs = publish_splits(lab.store, PAIRS, {**parts, "test": []})
    trained = train.main(lab.dpo_job(pairs, None, start="base", generated=True, loss=loss, max_steps=2))
    sides = 2 if loss == "kto" else 1
    assert trained.summary["origins"] == {PAIRS: 12 * sides} and trained.summary["validation_rows"] == 4 * sides
    assert trained.summary["max_abs_adapter_delta"] > 0
