from __future__ import annotations

import pytest

from expectations.rules import generated_questions as rules
from expectations.violations import Violation


def codes(violations: list[Violation]) -> list[str]:
    return [violation.code for violation in violations]


def test_enough_candidates_are_verified():
    assert rules.enough_are_verified("t", 10, 100, 0.1) == []
    assert codes(rules.enough_are_verified("t", 9, 100, 0.1)) == ["FT-KBA-020"]
    assert codes(rules.enough_are_verified("t", 0, 0, 0.0)) == ["FT-KBA-020"]


def test_nothing_is_held_out():
    assert rules.nothing_is_held_out("t", {}) == []
    (found,) = rules.nothing_is_held_out("t", {"r1": "aes#origin"})
    assert (found.code, found.field, found.found) == ("FT-KBA-021", "r1", "aes#origin")


@pytest.mark.parametrize(("generated", "written", "fails"), [(2, 2, False), (1, 2, False), (4, 2, False), (0, 2, False),
                                                             (0.5, 2, True), (5, 2, True)])  # fmt: skip
def test_answers_are_as_long_as_those_of_people(generated: float, written: float, fails: bool):
    assert codes(rules.answers_are_as_long("t", generated, written)) == ["FT-KBA-022"] * fails


@pytest.mark.parametrize(
    ("questions", "recall", "false_accept", "expected"),
    [
        (24, 0.3, 0.05, []),
        (24, 0.3, 0.2, ["FT-KBA-023"]),
        (24, 0.1, 0.0, ["FT-KBA-024"]),
        (24, 0.0, 1.0, ["FT-KBA-023", "FT-KBA-024"]),
        (0, 0.0, 0.0, ["FT-KBA-026"]),
    ],
)
def test_a_judge_separates_right_from_wrong(questions: int, recall: float, false_accept: float, expected: list[str]):
    found = rules.judge_separates(
        "t", questions=questions, recall=recall, false_accept=false_accept, least=0.15, most=0.1
    )
    assert codes(found) == expected


def test_every_row_names_its_judge_and_rules():
    rows = [("r1", "digest", "1"), ("r2", "", "1"), ("r3", "digest", "")]
    assert [one.field for one in rules.rows_name_their_judge("t", rows)] == ["r2", "r3"]
