"""Keys that no field takes: refused where they change what the row means, named everywhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from expectations.codes import CODES
from expectations.formats.registry import DIALECTS
from expectations.formats.unread import MEANINGS, KeyReader, describe_unread
from expectations.verify import Report, verify_file
from expectations.verify_reports import report_github, report_junit, report_markdown, report_table

ALPACA = {"instruction": "How long is an AES block?", "output": "128 bits."}
CHAT = [{"role": "user", "content": "How long is an AES block?"}, {"role": "assistant", "content": "128 bits."}]


def verify(folder: Path, *rows: object, strict: bool = False) -> Report:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return verify_file(path, strict=strict)


@pytest.mark.parametrize(
    ("row", "code", "path"),
    [
        (ALPACA | {"label": False}, "FT-KEY-001", "$.label"),
        (ALPACA | {"kto_tag": True}, "FT-KEY-001", "$.kto_tag"),
        ({"messages": [CHAT[0], CHAT[1] | {"weight": 0}]}, "FT-KEY-002", "$.messages[1].weight"),
        ({"messages": [CHAT[0], CHAT[1] | {"train": False}]}, "FT-KEY-002", "$.messages[1].train"),
        ({"messages": CHAT, "tools": [{"name": "search"}]}, "FT-KEY-003", "$.tools"),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "FT-KEY-003",
            "$.messages[1].tool_calls",
        ),
        (ALPACA | {"images": ["block.png"]}, "FT-KEY-004", "$.images"),
        (ALPACA | {"rejected": "64 bits."}, "FT-KEY-005", "$.rejected"),
    ],
)
def test_a_key_that_changes_the_meaning_rejects_its_row_only(
    tmp_path: Path, row: Mapping[str, object], code: str, path: str
) -> None:
    good = {"messages": CHAT} if "messages" in row else ALPACA
    report = verify(tmp_path, good, row, good | {"id": "other"})
    rejected = [(failing.line, failing.path) for failing in report.rejected if failing.code == code]
    assert rejected == [(2, path)]
    assert report.rows - report.clean >= 1


def test_a_mark_on_an_earlier_answer_rejects_nothing_and_is_named(tmp_path: Path) -> None:
    earlier = [CHAT[0], CHAT[1] | {"loss": False}, {"role": "user", "content": "Sure?"}, CHAT[1] | {"loss": True}]
    report = verify(tmp_path, {"messages": earlier})
    assert (report.clean, report.not_read) == (1, {"messages[].loss": 1})


def test_empty_values_and_other_labels_change_nothing(tmp_path: Path) -> None:
    report = verify(tmp_path, ALPACA | {"tools": [], "images": None, "label": "crypto"})
    assert (report.clean, report.counts) == (1, {})
    assert set(report.not_read) == {"tools", "label"}


def test_every_other_key_is_named_with_its_rows_and_the_key_that_was_meant(tmp_path: Path) -> None:
    rows = [ALPACA | {"category": "ciphers"} for _ in range(200)]
    rows = [row | {"instruction": f"{row['instruction']} Case {n}"} for n, row in enumerate(rows)]
    report = verify(tmp_path, *rows, ALPACA | {"inptu": "Think of FIPS 197."})
    assert report.not_read == {"category": 200, "inptu": 1}  # most rows by the quick lane, one by the general way
    assert report.typos == {"inptu": "input"}
    assert (report.clean, report.exit_code) == (201, 0)
    line = "`category` (200 rows), `inptu` (1 row; did you mean `input`?)"
    assert describe_unread(report.not_read, report.typos) == line
    assert f"not read: {line}" in report_table(report)
    assert "did you mean" in report_github([report])
    assert "did you mean" in report_markdown([report])
    assert b"did you mean" in report_junit([report])


def test_strict_makes_a_key_that_is_not_read_a_failure(tmp_path: Path) -> None:
    report = verify(tmp_path, ALPACA | {"category": "ciphers"}, strict=True)
    assert (report.clean, report.exit_code) == (1, 1)
    assert b"<failure" in report_junit([report])
    assert verify(tmp_path, ALPACA, strict=True).exit_code == 0


def test_no_key_with_a_meaning_is_silently_lost_in_any_dialect_that_trains() -> None:
    for dialect in DIALECTS:
        reader = KeyReader(dialect)
        if reader.tree is None or not dialect.format.trained:
            continue
        for key in MEANINGS:
            unread = reader.find({key: [{"x": 1}]})
            assert key in reader.tree or key in dialect.also_has or [found.key for found in unread] == [key]
            assert MEANINGS[key].code in CODES


def test_the_keys_around_the_records_of_one_row_are_searched_too(tmp_path: Path) -> None:
    question = {
        "id": "q1",
        "question": "How long is an AES block?",
        "answers": [{"text": "128 bits", "answer_start": 0}],
    }
    paragraph = {"context": "128 bits is the size of an AES block.", "qas": [question | {"level": "easy"}]}
    report = verify(tmp_path, {"version": "1", "data": [{"title": "AES", "paragraphs": [paragraph]}]})
    assert (report.dialect, report.clean, report.not_read) == ("squad", 1, {"data[].paragraphs[].qas[].level": 1})


def test_a_key_that_is_null_in_the_first_rows_is_counted_and_refused_where_it_has_a_value(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"note": None, "label": None}
    rows = [ALPACA | empty | {"instruction": f"Case {n}?"} for n in range(200)]
    rows[150]["note"] = rows[160]["note"] = "later"
    rows[170]["label"] = False
    report = verify(tmp_path, *rows)
    assert report.not_read == {"note": 2}
    assert [(row.line, row.code, row.path) for row in report.rejected] == [(171, "FT-KEY-001", "$.label")]


def test_a_key_in_an_object_is_counted_in_the_rows_that_have_a_value(tmp_path: Path) -> None:
    answer: dict[str, Any] = {"text": "128 bits.", "rouge_score": 0.9, "remark": None}
    rows: list[dict[str, Any]] = [
        {
            "query": f"Case {n}?",
            "retrieval_result": [],
            "chosen": answer,
            "rejected": answer | {"text": "64", "rouge_score": 0},
        }
        for n in range(200)
    ]
    rows[150] = rows[150] | {"chosen": answer | {"remark": "good"}}
    assert verify(tmp_path, *rows).not_read == {"chosen.remark": 1}


def test_keys_of_passages_are_named_and_change_no_meaning(tmp_path: Path) -> None:
    passages = [{"text": "SM4 is a block cipher.", "docid": "d1", "label": 1, "score": 0.5}, "A text alone."]
    row = {"question": "How long is a block?", "answer": "128 bits.", "contexts": passages}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    report = verify_file(path)
    assert (report.clean, report.counts) == (1, {})
    assert report.not_read == {"contexts[].docid": 1, "contexts[].label": 1, "contexts[].score": 1}
