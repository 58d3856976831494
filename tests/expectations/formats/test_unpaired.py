"""Answers with a verdict, for KTO: the verdict, its names, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.unpaired import UnpairedPreferenceRecord, read_verdict
from expectations.reading import Rejected
from expectations.records.read import Record, read_records
from expectations.verify import verify_file

Write = Callable[..., Path]
ROW = {"prompt": "How long is an AES block?", "completion": "128 bits."}


def read(write: Write, *rows: dict[str, Any]) -> list[Record | Rejected]:
    return list(read_records(write("rows.jsonl", rows), "unpaired_preference"))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(True, True), (False, False), (1, True), (0, False), (1.0, True), ("true", True), ("FALSE", False)]
    + [(value, None) for value in (2, -1, 0.5, "1", "good", "", None, [True])],
)
def test_only_true_and_false_are_verdicts(value: object, verdict: bool | None) -> None:
    assert read_verdict(value) is verdict


def test_a_record_has_the_answer_with_its_reasoning_and_the_verdict(write: Write) -> None:
    thought = {"prompt": "Q?", "completion": "<think>Look it up.</think>No.", "label": False, "system": "Be short."}
    good, bad = read(write, ROW | {"label": True, "id": "a"}, thought)
    assert isinstance(good, UnpairedPreferenceRecord)
    assert isinstance(bad, UnpairedPreferenceRecord)
    assert (good.record_id, good.answer, good.desirable) == ("a", "128 bits.", True)
    assert (bad.answer, bad.desirable) == ("<think>\nLook it up.\n</think>\n\nNo.", False)
    assert bad.system == "Be short."


def test_other_values_missing_ones_and_two_verdicts_are_refused_by_row(write: Write) -> None:
    good = [ROW | {"prompt": f"Case {n}?", "label": n % 2 == 0} for n in range(5)]
    bad = [ROW | {"label": 2}, ROW, ROW | {"label": True, "kto_tag": False}, {"prompt": "Q?", "label": True}]
    found = [row for row in read(write, *good, *bad) if isinstance(row, Rejected)]
    assert [(row.line, row.code, row.path) for row in found] == [
        (6, "FT-KTO-002", "$.label"),
        (7, "FT-KTO-002", "$"),
        (8, "FT-KEY-010", "$.kto_tag"),
        (9, "FT-KTO-001", "$.completion"),
    ]


def test_an_answer_judged_both_ways_is_a_conflict_and_the_same_row_twice_a_repetition(write: Write) -> None:
    rows = [ROW | {"label": verdict} for verdict in (True, False, True)] + [ROW | {"completion": "64.", "label": 0}]
    report = verify_file(write("rows.jsonl", rows))
    assert (report.format, report.clean, report.counts) == ("unpaired_preference", 3, {"FT-DUP-002": 1})
    assert report.notes[0] == "also used: `label`"
    (conflict,) = report.conflicts
    assert conflict.answers == ["desirable: 128 bits.", "undesirable: 128 bits."]


def test_labels_of_another_kind_leave_a_file_of_instructions_what_it_is(write: Write) -> None:
    rows = [ROW | {"prompt": f"Case {n}?", "label": label} for n, label in enumerate(["easy", "hard", "easy"])]
    report = verify_file(write("rows.jsonl", rows))
    assert (report.format, report.clean, report.not_read) == ("instruction", 3, {"label": 3})


def test_such_a_file_is_refused_as_instructions_and_the_data_set_is_named(write: Write) -> None:
    report = verify_file(write("rows.jsonl", [ROW | {"label": True}]), "instruction")
    assert report.counts == {"FT-KEY-001": 1}


@pytest.mark.parametrize(("name", "comma"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_a_table_with_a_header_is_read(tmp_path: Path, name: str, comma: str) -> None:
    lines = [["prompt", "completion", "label"], ["Q1?", "Yes.", "True"], ["Q2?", "No.", "0"], ["Q3?", "No.", "maybe"]]
    (tmp_path / name).write_text("".join(comma.join(line) + "\n" for line in lines), "utf-8")
    report = verify_file(tmp_path / name)
    assert (report.format, report.clean, report.counts) == ("unpaired_preference", 2, {"FT-KTO-002": 1})


def test_many_rows_take_the_quick_lane_and_come_out_the_same(tmp_path: Path) -> None:
    rows = [ROW | {"prompt": f"Case {n}?", "label": n % 3 == 0} for n in range(400)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    records = [row for row in read_records(path, "unpaired_preference") if isinstance(row, UnpairedPreferenceRecord)]
    assert [row.desirable for row in records] == [row["label"] for row in rows]
