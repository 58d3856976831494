"""`verify_file` tells what a file is, which rows fail and why, and its exit code says whether a CI may go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expectations.verify import report_json, report_table, verify_file
from expectations.violations import Refused

Write = Callable[..., Path]

GOOD = [{"instruction": f"什么是算法 {n}？", "output": f"<think>想</think>答案 {n}"} for n in range(5)]


def test_a_clean_file_is_recognised_and_shows_what_the_first_record_becomes(write: Write) -> None:
    report = verify_file(write("sft.jsonl", GOOD))
    assert (report.exit_code, report.format, report.dialect, report.rows, report.clean) == (
        0,
        "instruction",
        "alpaca",
        5,
        5,
    )
    assert report.first
    assert (report.first["question"], report.first["reasoning"], report.first["answer"]) == (
        "什么是算法 0？",
        "想",
        "答案 0",
    )


def test_failing_rows_are_counted_by_code_and_shown_with_their_lines(write: Write) -> None:
    rows = [
        *GOOD,
        {"instruction": "x", "output": ""},
        b'{"a": NaN}',
        GOOD[0],
        {"instruction": "什么是算法 1？", "output": "另答"},
    ]
    report = verify_file(write("sft.jsonl", rows))
    assert report.exit_code == 1
    assert report.counts == {"FT-DUP-002": 1, "FT-INST-003": 1, "FT-ROW-004": 1}
    assert (report.rows, report.clean) == (9, 6)
    assert [(row.line, row.code) for row in report.rejected] == [
        (6, "FT-INST-003"),
        (7, "FT-ROW-004"),
        (8, "FT-DUP-002"),
    ]
    assert [conflict.lines for conflict in report.conflicts] == [["sft.jsonl:2", "sft.jsonl:9"]]
    text = report_table(report)
    assert all(part in text for part in ("FT-INST-003", "line 7", "sft.jsonl:9", "Mend:", "instruction (alpaca)"))
    value = json.loads(json.dumps(report_json(report)))
    assert (value["exit_code"], value["counts"]["FT-ROW-004"]) == (1, 1)


def test_conflicts_alone_fail_nothing(write: Write) -> None:
    report = verify_file(write("sft.jsonl", [GOOD[0], {**GOOD[0], "output": "另答"}]))
    assert report.conflicts
    assert report.exit_code == 0


def test_thousands_of_failing_rows_are_counted_and_the_report_stays_small(write: Write) -> None:
    report = verify_file(write("sft.jsonl", [GOOD[0], *[b"{"] * 3000]))
    assert report.counts == {"FT-ROW-002": 3000}
    assert len(report.rejected) == 100


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("missing.jsonl", None),
        ("empty.jsonl", b""),
        ("blank.jsonl", b"\n\n"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00"),
        ("rows.parquet", b"PAR1"),
        ("object.json", b'{\n "data": [\n  1\n ]\n}'),
        ("neg.jsonl", b'{"query": "q", "pos": ["p"], "neg": ["n"]}\n'),
        ("binary.jsonl", bytes(range(256))),
    ],
)
def test_what_cannot_be_used_at_all_is_unreadable(tmp_path: Path, name: str, data: bytes | None) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    report = verify_file(path)
    assert report.exit_code == 2
    assert report.clean == 0
    assert report.unreadable in report_table(report).replace("\n", " ") or "unreadable" in report_table(report)


def test_a_damaged_file_counts_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00")
    report = verify_file(path)
    assert (report.rows, report.counts) == (0, {"FT-ROW-008": 1})


def test_the_name_decides_between_equal_dialects_and_otherwise_the_ambiguity_is_said(write: Write) -> None:
    row = {"_id": "1", "text": "SM2"}
    assert verify_file(write("queries.jsonl", [row])).format == "query"
    assert verify_file(write("corpus.jsonl", [row])).format == "passage"
    assert verify_file(write("rows.jsonl", [{**row, "title": "t"}])).format == "passage"
    ambiguous = verify_file(write("rows.jsonl", [row]))
    assert ambiguous.notes
    assert "beir-corpus" in ambiguous.notes[0]
    assert verify_file(write("rows.jsonl", [row]), "passage").format == "passage"


def test_a_mixed_file_is_named_as_such(write: Write) -> None:
    report = verify_file(write("rows.jsonl", [*GOOD, {"prompt": "p", "chosen": "a", "rejected": "b"}]))
    assert "`trl`" in report.notes[0]
    assert [row.line for row in report.rejected] == [6]


def test_a_format_that_is_not_known_is_refused_with_those_that_are(write: Write) -> None:
    with pytest.raises(Refused, match="alpaca"):
        verify_file(write("rows.jsonl", GOOD), "alpacca")


def test_verify_loads_nothing_heavy_and_starts_quickly() -> None:
    heavy = ["torch", "dagster", "pandas", "pyarrow", "numpy", "great_expectations", "transformers"]
    code = f"import sys, expectations.verify; print([name for name in {heavy} if name in sys.modules])"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - start < 5


def test_the_chinese_cryptography_set_is_reported_whole(shared: Path) -> None:
    report = verify_file(shared / "data" / "crypto_qa_zh" / "thinking_training_data.json")
    assert (report.dialect, report.rows, report.clean) == ("alpaca", 73, 66)
    assert len(report.conflicts) == 3
