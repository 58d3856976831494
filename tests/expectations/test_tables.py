"""The table gate finds what is wrong in a table, and nothing that goes wrong in Great Expectations counts as passed."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.tables import SUITES, slim_frame, suite_of, validate

TABLES: dict[str, dict[str, Any]] = {
    "passages": {
        "passage_id": "p", "document_id": "d", "heading": "h", "text": "SM2", "content": "h\nSM2",
        "content_sha256": "0", "source": "a.md", "start": 0, "end": 3, "language": "zh",
    },
    "instruction_records": {
        "record_id": "r", "question": "问", "context": ["c"], "system": "", "reasoning": "", "answer": "答",
        "difficulty": None, "language": "zh", "evidence": ["p"], "group": "", "source": "a.jsonl", "line_no": 0,
    },
    "preference_records": {
        "record_id": "r", "question": "问", "context": [], "chosen": "甲", "rejected": "乙",
        "chosen_score": None, "rejected_score": None,
        "margin": None, "evidence": [], "group": "", "language": "zh", "source": "a.jsonl", "line_no": 0,
    },
    "retrieval_records": {
        "query_id": "q", "query": "问", "positive_ids": ["p1", "p2"], "scores": [1, 2], "language": "zh",
        "source": "a.jsonl", "line_no": 0,
    },
}  # fmt: skip
DEFECTS: list[tuple[str, dict[str, Any], str]] = [
    ("passages", {"passage_id": "p0"}, "id"),
    ("passages", {"text": ""}, "text_len"),
    ("passages", {"end": 0}, "span"),
    ("instruction_records", {"record_id": "r0"}, "id"),
    ("instruction_records", {"answer": ""}, "answer_len"),
    ("instruction_records", {"answer": None}, "answer_len"),
    ("instruction_records", {"question": "长" * 20001}, "question_len"),
    ("instruction_records", {"language": "fr"}, "language"),
    ("instruction_records", {"difficulty": "very"}, "difficulty"),
    ("preference_records", {"rejected": "甲"}, "chosen_differs"),
    ("preference_records", {"margin": -0.5}, "margin"),
    ("preference_records", {"record_id": None}, "id"),
    ("retrieval_records", {"positive_ids": [], "scores": []}, "positive_ids_count"),
    ("retrieval_records", {"scores": [1]}, "scores_match"),
    ("retrieval_records", {"positive_ids": ["p", "p"]}, "positives_differ"),
]


def _write(path: Path, table: str, changes: dict[int, dict[str, Any]], rows: int = 5) -> Path:
    """A table of good rows whose row n carries `changes[n]`; lines count 10, 11, …"""
    identity = next(iter(TABLES[table]))
    content = [
        {
            **TABLES[table],
            identity: f"{TABLES[table][identity]}{n}",
            **({"line_no": 10 + n} if "line_no" in TABLES[table] else {}),
        }
        | changes.get(n, {})
        for n in range(rows)
    ]
    if table == "preference_records" and not any(row["margin"] is not None for row in content):
        content[0]["margin"] = 0.1
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite of (type, kwargs) expectations."""

    def write(*expectations: tuple[str, dict[str, Any]]) -> Path:
        path = tmp_path / "suite.json"
        entries = [{"type": kind, "kwargs": kwargs} for kind, kwargs in expectations]
        path.write_text(json.dumps({"name": "planted", "expectations": entries}))
        return path

    return write


def _frame(**columns: list[Any]) -> pd.DataFrame:
    length = len(next(iter(columns.values())))
    return pd.DataFrame({"line_no": range(1, length + 1), **columns})


@pytest.mark.parametrize("table", TABLES)
def test_a_good_table_passes_its_suite(tmp_path: Path, table: Any) -> None:
    assert validate(slim_frame(_write(tmp_path / "t.parquet", table, {}), table), suite_of(table)) == []


@pytest.mark.parametrize(("table", "change", "field"), DEFECTS)
def test_a_planted_defect_is_found_in_its_row(tmp_path: Path, table: Any, change: dict[str, Any], field: str) -> None:
    frame = slim_frame(_write(tmp_path / "t.parquet", table, {3: change}), table)
    violations = validate(frame, suite_of(table))
    assert [violation.code for violation in violations] == ["FT-TABLE-004"]
    assert violations[0].field == field
    place = "a.md:4" if table == "passages" else "a.jsonl:13"
    assert place in violations[0].message
    assert violations[0].mend


