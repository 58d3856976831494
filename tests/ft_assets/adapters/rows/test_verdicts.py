from __future__ import annotations

import random

import pytest

from expectations.rules.training import TokenisedRow, check_verdicts
from ft_assets.adapters.assets import material_of
from ft_assets.adapters.rows.verdicts import choose_weights, pair_mismatched, split_pairs
from ft_assets.config.model import DpoSettings
from tests.ft_assets.adapters.tiny_llm import preference, verdict


def rows_of(prompts: list[int], sides: tuple[str, ...] = ("desirable", "undesirable")) -> list[TokenisedRow]:
    return [
        TokenisedRow(where=f"rows:{n}", side=sides[n % len(sides)], serving=[1, prompt], ids=[1, prompt, n], start=2)
        for n, prompt in enumerate(prompts)
    ]


def test_a_pair_becomes_a_desirable_row_and_an_undesirable_one_and_others_stay() -> None:
    rows = list(split_pairs([preference(3), verdict(4, desirable=False)]))
    assert [(row["answer"], row["desirable"]) for row in rows] == [
        ("3 比特", True),
        ("4 字节", False),
        ("5 字节", False),
    ]
    assert {row["line_no"] for row in rows[:2]} == {4}


def test_every_row_gets_the_answer_of_another_prompt_and_each_answer_is_used_once() -> None:
    dice = random.Random(7)  # noqa: S311
    for _ in range(200):
        count = dice.randint(2, 30)
        prompts = [dice.randint(0, count // 2) for _ in range(count)]
        if len(set(prompts)) == 1:
            continue
        partners = pair_mismatched(rows_of(prompts))
        assert all(prompts[partner] != prompts[n] for n, partner in enumerate(partners))
        if max(map(prompts.count, prompts)) * 2 <= count:
            assert sorted(partners) == list(range(count))


def test_rows_of_different_prompts_are_paired_as_trl_does() -> None:
    assert pair_mismatched(rows_of([5, 6, 7, 8])) == [3, 0, 1, 2]


@pytest.mark.parametrize(
    ("desirable", "undesirable", "weights"),
    [(10, 10, (1.0, 1.0)), (40, 30, (1.0, 1.0)), (10, 40, (4.0, 1.0)), (80, 30, (1.0, 2.0)), (5, 0, (1.0, 1.0))],
)
def test_the_rarer_verdict_weighs_more_until_the_ratio_is_in_the_range_of_the_paper(
    desirable: int, undesirable: int, weights: tuple[float, float]
) -> None:
    settings = DpoSettings(base_model="base", loss="kto")
    counts = {"desirable": desirable, "undesirable": undesirable}
    assert choose_weights(settings, counts) == pytest.approx(weights)
    given = DpoSettings(base_model="base", loss="kto", undesirable_weight=0.5)
    assert choose_weights(given, counts) == (1.0, 0.5)


def test_one_verdict_or_one_prompt_is_refused_by_part() -> None:
    parts = {"train": rows_of([5, 6, 7]), "validation": rows_of([5, 5], ("desirable",))}
    found = [(one.code, one.where) for one in check_verdicts(parts, "kto")]
    assert found == [("FT-TRAIN-056", "kto/validation"), ("FT-TRAIN-057", "kto/validation")]


def test_the_weights_are_in_the_recipe_of_kto_alone() -> None:
    weights = {"desirable_weight", "undesirable_weight"}
    assert not weights & material_of(DpoSettings(base_model="base")).keys(), (
        "adapters of other losses keep their recipe"
    )
    assert weights <= material_of(DpoSettings(base_model="base", loss="kto")).keys()
    with pytest.raises(ValueError, match="no effect on loss `sigmoid`"):
        DpoSettings(base_model="base", desirable_weight=2.0)
