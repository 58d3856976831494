"""The report shows the table, the rules and their results, is readable for all, and needs no network or script."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from expectations.tables.gate import FailingRow, Judgement, Validation
from expectations.tables.report import (
    expected_in_words,
    observed_in_words,
    outcome_in_words,
    render_markdown,
    render_report,
)
from expectations.violations import Violation

WHEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PASSED = Judgement(
    expectation="expect_table_row_count_to_be_between", rule="the table has rows", column="",
    expected={"min_value": 1}, outcome="passed", observed=1200,
)  # fmt: skip
FAILED = Judgement(
    expectation="expect_column_values_to_be_in_set", rule="难度已知", column="difficulty",
    expected={"value_set": ["简单", "困难"], "mostly": 0.95}, outcome="failed", judged=1200, failing=100,
    rows=[FailingRow("密码学.jsonl:17", "极难"), FailingRow("密码学.jsonl:18", None)], fix="改成已知的名称",
)  # fmt: skip
BROKEN = Judgement(
    expectation="expect_column_values_to_be_unique", rule="no two records share an id", column="id", expected={},
    outcome="broken", observed="unhashable type: 'dict'",
)  # fmt: skip


def _validation(*judgements: Judgement, faults: Any = ()) -> Validation:
    return Validation(suite="instruction_records", rows=1200, judgements=list(judgements), faults=list(faults))


class _Page(HTMLParser):
    """The page as a browser reads it: open elements, all elements, links, and the rows of text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.rows: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open += [] if tag == "meta" else [tag]
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href") or name.startswith("on")]
        self.rows += [""] if tag == "tr" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += f"{data} "


def _page(validation: Validation, facts: dict[str, str] | None = None) -> tuple[str, _Page]:
    text = render_report(validation, "instruction_records", WHEN, facts or {})
    page = _Page(text)
    assert page.open == []
    return text, page


def test_a_page_says_what_was_judged_when_and_by_what() -> None:
    text, _ = _page(_validation(PASSED), {"great-expectations": "1.24.1"})
    for shown in ("instruction_records", "1,200", "2026-11-21 12:00:00+00:00", "great-expectations", "1.24.1"):
        assert shown in text
    assert "Passed: all 1 rules pass for 1,200 rows" in text


def test_each_expectation_has_a_row_with_the_worst_first() -> None:
    _, page = _page(_validation(PASSED, FAILED, BROKEN))
    head, broken, failed, passed = page.rows
    assert "Failing rows" in head
    assert all(part in broken for part in ("broken", "no two records share an id", "unhashable type: 'dict'"))
    assert all(part in passed for part in ("passed", "the table has rows", "at least 1", "1,200"))
    wanted = (
        "failed",
        "难度已知",
        "difficulty",
        "one of 简单, 困难; in 95% of the rows or more",
        "1,100 of 1,200 rows",
    )
    assert all(
        part in failed for part in (*wanted, "密码学.jsonl:17", "极难", "missing", "and 98 more", "改成已知的名称")
    )


def test_a_table_that_was_not_judged_never_reads_as_passed() -> None:
    fault = Violation(code="FT-TABLE-003", where="instruction_records", message="the table has no rows")
    text, page = _page(_validation(faults=[fault]))
    assert "Failed: the table was not judged" in text
    assert "FT-TABLE-003" in text
    assert "table" not in page.tags
    assert "FT-TABLE-003" in render_markdown(_validation(faults=[fault])).replace("\\", "")


@pytest.mark.parametrize(
    ("judgements", "outcome"),
    [([PASSED], "Passed: all 1"), ([PASSED, FAILED], "Failed: 1 of 2"), ([FAILED, BROKEN], "1 of 2 checks are broken")],
)
def test_the_summary_counts(judgements: list[Judgement], outcome: str) -> None:
    assert outcome in outcome_in_words(_validation(*judgements))


def test_a_page_needs_no_network_and_runs_nothing() -> None:
    text, page = _page(_validation(PASSED, FAILED))
    assert page.addresses == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not any(part in text for part in ("://", "url(", "@import"))
    assert "default-src 'none'" in text


def test_a_page_fits_phones_and_both_colour_schemes() -> None:
    text, _ = _page(_validation(FAILED))
    for part in ('content="width=device-width', 'charset="utf-8"', "prefers-color-scheme: dark", "@media (max-width"):
        assert part in text


NASTY = '<script>alert(\'x\')</script>" onload="y" | `z` </td>\u202e\x00\n\ud800&amp;'


def test_nothing_that_a_file_holds_becomes_markup() -> None:
    nasty = Judgement(
        expectation=NASTY,
        rule=NASTY,
        column=NASTY,
        expected={"value_set": [NASTY]},
        outcome="failed",
        judged=1,
        failing=1,
        rows=[FailingRow(NASTY, NASTY)],
        fix=NASTY,
    )
    text, page = _page(_validation(nasty), {NASTY: NASTY})
    assert page.tags.isdisjoint({"script", "b"})
    assert page.addresses == []
    assert page.rows[1].count("<script>alert('x')</script>") == 6
    text.encode("utf-8")  # a lone surrogate could not be written
    assert all(c.isprintable() or c == "\n" for c in text)


def test_nothing_that_a_file_holds_becomes_markup_or_a_cell_of_the_markdown_table() -> None:
    nasty = Judgement(
        expectation="e",
        rule=NASTY,
        column=NASTY,
        expected={},
        outcome="failed",
        judged=1,
        failing=1,
        rows=[FailingRow(NASTY, "[a](http://b) **c**")],
    )
    head, line, row = render_markdown(_validation(nasty)).split("\n")
    assert [part.replace("\\|", "").count("|") for part in (head, line, row)] == [7, 7, 7]
    assert "<" not in row
    assert "[a]" not in row
    assert "**" not in row


def test_the_markdown_table_shows_the_first_failing_lines_in_dagster() -> None:
    _, _, failed, passed = render_markdown(_validation(PASSED, FAILED)).split("\n")
    assert failed.startswith("| ✗ | 难度已知 | difficulty |")
    assert "密码学.jsonl:17 (极难), 密码学.jsonl:18 (missing) …" in failed
    assert passed.startswith("| ✓ | the table has rows |  | at least 1 | 1,200 |")


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({}, ""), ({"min_value": 0}, "at least 0"), ({"max_value": 2000}, "at most 2,000"),
        ({"min_value": 1, "max_value": 20000}, "1–20,000"), ({"value_set": [True]}, "one of True"),
        ({"regex": "^a"}, "regex: ^a"), ({"mostly": 0.5}, "in 50% of the rows or more"),
        ({"mostly": 0.999}, "in 99.9% of the rows or more"),
    ],
)  # fmt: skip
def test_what_is_expected_is_said_in_words(expected: dict[str, Any], words: str) -> None:
    assert (
        expected_in_words(Judgement(expectation="", rule="", column="", expected=expected, outcome="passed")) == words
    )


def test_a_column_without_values_is_said_to_be_so() -> None:
    nothing = Judgement(expectation="", rule="", column="margin", expected={"min_value": 0}, outcome="passed")
    assert observed_in_words(nothing) == "no row has a value"
