"""Each rule on rows, trial steps and finished trainings, by one example that breaks it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from expectations.rules.training import (
    TokenisedRow,
    check_answers,
    check_disk,
    check_filled,
    check_learning_rate,
    check_left,
    check_lengths,
    check_memory,
    check_pairs,
    check_preference,
    check_reasoned,
    check_round_trip,
    check_smoke,
    check_thinking,
    measure_lengths,
)
from expectations.violations import Violation

STOP = 9


def row(n: int = 1, **changes: Any) -> TokenisedRow:
    values: dict[str, Any] = {
        "where": f"a.jsonl:{n} (r{n})",
        "side": "answer",
        "serving": [1, 2],
        "ids": [1, 2, 3, STOP],
        "start": 2,
    }
    return TokenisedRow(**{**values, **changes})


def codes(violations: list[Violation]) -> list[str]:
    return [violation.code for violation in violations]


def test_a_good_row_breaks_no_rule() -> None:
    assert check_round_trip([row()], stop_ids=[STOP], opening=[7]) == []
    assert check_lengths([row()], max_length=4, too_long="raise") == []
    assert row().trained == [3, STOP] and row().labels == [-100, -100, 3, STOP]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ids": [1, 5, 3, STOP]}, "FT-TRAIN-003"),
        ({"ids": [1, 2, 3, 4]}, "FT-TRAIN-004"),
        ({"ids": [1, 2, 7, 8, 3, STOP]}, "FT-TRAIN-018"),
    ],
)
def test_what_is_trained_must_be_what_is_served(changes: dict[str, Any], code: str) -> None:
    (found,) = check_round_trip([row(), row(2, **changes)], stop_ids=[STOP], opening=[7, 8])
    assert found.code == code and found.where == "a.jsonl:2 (r2)"


def test_a_stop_token_in_the_prompt_alone_does_not_count() -> None:
    assert codes(check_round_trip([row(serving=[1, STOP], ids=[1, STOP, 3])], stop_ids=[STOP])) == ["FT-TRAIN-004"]


def test_an_opening_tag_counts_only_where_the_template_opens_the_reasoning_and_only_if_it_is_whole() -> None:
    opened = row(ids=[1, 2, 7, 8, STOP])
    assert check_round_trip([opened], stop_ids=[STOP]) == []
    assert check_round_trip([opened], stop_ids=[STOP], opening=[8, 7]) == []
    masked = row(ids=[1, 2, 7, 8, 3, STOP], start=4)
    assert check_round_trip([masked], stop_ids=[STOP], opening=[7, 8]) == []


def test_a_side_of_a_pair_is_named() -> None:
    (found,) = check_lengths([row(side="rejected", ids=[1, 2, 3, 4, STOP])], max_length=4, too_long="raise")
    assert (found.code, found.where) == ("FT-TRAIN-002", "a.jsonl:1 (r1) rejected")


def test_a_row_that_cannot_be_cut_far_enough_is_refused() -> None:
    long = row(ids=[1, 2, 3, 4, STOP])
    assert codes(check_lengths([long], max_length=4, too_long="truncate_prompt")) == ["FT-TRAIN-019"]


def test_a_row_without_targets_is_refused() -> None:
    assert codes(check_lengths([row(ids=[1, 2])], max_length=4, too_long="raise")) == ["FT-TRAIN-005"]


def test_many_broken_rows_are_named_up_to_twenty_and_counted_after() -> None:
    found = check_lengths([row(n, ids=[1] * 9) for n in range(1, 31)], max_length=4, too_long="raise")
    assert len(found) == 21 and found[-1].where == "10 more rows"


def test_pairs_must_differ() -> None:
    other = row(ids=[1, 2, 4, STOP])
    assert check_pairs([(row(), other)]) == []
    assert codes(check_pairs([(row(), other), (row(2), row(2))])) == ["FT-TRAIN-006"]


@pytest.mark.parametrize(
    ("margin", "accuracy", "expected"),
    [
        (0.2, 0.9, []),
        (0.2, 0.5, []),
        (0.2, None, []),
        (0.0, 0.5, ["FT-TRAIN-060"]),
        (-0.18, 0.0, ["FT-TRAIN-060", "FT-TRAIN-061"]),
        (0.3, 0.4, ["FT-TRAIN-061"]),
        (float("nan"), None, ["FT-TRAIN-060"]),
        (None, None, ["FT-TRAIN-060"]),
    ],
)
def test_chosen_answers_must_gain(margin: float | None, accuracy: float | None, expected: list[str]) -> None:
    assert codes(check_preference(margin, accuracy, "dpo_adapter")) == expected


def test_weights_that_answers_chose_must_answer_no_worse_than_before() -> None:
    assert check_answers(0.3, 0.3, "f1", "sft_adapter") == []
    (found,) = check_answers(0.3, 0.29, "f1", "sft_adapter")
    assert (found.code, found.field, found.found) == ("FT-TRAIN-077", "f1_after", 0.29)


def test_rows_with_empty_reasoning_are_refused_above_the_allowed_share_and_named() -> None:
    assert check_thinking(["a:1", "a:2"], share=0.2, allowed=0.2) == []
    found = check_thinking(["a:1", "a:2"], share=0.2, allowed=0.1)
    assert [(v.code, v.where, v.found) for v in found] == [("FT-TRAIN-020", "a:1", 0.2), ("FT-TRAIN-020", "a:2", 0.2)]


def test_blank_texts_and_missing_reasoning_are_named() -> None:
    assert codes(check_filled([("a:1", "question", "问"), ("a:2", "answer", " \n")])) == ["FT-TRAIN-016"]
    assert codes(check_reasoned([("a:1", "因为"), ("a:2", "")])) == ["FT-TRAIN-017"]


def test_dropping_every_row_of_a_part_is_refused() -> None:
    (found,) = check_left({"train": 3, "validation": 1}, {"train": 0, "validation": 1}, "instruction_splits")
    assert (found.code, found.where) == ("FT-TRAIN-027", "instruction_splits/train")


def test_disk_and_memory_must_suffice() -> None:
    assert check_disk(5, 5, "/x") == [] and check_memory(5, 5, "cpu") == []
    assert codes(check_disk(6, 5, "/x") + check_memory(6, 5, "cuda")) == ["FT-TRAIN-021", "FT-TRAIN-022"]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, []),
        ({"losses": [1.0, math.nan]}, ["FT-TRAIN-010"]),
        ({"grad_norms": [math.inf, 1.0], "max_abs_adapter_delta": math.nan}, ["FT-TRAIN-010"]),
        ({"max_abs_adapter_delta": 0.0}, ["FT-TRAIN-023"]),
    ],
)
def test_trial_steps_must_be_finite_and_move_the_adapter(figures: dict[str, Any], expected: list[str]) -> None:
    good = {"losses": [2.0, 1.9], "grad_norms": [1.0, 1.0], "max_abs_adapter_delta": 1e-3}
    assert codes(check_smoke({**good, **figures}, "adapter training")) == expected


def test_lengths_are_measured_and_every_row_is_in_the_histogram() -> None:
    rows = [row(n, ids=[1] * (n + 2)) for n in range(1, 101)]
    found = measure_lengths(rows)
    assert (found["tokens_min"], found["tokens_median"], found["tokens_p95"], found["tokens_max"]) == (3, 53, 98, 102)
    assert sum(found["histogram"]) == 100 and found["histogram"][0] < found["histogram"][12]
    assert found["supervised_tokens"] == sum(range(1, 101))
    assert found["supervised_share"] == round(5050 / 5250, 4)


@pytest.mark.parametrize(
    ("method", "rate", "expected"),
    [("full", 2e-4, ["FT-TRAIN-026"]), ("full", 1e-5, []), ("full", 5e-5, []), ("lora", 2e-4, [])],
)
def test_a_rate_for_adapters_is_named_where_every_weight_is_trained(
    method: str, rate: float, expected: list[str]
) -> None:
    violations = check_learning_rate(method=method, learning_rate=rate, usual_full=1e-5, where="sft")
    assert codes(violations) == expected
    assert all("1e-05" in violation.fix for violation in violations)
