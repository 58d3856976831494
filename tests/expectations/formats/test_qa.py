"""Questions and answers in KBAlign's forms and others: what is taken out of a prompt, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.instruction import InstructionRecord
from expectations.formats.kbalign import parse_prompt, split_references
from expectations.formats.qa import QA, QaRecord
from expectations.reading import Rejected
from expectations.records.read import read_records
from expectations.verify import verify_file

Write = Callable[..., Path]

CHUNK = "SM4 是分组密码算法，分组长度为 128 位，密钥长度为 128 位。"
SHORT = (
    "User: You are an expert who have read a lot of knowledge base. Please answer the question according to the "
    "content of the KB. <KB3>You can refer to some segments from the KB to help you answer the question. References: \n"
    "1. SM4 has blocks of 128 bits.\nIt has 32 rounds.\n2. SM3 is a hash function.\n"
    "Now the question is: How long is a block of SM4?\nPlease answer this question.\nAssistant: "
)
PLAIN = (
    SHORT.partition("You can refer")[0] + "Now the question is: What is SM4?Please answer this question.\nAssistant: "
)
LONG_ZH = "User: 你是一个读过许多知识的专家。现在的问题是: SM2 与 SM9 有何不同？ 请你回答这个问题。"
SHORT_ZH = (
    "User: 你是一个法律知识专家，请你通过知识库直接回答问题你可以参考知识库中的一些片段来帮助您回答问题。参考内容：\n"
    "1. 密码法第八条\n2. 密码法第九条\n现在问题是：谁可以使用商用密码？请直接回答，不要有多余的内容。\nAssistant: "
)
TRIAL = """You are a teacher evaluating student responses. Remember:
        1. If it is right, start your response with 'The student response is correct because'.

        Now here are the materials:
        Reference: 1. SM4 has 32 rounds.
2. SM3 has 64 rounds.
        Question: How many rounds has SM4?
        Golden Answer: 32 rounds
        Student Response: It has 32.
