"""`verify_file` reports the format of a file, the rows that fail and why; a CI job stops on its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from expectations.contracts.consumer import Consumer, find_consumer
from expectations.formats.dialect import ReadPolicy
from expectations.formats.registry import FORMATS
from expectations.verify import Report, show_value, verify_file
from expectations.verify_reports import (
    MAX_ANNOTATIONS,
    report_github,
    report_json,
    report_junit,
    report_markdown,
    report_table,
)
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
    assert all(part in text for part in ("FT-INST-003", "line 7", "sft.jsonl:9", "Fix:", "instruction (alpaca)"))
    value = json.loads(json.dumps(report_json(report)))
    assert value["report_version"] == 2
    assert (value["exit_code"], value["counts"]["FT-ROW-004"]) == (1, 1)


def test_conflicts_alone_fail_nothing(write: Write) -> None:
    report = verify_file(write("sft.jsonl", [GOOD[0], {**GOOD[0], "output": "另答"}]))
    assert report.conflicts
    assert report.exit_code == 0


def test_thousands_of_failing_rows_are_counted_and_the_report_stays_small(write: Write) -> None:
    report = verify_file(write("sft.jsonl", [GOOD[0], *[b"{"] * 3000]))
    assert report.counts == {"FT-ROW-016": 3000}
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
        ("strange.jsonl", b'{"strange": 1}\n'),
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
    ours = "expectations.verify, expectations.records.convert, expectations.verify_reports"
    code = f"import sys, {ours}; print([name for name in {heavy} if name in sys.modules])"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - start < 5


def test_the_offending_value_is_shown_short_and_escaped(write: Write) -> None:
    rows = [*GOOD, {"instruction": 7, "output": "a"}, {"instruction": "x", "output": " "}]
    report = verify_file(write("sft.jsonl", rows))
    assert [row.value for row in report.rejected] == ["7", '" "']
    assert show_value({"a": [{"b-c": "\x1b" * 90}]}, "$.a[0].b-c").startswith('"\\u001b')
    assert len(show_value({"a": "x" * 500}, "$.a")) == 80
    assert [show_value({"a": [1]}, path) for path in ("$", "$.b", "$.a[1]", "$.a.b", "$.a+b[0]")] == [""] * 5
    assert "line 6 $.instruction: found a whole number" in report_table(report)


def test_reasoning_is_counted(write: Write) -> None:
    path = write("sft.jsonl", [*GOOD, {"instruction": "x", "output": "y"}])
    report = verify_file(path)
    assert (report.thinking, report.with_reasoning, report.without_reasoning) == ("allow_empty", 5, 1)
    assert "5 rows with reasoning, 1 without" in report_table(report)
    required = verify_file(path, policy=ReadPolicy(thinking="require"))
    assert (required.counts, required.with_reasoning) == ({"FT-INST-005": 1}, 5)


def test_a_share_of_rows_may_fail_and_no_more(write: Write) -> None:
    path = write("sft.jsonl", [*GOOD, b"{"])
    assert verify_file(path, max_quarantined=0.2).exit_code == 0
    assert verify_file(path, max_quarantined=0.16).exit_code == 1


def consumer(**reads: list[int]) -> Consumer:
    return Consumer(name="module", owner="team:module", description="", reads=reads)


def test_a_contract_names_formats_and_versions(write: Write) -> None:
    row = {"record_id": "1", "question": "q", "answer": "a"}
    path = write("sft.jsonl", [{"format_version": 1, **row}])
    assert verify_file(path, against=consumer(instruction=[1])).exit_code == 0
    report = verify_file(path, against=consumer(instruction=[2]))
    assert [(v.code, v.found, v.expected) for v in report.violations] == [("FT-CON-003", 1, [2])]
    assert report.exit_code == 1
    assert "FT-CON-003" in report_table(report)
    unstated = verify_file(write("sft.jsonl", [row]), against=consumer(instruction=[FORMATS["instruction"].version]))
    assert (unstated.exit_code, unstated.versions) == (0, [FORMATS["instruction"].version])
    (other,) = verify_file(path, against=consumer(passage=[1])).violations
    assert (other.field, other.found, other.expected) == ("format", "instruction", ["passage"])


def test_a_contract_is_found_by_name_or_path_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    assert find_consumer("ddr").owner == "team:ddr"
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nowner: me\ndescription: d\nreads: {passage: [1]}\n")
    assert find_consumer(str(path)).reads == {"passage": [1]}
    path.write_text("name: mine\nowner: me\ndescription: d\nraeds: {}\n")
    for name in (str(path), "nobody", str(tmp_path / "gone.yaml")):
        with pytest.raises(Refused, match="FT-CON-001"):
            find_consumer(name)


def test_a_document_is_verified_by_its_sections(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text("# 散列\n\nSM3 是散列算法。\n\n## Empty\n\n## AES\n\nA cipher.\n", "utf-8")
    report = verify_file(path)
    assert (report.format, report.dialect, report.rows, report.clean) == ("passage", "markdown", 3, 2)
    assert [(row.line, row.code) for row in report.rejected] == [(5, "FT-CORPUS-002")]
    assert report.first and report.first["document_id"] == "guide#散列"
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    bad = verify_file(tmp_path / "bad.txt")
    assert (bad.exit_code, bad.counts) == (1, {"FT-CORPUS-001": 1})
    (tmp_path / "rows.txt").write_text('{"instruction": "q", "output": "a"}\n')
    assert verify_file(tmp_path / "rows.txt", "instruction").clean == 1


@pytest.fixture
def hostile(write: Write, tmp_path: Path) -> list[Report]:
    """A clean file, one whose rows attack every report, a contract that is broken, and a file that is not there."""
    attack = "</code>|\n::error::x\x1b[31m\ufffe@team `a` %0A, <b>"
    rows = [
        GOOD[0],
        *({"instruction": attack, "output": " ", "id": n} for n in range(9)),
        b"{|<",
        b"[1]",
        b'{"a": NaN}',
    ]
    return [
        verify_file(write("clean.jsonl", GOOD)),
        verify_file(write("a,b:c%.jsonl", rows), against=consumer(passage=[1])),
        verify_file(tmp_path / "gone.jsonl"),
    ]


def test_annotations_are_escaped_capped_and_summed_up(hostile: list[Report]) -> None:
    lines = report_github(hostile).splitlines()
    assert all(line.startswith(("::error file=", "::notice title=ft verify::")) for line in lines)
    assert len(lines) <= MAX_ANNOTATIONS + 1
    assert "a%2Cb%3Ac%25.jsonl,title=FT-CON-003::" in lines[0]
    assert any(",line=2,title=FT-TEXT-001::" in line for line in lines)
    assert lines[-1].startswith("::notice title=ft verify::1 of 3 files pass, 12 rows rejected")
    assert "not annotated" in lines[-1]


def test_junit_has_a_case_for_each_file_and_code(hostile: list[Report]) -> None:
    suites = ElementTree.fromstring(report_junit(hostile))  # noqa: S314 - our own
    clean, bad, gone = suites
    assert [case.get("name") for case in clean] == ["rows"]
    assert (clean.get("failures"), clean.get("errors")) == ("0", "0")
    codes = ["FT-CON-003", *hostile[1].counts]
    assert [case.get("name") for case in bad] == codes
    assert bad.get("failures") == str(len(codes))
    assert all(case.find("failure") is not None for case in bad)
    assert gone[0].find("error") is not None
    tolerated = hostile[1]
    tolerated.violations, tolerated.max_quarantined = [], 1.0
    assert ElementTree.fromstring(report_junit([tolerated]))[0].get("failures") == "0"  # noqa: S314


def test_markdown_shows_texts_as_code_and_never_as_markup(hostile: list[Report]) -> None:
    text = report_markdown(hostile)
    assert text.count("\n| <code>") == 3
    assert "<b>" not in text and "@team" not in text and "\x1b" not in text
    assert all(line.count("|") in (0, 6, 7) for line in text.splitlines())
    assert text.count("<code>") == text.count("</code>")


def test_the_chinese_cryptography_set_is_reported_whole(shared: Path) -> None:
    report = verify_file(shared / "data" / "crypto_qa_zh" / "thinking_training_data.json")
    assert (report.dialect, report.rows, report.clean) == ("alpaca", 73, 66)
    assert len(report.conflicts) == 3


def test_the_verdicts_of_kto_data_are_counted_and_its_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n % 3 == 0} for n in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = verify_file(path)
    assert (report.format, report.verdicts) == ("unpaired_preference", {"desirable": 3, "undesirable": 4})
    assert any("kto_tag" in note and "SFT never does" in note for note in report.notes)
    assert "verdicts: 3 desirable, 4 undesirable" in report_table(report)
    assert verify_file(path, "instruction").counts == {"FT-KEY-001": 7}


def test_a_text_that_an_encoder_would_not_read_whole_is_noted_with_an_estimate(tmp_path: Path):
    path = tmp_path / "corpus.jsonl"
    rows = [
        {"_id": "a", "text": "word " * 30},
        {"_id": "b", "text": "密码学是一门科学。" * 40},
        {"_id": "c", "text": "x y " * 90},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    (note,) = verify_file(path).notes
    assert "about 362 tokens (an estimate; line 2)" in note and "corpus.max_tokens" in note
    path.write_text(json.dumps(rows[0]) + "\n", "utf-8")
    assert verify_file(path).notes == []
