"""Dialogues of which every answer is learned: a record for each, in one group, as the marks of single answers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.column_map import ColumnMap
from expectations.formats.dialect import ReadPolicy, Turns
from expectations.formats.instruction import InstructionRecord
from expectations.reading import Rejected
from expectations.records.read import read_records
from expectations.verify import Report, verify_file
from expectations.verify_reports import report_json, report_markdown, report_table

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "How long is an AES block?"},
    {"role": "assistant", "content": "<think>FIPS 197</think>128 bits."},
    {"role": "user", "content": "And its key?"},
    {"role": "assistant", "content": "128, 192 or 256 bits.", "reasoning_content": "three sizes"},
    {"role": "user", "content": "Since when?"},
    {"role": "assistant", "content": "2001."},
]


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(
    folder: Path, *rows: object, turns: Turns = "all", mapping: ColumnMap | None = None
) -> tuple[list[InstructionRecord], list[tuple[int, str, str]]]:
    """Return the records, and (line, code, path) of the rejected rows."""
    policy = ReadPolicy(turns=turns)
    found = list(read_records(write(folder, *rows), "instruction", policy=policy, mapping=mapping or ColumnMap()))
    rejected = [(row.line, row.code, row.path) for row in found if isinstance(row, Rejected)]
    return [row for row in found if isinstance(row, InstructionRecord)], rejected


def verify(folder: Path, *rows: object, turns: Turns = "all") -> Report:
    return verify_file(write(folder, *rows), policy=ReadPolicy(turns=turns))


def test_each_answer_is_a_record_with_the_turns_before_and_its_own_reasoning(tmp_path: Path) -> None:
    records, rejected = read(tmp_path, {"id": "c7", "messages": CHAT})
    assert rejected == []
    assert [(r.record_id, r.question, r.answer, r.reasoning, len(r.history)) for r in records] == [
        ("c7#1", "How long is an AES block?", "128 bits.", "FIPS 197", 0),
        ("c7#2", "And its key?", "128, 192 or 256 bits.", "three sizes", 1),
        ("c7", "Since when?", "2001.", "", 2),
    ]
    assert {(r.group, r.system) for r in records} == {("c7", "Answer briefly.")}
    assert records[2].history[0].answer == "128 bits."


def test_the_last_answer_keeps_its_id_and_a_group_that_is_given_stays(tmp_path: Path) -> None:
    (last,), _ = read(tmp_path, {"messages": CHAT}, turns="last")
    every, _ = read(tmp_path, {"messages": CHAT})
    assert every[-1].record_id == last.record_id and last.group == ""
    assert {r.group for r in every} == {last.record_id}
    grouped, _ = read(tmp_path, {"messages": CHAT, "group": "aes"})
    assert {r.group for r in grouped} == {"aes"}


def test_rows_of_one_answer_are_what_they_were(tmp_path: Path) -> None:
    row = {"instruction": "How long is an AES block?", "output": "128 bits."}
    assert read(tmp_path, row) == read(tmp_path, row, turns="last")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q2?", "input": "a text", "output": "A2.", "history": [["Q1?", "A1."]]},
        {"query": "Q2?", "response": "A2.", "history": [["Q1?", "A1."]]},
        {"question": "Q2?", "answer": "A2.", "history": [{"question": "Q1?", "answer": "A1."}]},
        {"prompt": "Q2?", "completion": "A2.", "history": [["Q1?", "A1."]]},
        {"conversation": [{"input": "Q1?", "output": "A1."}, {"input": "Q2?", "output": "A2."}]},
        {
            "conversations": [
                {"from": "human", "value": "Q1?"},
                {"from": "gpt", "value": "A1."},
                {"from": "human", "value": "Q2?"},
                {"from": "gpt", "value": "A2."},
            ]
        },
    ],
    ids="-".join,
)
def test_every_form_of_a_dialogue(tmp_path: Path, row: dict[str, Any]) -> None:
    records, rejected = read(tmp_path, row)
    assert [(r.question, r.answer) for r in records] == [("Q1?", "A1."), ("Q2?", "A2.")], rejected
    assert records[0].context == []  # Alpaca's input belongs to the last question


def test_passages_are_given_with_every_answer(tmp_path: Path) -> None:
    records, _ = read(tmp_path, {"messages": CHAT, "documents": ["AES is a block cipher."]})
    assert [r.context for r in records] == [["AES is a block cipher."]] * 3


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": 0.0}, {"training": False}])
def test_an_answer_that_is_marked_is_history_only(tmp_path: Path, mark: dict[str, Any]) -> None:
    chat = [dict(message) for message in CHAT]
    chat[2] |= mark
    chat[6] |= {next(iter(mark)): 1}
    records, rejected = read(tmp_path, {"id": "c7", "messages": chat})
    assert rejected == []
    assert [(r.record_id, len(r.history)) for r in records] == [("c7#2", 1), ("c7", 2)]
    report = verify(tmp_path, {"id": "c7", "messages": chat})
    assert (report.not_read, report.not_learned, report.clean) == ({}, 1, 2)


def test_the_last_answer_may_be_marked_where_every_answer_is_learned(tmp_path: Path) -> None:
    chat = [*CHAT[:6], CHAT[6] | {"weight": 0}]
    records, _ = read(tmp_path, {"id": "c7", "messages": chat})
    assert [r.record_id for r in records] == ["c7#1", "c7"]
    assert read(tmp_path, {"messages": chat}, turns="last")[1] == [(1, "FT-KEY-002", "$.messages[6].weight")]


def test_a_dialogue_without_an_answer_to_learn_is_refused(tmp_path: Path) -> None:
    chat = [message | ({"weight": 0} if message["role"] == "assistant" else {}) for message in CHAT]
    assert read(tmp_path, {"messages": chat}) == ([], [(1, "FT-KEY-002", "$.messages[6].content")])
    assert read(tmp_path, {"messages": CHAT, "weight": 0})[1] == [(1, "FT-KEY-002", "$.weight")]


def test_marks_are_found_under_a_map(tmp_path: Path) -> None:
    chat = [*CHAT[:2], CHAT[2] | {"weight": 0}, *CHAT[3:]]
    records, _ = read(tmp_path, {"id": "c7", "dialog": chat}, mapping=ColumnMap(columns={"messages": "dialog"}))
    assert [r.record_id for r in records] == ["c7#2", "c7"]


def test_a_row_is_used_whole_or_not_at_all(tmp_path: Path) -> None:
    bad = [*CHAT[:4], CHAT[4] | {"content": " ", "reasoning_content": None}, *CHAT[5:]]
    records, rejected = read(tmp_path, {"messages": bad}, {"messages": CHAT})
    assert rejected == [(1, "FT-INST-003", "$.messages[4].content")]
    assert [r.line_no for r in records] == [2, 2, 2]
    slots = [
        {"messages": [*CHAT[:4], CHAT[4] | {"content": f"Case {n}: Name: {{{{ name }}}} is it."}, *CHAT[5:]]}
        for n in range(5)
    ]
    records, rejected = read(tmp_path, *slots)
    assert {code for _, code, _ in rejected} == {"FT-TEXT-002"}
    assert len(records) + 3 * len(rejected) == 15


def test_the_report_counts_what_is_not_learned(tmp_path: Path) -> None:
    report = verify(tmp_path, {"messages": CHAT}, {"messages": CHAT[:3]}, turns="last")
    line = "2 earlier answers are history and not learned"
    assert (report.turns, report.not_learned, report.clean) == ("last", 2, 2)
    assert line in report_table(report) and line in report_markdown([report])
    assert report_json(report)["not_learned"] == 2
    every = verify(tmp_path, {"messages": CHAT})
    assert (every.turns, every.not_learned, every.clean) == ("all", 0, 3)
    assert "every answer is learned" in report_table(every)
    assert "turns:" not in report_table(verify(tmp_path, {"messages": CHAT[:3]}, turns="last"))


def test_pairs_have_no_turns(tmp_path: Path) -> None:
    pair = {"prompt": CHAT[:6], "chosen": CHAT[6:], "rejected": [{"role": "assistant", "content": "1977."}]}
    report = verify(tmp_path, pair)
    assert (report.clean, report.turns, report.not_learned) == (1, "", 0)