It says so.
        Please generate your verification. You should start with the judgement."""


def _messages(user: str, assistant: str, golden: str | None = None) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": turns, "golden_reference": golden}


def _read(path: Path, kind: Any = "qa") -> list[Any]:
    return list(read_records(path, kind))


def test_a_chunk_becomes_one_record_for_each_question(write: Write) -> None:
    row: dict[str, Any] = {
        "id": 0,
        "content": CHUNK,
        "questions": ["SM4 的分组多长？", "SM4 的密钥多长？"],
        "answers": ["128 位", "128 位。"],
        "references": ["1. 甲\n2. 乙", ""],
    }
    first, second = _read(write("KB_0.jsonl", [row]))
    assert isinstance(first, QaRecord)
    assert (first.question, first.answer, first.references) == ("SM4 的分组多长？", "128 位", ["甲", "乙"])
    assert first.golden_reference == CHUNK
    assert first.dependency == "short"
    assert second.references == []
    assert first.group == second.group != ""
    assert first.record_id != second.record_id


def test_a_bad_answer_costs_its_question_and_unequal_lists_cost_the_row(write: Write) -> None:
    row: dict[str, Any] = {
        "id": 0,
        "content": CHUNK,
        "questions": ["一？", "二？", "三？"],
        "answers": ["对", "", ",000"],
    }
    good, empty, beheaded = _read(write("KB_0.jsonl", [row]))
    assert isinstance(good, QaRecord)
    assert (empty.code, empty.path) == ("FT-QA-003", "$.answers[1]")
    assert (beheaded.code, beheaded.path) == ("FT-QA-004", "$.answers[2]")
    (unequal,) = _read(write("KB_1.jsonl", [row | {"answers": ["对"]}]))
    assert (unequal.code, unequal.reason) == ("FT-QA-005", "found 3 questions, 1 answers")


@pytest.mark.parametrize(
    ("prompt", "question", "references", "dependency"),
    [
        (SHORT, "How long is a block of SM4?",
         ["SM4 has blocks of 128 bits.\nIt has 32 rounds.", "SM3 is a hash function."], "short"),
        (PLAIN, "What is SM4?", [], "short"),
        (LONG_ZH, "SM2 与 SM9 有何不同？", [], "long"),
        (SHORT_ZH, "谁可以使用商用密码？", ["密码法第八条", "密码法第九条"], "short"),
        ("User: What is SM4?\nAssistant: ", "What is SM4?", [], None),
        ("请你回答这个问题。什么是 SM4？", "请你回答这个问题。什么是 SM4？", [], None),
    ],
)  # fmt: skip
def test_question_and_references_are_taken_out_of_the_prompt(
    prompt: str, question: str, references: list[str], dependency: str | None
) -> None:
    found = parse_prompt(prompt)
    assert (found.question, found.references, found.dependency) == (question, references, dependency)


def test_numbers_out_of_turn_belong_to_the_text_they_stand_in() -> None:
    assert split_references("1. 甲\n3. 还是甲\n2. 乙") == ["甲\n3. 还是甲", "乙"]
    assert split_references("没有编号") == ["没有编号"]
    assert split_references(" ") == []


def test_flat_merged_and_bm_rows_say_the_same(write: Write) -> None:
    merged = _messages(SHORT, "128 bits", None)
    files = {
        "kbalign-flat": {"index": 4, "data": {"messages": merged["messages"]}, "golden_reference": None},
        "kbalign-merged": merged,
        "kbalign-bm": {"id": "23_0", "data": [SHORT, "128 bits"]},
    }
    found: set[str] = set()
    for dialect, row in files.items():
        path = write(f"{dialect}.jsonl", [row])
        assert verify_file(path).dialect == dialect
        (record,) = _read(path)
        assert record.question == "How long is a block of SM4?"
        assert len(record.references) == 2
        found.add(record.record_id)
    assert len(found) == 1


def test_a_json_array_under_a_jsonl_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "part2_verify.jsonl"
    row: dict[str, Any] = {"id": "1_0", "data": [TRIAL, "The student response is wrong because it is partial."]}
    path.write_text(json.dumps([row], indent=4), encoding="utf-8")
    (record,) = _read(path)
    assert record.verdict == "wrong"


def test_a_verification_is_taken_apart(write: Write) -> None:
    (record,) = _read(write("part2.jsonl", [_messages(TRIAL, "The student response is correct because it fits.")]))
    assert record.question == "How many rounds has SM4?"
    assert record.answer == "32 rounds"
    assert record.student_answer == "It has 32.\nIt says so."
    assert record.references == ["SM4 has 32 rounds.", "SM3 has 64 rounds."]
    assert (record.verdict, record.explanation) == ("correct", "it fits.")


def test_a_verification_without_a_verdict_is_refused_and_a_part_that_was_not_verified_is_qa(write: Write) -> None:
    rows = [_messages(TRIAL, "I think so."), _messages(PLAIN, "A block cipher.", CHUNK)]
    refused, unverified = _read(write("part2_verify.jsonl", rows))
    assert (refused.code, refused.path, refused.line) == ("FT-QA-007", "$.messages[1].content", 1)
    assert unverified.verdict is None
    assert unverified.golden_reference == CHUNK


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"answer": 7}, "FT-QA-001", "$.answer"),
        ({"verdict": "maybe"}, "FT-QA-001", "$.verdict"),
        ({"question": " "}, "FT-QA-002", "$.question"),
        ({"answer": "\n"}, "FT-QA-003", "$.answer"),
        ({"answer": "% per annum."}, "FT-QA-004", "$.answer"),
        ({"references": ["好", "SM4<|im_start|>"]}, "FT-QA-006", "$.references[1]"),
        ({"references": ["score=0.8 content='SM4' payload={'id': 3}"]}, "FT-TEXT-003", "$.references[0]"),
        ({"question": "User: 什么？"}, "FT-TEXT-002", "$.question"),
        ({"answer": "{answer}"}, "FT-TEXT-002", "$.answer"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(write: Write, change: dict[str, Any], code: str, path: str) -> None:
    row: dict[str, Any] = {"question": "什么是 SM4？", "answer": "分组密码。"} | change
    (rejected,) = _read(write("qa.jsonl", [row]))
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.path) == (code, path)


def test_prints_of_objects_in_a_prompt_are_refused(write: Write) -> None:
    printed = SHORT.replace("SM3 is a hash function.", "score=0.8 content='SM3' payload={'id': 3}")
    (rejected,) = _read(write("part1.jsonl", [_messages(printed, "128 bits")]))
    assert (rejected.code, rejected.path) == ("FT-TEXT-003", "$.messages[0].content")


def test_every_question_of_a_squad_file_is_a_record_with_its_paragraph(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {
            "id": "Q0",
            "question": "分组多长？",
            "answers": [{"text": "128 位", "answer_start": 15}, {"text": "为 128 位"}],
        },
        {"id": "Q1", "question": "", "answers": [{"text": "128 位"}]},
        {"id": "Q2", "question": "谁发明的？", "answers": []},
    ]
    document: dict[str, Any] = {"title": "SM4", "paragraphs": [{"id": "P", "context": CHUNK, "qas": asked}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"version": "v1.0", "data": [document]}, ensure_ascii=False, indent=2), "utf-8")
    good, silent, unanswered = _read(path)
    assert (good.record_id, good.answer, good.golden_reference) == ("Q0", "128 位", CHUNK)
    instruction = QA.bridges["instruction"](good)
    assert isinstance(instruction, InstructionRecord)
    assert instruction.context == [CHUNK], "SFT without the paragraph would train to guess"
    assert (silent.code, silent.path) == ("FT-QA-002", "$.data[0].paragraphs[0].qas[1].question")
    assert (unanswered.code, unanswered.path) == ("FT-QA-003", "$.data[0].paragraphs[0].qas[2].answers")
    lines = tmp_path / "documents.jsonl"
    lines.write_text(json.dumps(document, ensure_ascii=False) + "\n", "utf-8")
    assert verify_file(lines).dialect == "squad-document"
    assert [type(record) for record in _read(lines)] == [QaRecord, Rejected, Rejected]


def test_a_rageval_sample_keeps_references_and_documents(write: Write) -> None:
    row: dict[str, Any] = {
        "domain": "Law",
        "language": "zh",
        "query": {"query_id": 12, "content": "密码法何时施行？"},
        "ground_truth": {
            "content": "2020 年 1 月 1 日",
            "doc_ids": [44],
            "references": ["自 2020 年 1 月 1 日起施行。"],
        },
        "prediction": {"content": "不知道", "references": []},
    }
    (record,) = _read(write("samples.jsonl", [row]))
    assert (record.record_id, record.evidence) == ("12", ["44"])
    assert record.references == ["自 2020 年 1 月 1 日起施行。"]


def test_question_and_answer_become_an_instruction_with_the_references_as_context(write: Write) -> None:
    rows = [_messages(SHORT, "128 bits", CHUNK), _messages(PLAIN, "", CHUNK)]
    good, rejected = _read(write("part1.jsonl", rows), "instruction")
    assert isinstance(good, InstructionRecord)
    assert good.question == "How long is a block of SM4?"
    assert good.context == ["SM4 has blocks of 128 bits.\nIt has 32 rounds.", "SM3 is a hash function."]
    assert CHUNK not in good.context
    assert good.group
    assert rejected.code == "FT-QA-003"


def test_one_question_with_two_answers_is_a_conflict(write: Write) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "SM4 几轮？", "answer": answer, "references": []} for answer in ("32 轮", "16 轮")
    ]
    report = verify_file(write("qa.jsonl", rows))
    assert report.clean == 2
    assert [conflict.question for conflict in report.conflicts] == ["SM4 几轮？"]
