"""Files whose columns and roles have other names: read under a map, and refused where the map does not fit."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.column_map import ColumnMap, keys_of
from expectations.formats.dialect import Dialect
from expectations.formats.instruction import InstructionRecord
from expectations.formats.registry import DIALECTS
from expectations.records.read import read_records
from expectations.verify import Report, verify_file
from tests.expectations.formats.test_dialects import FILES

CHATS = [
    {"frage": "How long is an AES block?", "antwort": "128 bits.", "quelle": "FIPS 197"},
    {"frage": "How long is a DES key?", "antwort": "56 bits.", "quelle": None},
]
QA = ColumnMap(columns={"question": "frage", "answer": "antwort"})


def write(folder: Path, rows: Sequence[dict[str, Any]], suffix: str = ".jsonl") -> Path:
    path = folder / f"rows{suffix}"
    match suffix:
        case ".json":
            path.write_text(json.dumps(rows), "utf-8")
        case ".parquet":
            pa: Any = import_module("pyarrow")  # it has no types
            import_module("pyarrow.parquet").write_table(pa.Table.from_pylist(list(rows)), path)
        case ".csv" | ".tsv":
            with path.open("w", encoding="utf-8", newline="") as stream:
                table = csv.DictWriter(stream, list(rows[0]), delimiter="," if suffix == ".csv" else "\t")
                table.writeheader()
                table.writerows(rows)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def verify(folder: Path, rows: Sequence[dict[str, Any]], mapping: ColumnMap, format: str | None = None) -> Report:
    return verify_file(write(folder, rows), format, mapping=mapping)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_a_map_reads_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, CHATS, suffix)
    report = verify_file(path, mapping=QA)
    assert (report.format, report.dialect, report.clean, report.counts) == ("instruction", "instruction", 2, {})
    assert report.not_read.keys() == {"quelle"}
    records = list(read_records(path, "instruction", mapping=QA))
    assert [(r.question, r.answer) for r in records if isinstance(r, InstructionRecord)] == [
        ("How long is an AES block?", "128 bits."),
        ("How long is a DES key?", "56 bits."),
    ]


def test_a_mapped_row_has_the_id_of_the_same_row_in_the_canonical_form(tmp_path: Path) -> None:
    mapped, plain = (
        verify(tmp_path, CHATS[:1], QA),
        verify(tmp_path, [{"question": "How long is an AES block?", "answer": "128 bits."}], ColumnMap()),
    )
    assert mapped.first and plain.first and mapped.first["record_id"] == plain.first["record_id"]


def test_errors_name_the_column_of_the_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"frage": "", "antwort": "x"},
        {"frage": "Which?", "antwort": None},
        {"frage": "Which?"},
        {"frage": "Which?", "antwort": "{question}"},
        {"frage": "Which?", "antwort": "y", "docs": [{"no": "text"}]},
    ]
    report = verify(tmp_path, rows, ColumnMap(columns={**QA.columns, "context": "docs"}))
    assert [(row.line, row.code, row.path) for row in report.rejected] == [
        (1, "FT-INST-002", "$.frage"),
        (2, "FT-INST-001", "$.antwort"),
        (3, "FT-INST-001", "$.antwort"),
        (4, "FT-TEXT-002", "$.antwort"),
        (5, "FT-KEY-010", "$.docs"),
    ]


def test_residue_that_rows_repeat_names_the_column(tmp_path: Path) -> None:
    rows = [{"frage": f"Case {n}?", "antwort": f"It says Name: {{{{ name }}}} in case {n}."} for n in range(4)]
    report = verify(tmp_path, rows, QA)
    assert {row.path for row in report.rejected if row.code == "FT-TEXT-002"} == {"$.antwort"}


def test_a_column_that_has_the_name_of_a_mapped_key_is_another_key_now(tmp_path: Path) -> None:
    mapping = ColumnMap(columns={"question": "query", "answer": "gold"})
    rows = [{"query": "How long is an AES block?", "gold": "128 bits.", "answer": "64 bits.", "question": "no"}]
    report = verify(tmp_path, rows, mapping)
    assert report.first and report.first["answer"] == "128 bits."
    assert report.not_read == {"answer": 1, "question": 1}
    swapped = verify(
        tmp_path,
        [{"question": "128 bits.", "answer": "How long?"}],
        ColumnMap(columns={"question": "answer", "answer": "question"}),
    )
    assert swapped.first and (swapped.first["question"], swapped.first["answer"]) == ("How long?", "128 bits.")
    (failing,) = verify(
        tmp_path,
        [{"question": " ", "answer": "How long?"}],
        ColumnMap(columns={"question": "answer", "answer": "question"}),
    ).rejected
    assert (failing.code, failing.path) == ("FT-INST-003", "$.question")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"weight": 0}, "FT-KEY-002"),
        ({"tool_calls": [{"id": 1}]}, "FT-KEY-003"),
        ({"images": ["a.png"]}, "FT-KEY-004"),
        ({"rejected": "no"}, "FT-KEY-005"),
    ],
)
def test_keys_that_change_the_meaning_stay_refused(tmp_path: Path, more: dict[str, Any], code: str) -> None:
    report = verify(tmp_path, [CHATS[0] | more, CHATS[1]], QA)
    assert report.counts == {code: 1}


def test_every_optional_key_can_be_mapped(tmp_path: Path) -> None:
    row = {
        "nr": 7,
        "frage": "And its key?",
        "antwort": "128, 192 or 256 bits.",
        "gedanken": "FIPS 197 lists three.",
        "stellen": ["AES has three key lengths."],
        "rolle": "Answer briefly.",
        "davor": [["How long is an AES block?", "128 bits."]],
        "kapitel": "aes",
    }
    names = {"id": "nr", "reasoning": "gedanken", "context": "stellen", "system": "rolle", "history": "davor"}
    report = verify(tmp_path, [row], ColumnMap(columns={**QA.columns, **names, "group": "kapitel"}))
    assert (report.clean, report.not_read) == (1, {})
    assert report.first and report.first["record_id"] == "7" and report.first["group"] == "aes"
    assert report.first["history"] == [{"question": "How long is an AES block?", "answer": "128 bits."}]
    assert report.first["reasoning"] == "FIPS 197 lists three." and report.first["system"] == "Answer briefly."


def test_pairs_with_scores_from_csv(tmp_path: Path) -> None:
    rows = [{"frage": "How long?", "gut": "128 bits.", "schlecht": "64 bits.", "note_a": "4.5", "note_b": "2"}]
    names = {"question": "frage", "chosen": "gut", "rejected": "schlecht"}
    scores = {"chosen_score": "note_a", "rejected_score": "note_b"}
    report = verify_file(write(tmp_path, rows, ".csv"), mapping=ColumnMap(columns=names | scores))
    assert (report.format, report.clean) == ("preference", 1)
    assert report.first and report.first["margin"] == 2.5


@pytest.mark.parametrize(
    ("rows", "columns", "format", "found"),
    [
        ([{"nr": "q1", "frage": "How long?"}], {"id": "nr", "query": "frage"}, "query", {"query_id": "q1"}),
        ([{"nr": "q1", "frage": "How long?"}], {"query_id": "nr", "query": "frage"}, "query", {"query_id": "q1"}),
        (
            [{"q": "q1", "d": "aes", "note": "2"}],
            {"query-id": "q", "corpus-id": "d", "score": "note"},
            "qrels",
            {"query_id": "q1", "passage_id": "aes", "score": 2},
        ),
        (
            [{"nr": "aes", "inhalt": "128 bits."}],
            {"document_id": "nr", "text": "inhalt"},
            "passage",
            {"text": "128 bits."},
        ),
    ],
)
def test_retrieval_files_and_passages(
    tmp_path: Path, rows: list[dict[str, Any]], columns: dict[str, str], format: str, found: dict[str, Any]
) -> None:
    report = verify_file(write(tmp_path, rows, ".csv"), mapping=ColumnMap(columns=columns))
    assert (report.format, report.clean, report.counts) == (format, 1, {})
    assert report.first and {key: report.first[key] for key in found} == found


def test_dialogues_under_another_key_with_roles_of_their_own(tmp_path: Path) -> None:
    rows = [{"dialog": [{"from": "Mensch", "value": "How long?"}, {"from": "Maschine", "value": "128 bits."}]}]
    mapping = ColumnMap(columns={"messages": "dialog"}, roles={"mensch": "user", "Maschine": "assistant"})
    report = verify(tmp_path, rows, mapping)
    assert (report.dialect, report.clean) == ("messages", 1)
    assert any("`dialog` as `messages`" in note for note in report.notes)
    rows[0]["dialog"][1]["value"] = ""
    (failing,) = verify(tmp_path, rows, mapping).rejected
    assert failing.path == "$.dialog[1].value"


def test_roles_alone_leave_the_dialect_to_be_recognised(tmp_path: Path) -> None:
    turns = [{"role": "customer", "content": "How long?"}, {"role": "agent", "content": "128 bits."}]
    rows = [{"messages": turns}]
    assert verify(tmp_path, rows, ColumnMap()).counts == {"FT-INST-008": 1}
    assert verify(tmp_path, rows, ColumnMap(roles={"customer": "user", "agent": "assistant"})).clean == 1
    pair = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "agent", "content": "64 bits."}]}
    report = verify(tmp_path, [pair], ColumnMap(roles={"customer": "user", "agent": "assistant"}))
    assert (report.format, report.clean) == ("preference", 1)


def test_a_key_that_is_not_read_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    report = verify(tmp_path, CHATS, ColumnMap(columns={"qestion": "frage", "answer": "antwort"}))
    assert (report.exit_code, report.unreadable_code) == (2, "FT-MAP-001")
    assert "columns.qestion" in report.unreadable and "question: frage" in report.unreadable


@pytest.mark.parametrize("column", ["Frage", "fragen", "f"])
def test_a_column_that_no_row_has_is_refused_with_the_nearest_one(tmp_path: Path, column: str) -> None:
    report = verify(tmp_path, CHATS, ColumnMap(columns={"question": column, "answer": "antwort"}))
    assert (report.exit_code, report.unreadable_code) == (2, "FT-MAP-002")
    assert f"`{column}`" in report.unreadable and "question: frage" in report.unreadable


def test_an_optional_column_may_come_late_but_not_never(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"frage": f"Case {n}?", "antwort": f"Yes, {n}."} for n in range(300)]
    mapping = ColumnMap(columns={**QA.columns, "system": "rolle"})
    report = verify(tmp_path, rows, mapping)
    assert (report.exit_code, report.unreadable_code) == (2, "FT-MAP-002")
    rows[250]["rolle"] = "Answer briefly."
    assert verify(tmp_path, rows, mapping).clean == 300


def test_two_keys_for_one_column_are_refused(tmp_path: Path) -> None:
    report = verify(tmp_path, CHATS, ColumnMap(columns={"question": "frage", "answer": "frage"}))
    assert report.unreadable_code == "FT-MAP-003"


def test_keys_of_two_formats_are_refused(tmp_path: Path) -> None:
    report = verify(tmp_path, CHATS, ColumnMap(columns={"answer": "antwort", "corpus-id": "frage"}))
    assert report.unreadable_code == "FT-MAP-001"


def test_the_quick_lane_and_the_general_way_agree(tmp_path: Path) -> None:
    rows = [{"frage": f"Case {n}?", "antwort": f"Yes, {n}.", "quelle": "x"} for n in range(400)]
    rows[300] |= {"answer": "a stranger"}  # a row that the lane does not fit
    report = verify(tmp_path, rows, QA)
    assert (report.clean, report.not_read) == (400, {"quelle": 400, "answer": 1})


MAPPED = [dialect for dialect in DIALECTS if keys_of(dialect)]


@pytest.mark.parametrize("dialect", MAPPED, ids=[dialect.name for dialect in MAPPED])
def test_rows_of_every_dialect_are_the_same_under_other_names(tmp_path: Path, dialect: Dialect[Any]) -> None:
    _, name, rows = FILES[dialect.name]
    columns = {key: f"Spalte {key}" for key in sorted({key for row in rows for key in row} & keys_of(dialect))}
    renamed = [{columns.get(key, key): cell for key, cell in row.items()} for row in rows]
    reports: list[Report] = []
    for folder, lines, mapping in (("ours", rows, ColumnMap()), ("theirs", renamed, ColumnMap(columns=columns))):
        path = tmp_path / folder / name
        path.parent.mkdir()
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        reports.append(verify_file(path, dialect.name, mapping=mapping))
    ours, theirs = reports
    assert (theirs.unreadable, theirs.rows, theirs.counts) == ("", ours.rows, ours.counts)
    assert theirs.first == ours.first
