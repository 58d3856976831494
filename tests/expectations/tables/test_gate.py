"""The table gate finds what is wrong in a table, and nothing that goes wrong in Great Expectations counts as passed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.tables import gate
from expectations.tables.gate import SUITES, judge_frame, slim_frame, suite_of, validate

TABLES: dict[str, dict[str, Any]] = {
    "passages": {
        "passage_id": "p", "document_id": "d", "heading": "h", "text": "SM2", "content": "h\nSM2",
        "content_sha256": "0", "source": "a.md", "start": 0, "end": 3, "language": "zh",
    },
    "instruction_records": {
        "record_id": "r", "question": "问", "context": ["c"], "system": "", "reasoning": "", "answer": "答",
        "difficulty": None, "language": "zh", "evidence": ["p"], "group": "", "history": [], "source": "a.jsonl",
        "line_no": 0,
    },
    "preference_records": {
        "record_id": "r", "question": "问", "context": [], "chosen": "甲", "rejected": "乙",
        "chosen_score": None, "rejected_score": None,
        "margin": None, "evidence": [], "group": "", "language": "zh", "history": [], "source": "a.jsonl", "line_no": 0,
    },
    "unpaired_preference_records": {
        "record_id": "r", "question": "问", "context": [], "system": "", "history": [], "answer": "答",
        "desirable": True, "evidence": [], "group": "", "language": "zh", "source": "a.jsonl", "line_no": 0,
    },
    "retrieval_records": {
        "query_id": "q", "query": "问", "positive_ids": ["p1", "p2"], "scores": [1, 2], "negative_ids": [],
        "language": "zh", "source": "a.jsonl", "line_no": 0,
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
    ("unpaired_preference_records", {"answer": ""}, "answer_len"),
    ("unpaired_preference_records", {"desirable": None}, "desirable"),
    ("retrieval_records", {"positive_ids": [], "scores": []}, "positive_ids_count"),
    ("retrieval_records", {"scores": [1]}, "scores_match"),
    ("retrieval_records", {"positive_ids": ["p", "p"]}, "positives_differ"),
    ("passages", {"content_sha256": "p0"}, "content_sha256"),
    ("passages", {"content": "S"}, "content_len, text_len"),
    ("instruction_records", {"history": [{"question": "问", "answer": "答"}] * 201}, "history_count"),
    ("preference_records", {"history": [{"question": "问", "answer": "答"}] * 201}, "history_count"),
    ("retrieval_records", {"negative_ids": ["p3", "p1"]}, "sides_differ"),
]


def _write(path: Path, table: str, changes: dict[int, dict[str, Any]], rows: int = 5) -> Path:
    """A table of good rows whose row n carries `changes[n]`; lines count 10, 11, …"""
    identity = next(iter(TABLES[table]))
    content = [
        {
            **TABLES[table],
            identity: f"{TABLES[table][identity]}{n}",
            **({"line_no": 10 + n} if "line_no" in TABLES[table] else {"content_sha256": f"p{n}"}),
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
    validation = judge_frame(slim_frame(_write(tmp_path / "t.parquet", table, {}), table), suite_of(table))
    assert validation.violations == []
    entries = json.loads(suite_of(table).read_text("utf-8"))["expectations"]
    assert [(j.expectation, j.rule, j.outcome) for j in validation.judgements] == [
        (entry["type"], entry["meta"]["message"], "passed") for entry in entries
    ]


@pytest.mark.parametrize(("table", "change", "field"), DEFECTS)
def test_a_planted_defect_is_found_in_its_row(tmp_path: Path, table: Any, change: dict[str, Any], field: str) -> None:
    frame = slim_frame(_write(tmp_path / "t.parquet", table, {3: change}, rows=40), table)
    violations = validate(frame, suite_of(table))
    assert [violation.code for violation in violations] == ["FT-TABLE-004"]
    assert violations[0].field == field
    place = "a.md:4" if table == "passages" else "a.jsonl:13"
    assert place in violations[0].message
    assert violations[0].fix


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


def test_a_table_from_before_dialogues_has_no_turns(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.parquet", "preference_records", {})
    pq.write_table(pq.read_table(path).drop_columns("history"), path)
    assert list(slim_frame(path, "preference_records")["history_count"]) == [0] * 5


def test_nearly_all_rows_is_nineteen_in_twenty(tmp_path: Path) -> None:
    for strange, broken in ((2, 0), (3, 1)):
        rows = {n: {"difficulty": "非常难" if n < strange else "困难"} for n in range(40)}
        frame = slim_frame(_write(tmp_path / "t.parquet", "instruction_records", rows, 40), "instruction_records")
        assert len(validate(frame, suite_of("instruction_records"))) == broken


class TestFailingRows:
    def test_all_are_counted_beyond_the_cap_of_great_expectations(self, suite: Callable[..., Path]) -> None:
        frame = _frame(n=[0] * 500)
        (violation,) = validate(frame, suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1})))
        assert "500 of 500 rows" in violation.message
        assert "480 more" in violation.message

    def test_they_are_named_by_line_and_value_whatever_the_index_of_the_frame(self, suite: Callable[..., Path]) -> None:
        frame = _frame(n=[5, 0, 7], source=["a.jsonl", "中文.jsonl", "a.jsonl"]).set_index(pd.Index([9, 9, 9]))
        path = suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1}))
        (judgement,) = judge_frame(frame, path).judgements
        assert [(row.place, row.value) for row in judgement.rows] == [("中文.jsonl:2", 0)]
        assert (judgement.judged, judgement.failing) == (3, 1)

    def test_a_missing_source_and_a_missing_value_stand_as_such(self, suite: Callable[..., Path]) -> None:
        path = suite(("expect_column_values_to_not_be_null", {"column": "source"}))
        (judgement,) = judge_frame(_frame(source=["a", None]), path).judgements
        assert [(row.place, row.value) for row in judgement.rows] == [("?:2", None)]

    def test_counts_stay_counts_where_others_are_missing(self, suite: Callable[..., Path]) -> None:
        path = suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1}))
        (judgement,) = judge_frame(_frame(n=[1, None, 0]), path).judgements
        assert repr(judgement.rows[0].value) == "0"
        assert (judgement.judged, judgement.failing) == (2, 1)

    def test_a_hundred_thousand_rows_of_which_a_third_fail_take_seconds(self, suite: Callable[..., Path]) -> None:
        frame = _frame(n=[n % 3 for n in range(100_000)])
        begun = time.perf_counter()
        (violation,) = validate(frame, suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1})))
        assert "33334 of 100000 rows" in violation.message
        assert time.perf_counter() - begun < 4  # seconds; with names of index columns it was more than ten


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

    @pytest.mark.parametrize("severity", ["funny", "WARNING!", ""])
    def test_an_unknown_severity_is_an_error(self, tmp_path: Path, severity: str) -> None:
        path = tmp_path / "suite.json"
        entry = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "n"}, "severity": severity}
        path.write_text(json.dumps({"name": "planted", "expectations": [entry]}))
        (violation,) = validate(_frame(n=[None]), path)
        assert violation.code == "FT-TABLE-001"
        assert "not_be_null" in violation.message

    @pytest.mark.parametrize("severity", ["critical", "warning", "info"])
    def test_no_severity_turns_a_failure_into_a_pass(self, tmp_path: Path, severity: str) -> None:
        path = tmp_path / "suite.json"
        entry = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "n"}, "severity": severity}
        path.write_text(json.dumps({"name": "planted", "expectations": [entry]}))
        (violation,) = validate(_frame(n=[1, None]), path)
        assert violation.code == "FT-TABLE-004"

    def test_a_crash_reported_for_a_metric_is_a_broken_check_and_no_finding(self, suite: Callable[..., Path]) -> None:
        path = suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 1}))
        (violation,) = validate(_frame(n=[1, "two", {}]), path)
        assert violation.code == "FT-TABLE-002"
        assert "crashed" in violation.message

    def test_a_crash_reported_flat_is_a_broken_check_and_no_finding(self, suite: Callable[..., Path]) -> None:
        from great_expectations.expectations.expectation import BatchExpectation

        class ExpectTheUnexpected(BatchExpectation):
            """Ends inside the expectation itself, not in one of its metrics."""

            def _validate(self, *_: Any, **__: Any) -> Any:
                raise ZeroDivisionError("nobody expects it")

        (violation,) = validate(_frame(n=[1]), suite(("expect_the_unexpected", {})))
        assert violation.code == "FT-TABLE-002"
        assert "nobody expects it" in violation.message
        assert ExpectTheUnexpected.__name__

    def test_a_comparison_of_nullable_columns_is_a_broken_check_and_no_pass(self, suite: Callable[..., Path]) -> None:
        pair = {"column_A": "a", "column_B": "b"}
        frame = _frame(a=[1, 2], b=[0, 0]).assign(a=pd.array([1, None], dtype="Int64"))
        frame["b"] = pd.array([0, 0], dtype="Int64")
        path = suite(("expect_column_pair_values_a_to_be_greater_than_b", pair))
        assert [violation.code for violation in validate(frame, path)] == ["FT-TABLE-002"]
        path = suite(
            (
                "expect_column_pair_values_a_to_be_greater_than_b",
                {**pair, "ignore_row_if": "either_value_is_missing"},
            )
        )
        assert validate(frame, path) == []

    def test_a_nullable_column_is_judged_where_it_has_values(self, suite: Callable[..., Path]) -> None:
        frame = _frame(n=[1, 2, 3]).assign(n=pd.array([1, None, -3], dtype="Int64"))
        path = suite(("expect_column_values_to_be_between", {"column": "n", "min_value": 0}))
        (judgement,) = judge_frame(frame, path).judgements
        assert (judgement.outcome, judgement.judged, judgement.rows[0].place) == ("failed", 2, "3")

    def test_a_missing_column_is_a_broken_check(self, suite: Callable[..., Path]) -> None:
        (violation,) = validate(_frame(n=[1]), suite(("expect_column_values_to_not_be_null", {"column": "m"})))
        assert violation.code == "FT-TABLE-002"
        assert "the table has no column m" in violation.message

    def test_an_expectation_without_a_result_is_a_broken_check(
        self, suite: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = gate._run
        monkeypatch.setattr(gate, "_run", lambda *given: {0: run(*given)[0]})
        columns = ({"column": "n"}, {"column": "line_no"})
        path = suite(*(("expect_column_values_to_not_be_null", kwargs) for kwargs in columns))
        (violation,) = validate(_frame(n=[1]), path)
        assert violation.code == "FT-TABLE-002"
        assert "1 of 2 expectations gave no result" in violation.message

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
            ("expect_column_values_to_be_between", {"column": "n", "min_value": "2"}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": {"$PARAMETER": "least"}}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 9, "mostly": 0}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 9, "mostly": -1}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 9, "mostly": True}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 9, "mostli": 0.9}),
            ("expect_column_values_to_be_between", {"column": "n", "min_value": 9, "row_condition": "n < 0"}),
            ("expect_table_row_count_to_be_between", {}),
            ("expect_column_values_to_not_be_in_set", {"column": "n", "value_set": []}),
            ("expect_column_values_to_be_in_type_list", {"column": "n", "type_list": ["int64"]}),
            ("expect_column_value_lengths_to_be_between", {"column": "n", "min_value": 1}),
            ("expect_column_value_lengths_to_be_between", {"column": "lists", "min_value": 1}),
            ("expect_column_values_to_match_regex", {"column": "n", "regex": "^.+$"}),
        ],
    )
    def test_an_expectation_that_judges_something_else_than_it_says_is_an_error(
        self, suite: Callable[..., Path], kind: str, kwargs: dict[str, Any]
    ) -> None:
        (violation,) = validate(_frame(n=[1, 2], lists=[[], []]), suite((kind, kwargs)))
        assert violation.code == "FT-TABLE-001"

    def test_an_expectation_that_stands_twice_is_an_error(self, suite: Callable[..., Path]) -> None:
        once = ("expect_column_values_to_not_be_null", {"column": "n"})
        (violation,) = validate(_frame(n=[1]), suite(once, once))
        assert violation.code == "FT-TABLE-001"
        assert "twice" in violation.message

    def test_results_come_back_in_the_order_of_the_suite(self, suite: Callable[..., Path]) -> None:
        kinds = ["values_to_not_be_null", "distinct_values_to_be_in_set", "values_to_be_unique"]
        path = suite(
            *((f"expect_column_{k}", {"column": "n"} | ({"value_set": [1]} if "set" in k else {})) for k in kinds)
        )
        judgements = judge_frame(_frame(n=[1, 2]), path).judgements
        assert [(j.expectation.removeprefix("expect_column_"), j.outcome) for j in judgements] == [
            (kinds[0], "passed"),
            (kinds[1], "failed"),
            (kinds[2], "passed"),
        ]

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "{}",
            '{"name": "x", "expectations": []}',
            '{"name": "x", "expectations": [1]}',
            '{"name": "x", "expectations": {"type": "a"}}',
            '{"name": "x", "expectations": [{"type": "a", "kwargs": []}]}',
            '{"name": "x", "name": "y", "expectations": [{"type": "expect_table_row_count_to_equal", '
            '"kwargs": {"value": 1}}]}',
        ],
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
            entries = json.loads(path.read_text("utf-8"))["expectations"]
            types = {entry["type"] for entry in entries}
            assert {"expect_table_row_count_to_be_between", "expect_column_values_to_be_unique"} <= types

    def test_every_rule_of_every_suite_says_what_it_wants_and_how_to_fix_it(self) -> None:
        for path in SUITES.glob("*.json"):
            for entry in json.loads(path.read_text("utf-8"))["expectations"]:
                assert entry["meta"]["message"], entry
                assert entry["meta"]["fix"], entry