def test_the_slim_frame_holds_lengths_and_no_text(tmp_path: Path) -> None:
    frame = slim_frame(_write(tmp_path / "t.parquet", "instruction_records", {}), "instruction_records")
    assert list(frame["line_no"]) == [10, 11, 12, 13, 14]
    assert list(frame["answer_len"]) == [1] * 5
    assert not {"question", "answer", "context", "reasoning"} & set(frame.columns)


def test_a_table_without_the_columns_is_named_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"record_id": ["a"], "question": ["q"]}), path)
    with pytest.raises(KeyError, match="answer"):
        slim_frame(path, "instruction_records")


def test_all_failing_rows_are_counted_beyond_the_cap_of_great_expectations(suite: Callable[..., Path]) -> None:
    frame = _frame(n=[0] * 500)
    (violation,) = validate(frame, suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1})))
    assert "500 rows" in violation.message
    assert "480 more" in violation.message


class TestGuards:
    def test_an_unknown_expectation_is_an_error(self, suite: Callable[..., Path]) -> None:
        path = suite(
            ("expect_column_values_to_not_be_null", {"column": "n"}),
            ("expect_column_values_to_be_splendid", {"column": "n"}),
        )
        (violation,) = validate(_frame(n=[1]), path)
        assert violation.code == "FT-TABLE-001"
        assert "splendid" in violation.message

    def test_an_unknown_argument_is_an_error(self, suite: Callable[..., Path]) -> None:
        (violation,) = validate(
            _frame(n=[1]), suite(("expect_column_values_to_not_be_null", {"column": "n", "wit": 1}))
        )
        assert violation.code == "FT-TABLE-001"

    def test_a_crashed_expectation_is_a_broken_check_and_no_finding(self, suite: Callable[..., Path]) -> None:
        path = suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1}))
        (violation,) = validate(_frame(n=[1, "two", {}]), path)
        assert violation.code == "FT-TABLE-002"
        assert "crashed" in violation.message

    def test_a_missing_column_is_a_broken_check(self, suite: Callable[..., Path]) -> None:
        (violation,) = validate(_frame(n=[1]), suite(("expect_column_values_to_not_be_null", {"column": "m"})))
        assert violation.code == "FT-TABLE-002"
        assert "m" in violation.message

    def test_an_empty_table_never_passes(self, suite: Callable[..., Path]) -> None:
        (violation,) = validate(_frame(n=[]), suite(("expect_column_values_to_not_be_null", {"column": "n"})))
        assert violation.code == "FT-TABLE-003"

    def test_an_empty_parquet_file_never_passes(self, tmp_path: Path) -> None:
        path = _write(tmp_path / "t.parquet", "passages", {})
        pq.write_table(pq.read_table(path).slice(0, 0), path)
        (violation,) = validate(slim_frame(path, "passages"), suite_of("passages"))
        assert violation.code == "FT-TABLE-003"

    @pytest.mark.parametrize(
        ("kind", "kwargs"),
        [
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 2, "max_value": 1}),
            ("expect_column_values_to_be_in_type_list", {"column": "n", "type_list": ["str"]}),
            ("expect_column_value_lengths_to_be_between", {"column": "n", "min_value": 1}),
        ],
    )
    def test_an_expectation_that_judges_something_else_than_it_says_is_an_error(
        self, suite: Callable[..., Path], kind: str, kwargs: dict[str, Any]
    ) -> None:
        (violation,) = validate(_frame(n=[1, 2]), suite((kind, kwargs)))
        assert violation.code == "FT-TABLE-001"

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"name": "x", "expectations": []}', '{"name": "x", "expectations": [1]}']
    )
    def test_a_suite_that_says_nothing_is_an_error(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "suite.json"
        path.write_text(text)
        (violation,) = validate(_frame(n=[1]), path)
        assert violation.code == "FT-TABLE-001"

    def test_a_missing_suite_is_an_error(self, tmp_path: Path) -> None:
        (violation,) = validate(_frame(n=[1]), tmp_path / "none.json")
        assert violation.code == "FT-TABLE-001"

    def test_no_progress_bars_and_no_network(
        self, suite: Callable[..., Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts: list[Any] = []
        monkeypatch.setattr(socket.socket, "connect", lambda *where: attempts.append(where))
        assert validate(_frame(n=[1]), suite(("expect_column_values_to_not_be_null", {"column": "n"}))) == []
        assert capfd.readouterr().err == ""
        assert attempts == []

    def test_every_suite_demands_rows_and_unique_ids(self) -> None:
        for path in SUITES.glob("*.json"):
            types = {entry["type"] for entry in json.loads(path.read_text("utf-8"))["expectations"]}
            assert {"expect_table_row_count_to_be_between", "expect_column_values_to_be_unique"} <= types
