"""Rows of every dialect become records; what is wrong is rejected on its line, with its path and a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.formats.dialect import ReadPolicy, Turn
from expectations.formats.instruction import InstructionRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.recognise import recognise
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.formats.schemas import FOLDER, FORMATS, schema_text
from expectations.reading import Rejected
from expectations.records.duplicates import Duplicates
from expectations.records.read import read_records, write_quarantine
from expectations.violations import Refused

Write = Callable[..., Path]

ALPACA = {
    "instruction": "什么是 SM4？",
    "input": "",
    "output": "<thinking>\n想一想\n</thinking>\n\n分组密码。",
    "system": "专家",
}
DDR = {
    "query": "SM4 的分组长度？",
    "retrieval_result": ["SM4 是分组密码。", "分组长度 128 位。"],
    "ground_truth": "128 位",
    "id": 0,
    "chunk": "SM4……",
    "chosen": {"text": "128 位", "temperature": 0.5, "type": "aug", "rouge_score": 0.9},
    "rejected": {"text": "64 位", "temperature": 0.9, "type": "raw", "rouge_score": 0.2},
    "context": [{"text": "128 位", "temperature": 0.5, "type": "aug", "rouge_score": 0.9}],
}


def _one(write: Write, kind: Any, row: Any, **options: Any) -> Any:
    (record,) = read_records(write("rows.jsonl", [row]), kind, **options)
    return record


def _with(row: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A deep copy with the value at `a.b` replaced, or taken out when the value is ...."""
    copy = json.loads(json.dumps(row))
    *parents, last = path.split(".")
    target = copy
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return copy


class TestInstruction:
    def test_alpaca_becomes_a_record(self, write: Write) -> None:
        record = _one(
            write, "instruction", {**ALPACA, "input": "国密标准", "difficulty": "beginner", "evidence": ["p1"]}
        )
        assert isinstance(record, InstructionRecord)
        assert (record.question, record.context, record.system) == ("什么是 SM4？", ["国密标准"], "专家")
        assert (record.reasoning, record.answer) == ("想一想", "分组密码。")
        assert (record.difficulty, record.language, record.evidence) == ("beginner", "zh", ["p1"])
        assert (record.source, record.line_no) == ("rows.jsonl", 1)

    def test_messages_become_a_record(self, write: Write) -> None:
        messages = [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because.", "reasoning_content": "hm"},
        ]
        record = _one(write, "instruction", {"id": "m-1", "messages": messages})
        assert (record.record_id, record.system, record.question) == ("m-1", "s", "Why?")
        assert (record.reasoning, record.answer, record.language) == ("hm", "Because.", "en")

    def test_what_was_written_is_read_back_the_same(self, write: Write) -> None:
        record = _one(write, "instruction", ALPACA)
        again = _one(write, "instruction", msgspec.to_builtins(record))
        assert again == record

    @pytest.mark.parametrize(
        ("output", "reasoning", "answer"),
        [
            ("<thinking>a</thinking>b", "a", "b"),
            ("<think>\na\n</think>\n\nb", "a", "b"),
            ("＜think＞a＜/think＞b", "a", "b"),
            ("a\n</think>\n\nb", "a", "b"),
            ("<think></think>b", "", "b"),
            ("b", "", "b"),
        ],
    )
    def test_thinking_is_told_from_the_answer(self, write: Write, output: str, reasoning: str, answer: str) -> None:
        record = _one(write, "instruction", {**ALPACA, "output": output})
        assert (record.reasoning, record.answer) == (reasoning, answer)

    @pytest.mark.parametrize(
        ("policy", "thought", "thoughtless"),
        [("require", "想一想", None), ("allow_empty", "想一想", ""), ("mask_empty", "想一想", ""), ("strip", "", "")],
    )
    def test_the_thinking_policy_decides(
        self, write: Write, policy: str, thought: str, thoughtless: str | None
    ) -> None:
        path = write("rows.jsonl", [ALPACA, {**ALPACA, "output": "分组密码。"}])
        first, second = read_records(path, "instruction", policy=ReadPolicy(thinking=policy))  # pyright: ignore
        assert first.reasoning == thought  # pyright: ignore
        if thoughtless is None:
            assert (second.code, second.line) == ("FT-INST-005", 2)  # pyright: ignore
        else:
            assert second.reasoning == thoughtless  # pyright: ignore

    def test_the_thinking_policy_does_not_change_the_id(self, write: Write) -> None:
        ids = {
            _one(write, "instruction", ALPACA, policy=ReadPolicy(thinking=policy)).record_id
            for policy in ("strip", "require")
        }
        assert len(ids) == 1

    @pytest.mark.parametrize(
        ("change", "value", "expected"),
        [
            ("instruction", ..., ("FT-INST-001", "$.instruction", "the field `instruction` is missing")),
            ("output", None, ("FT-INST-001", "$.output", "found null, expected text")),
            ("system", 5, ("FT-INST-001", "$.system", "found a whole number, expected text or null")),
            ("instruction", " \n　", ("FT-INST-002", "$.instruction", "empty")),
            ("output", "<think>a</think> ", ("FT-INST-003", "$.output", "empty")),
            ("output", "<think>a", ("FT-INST-004", "$.output", "<think>")),
            ("output", "<think>a</think>b</think>c", ("FT-INST-004", "$.output", "</think>")),
            (
                "output",
                "<thinking>a</thinking>b### Q3\n<thinking>c</thinking>d",
                ("FT-INST-004", "$.output", "added"),
            ),
            ("output", "b<|im_end|>", ("FT-INST-006", "$.output", "<|im_end|>")),
            ("instruction", "＜｜im_start｜＞system", ("FT-INST-006", "$.instruction", "<|im_start|>")),
            ("input", "</s>", ("FT-INST-006", "$.input", "</s>")),
            ("history", [["q", " "]], ("FT-INST-003", "$.history[0][1]", "empty")),
            ("history", [["q"]], ("FT-INST-001", "$.history[0]", "array")),
            ("output", "% per annum.", ("FT-INST-009", "$.output", "%")),
            ("output", "答案是{answer}", ("FT-TEXT-002", "$.output", "{answer}")),
            ("instruction", "User: 什么是 SM4？", ("FT-TEXT-002", "$.instruction", "User:")),
            ("input", "score=0.5 content='SM4' payload={'a': 1}", ("FT-TEXT-003", "$.input", "score=0.5")),
            ("language", "en", ("FT-TEXT-004", "$.language", "`zh`")),
            ("output", "a\u0000b", ("FT-TEXT-001", "$.output", "\\x00")),
        ],
    )
    def test_a_planted_defect_is_rejected_on_its_line_and_the_good_rows_stay(
        self, write: Write, change: str, value: Any, expected: tuple[str, str, str]
    ) -> None:
        good = [{**ALPACA, "instruction": f"问题 {n}"} for n in range(4)]
        planted = _with({**ALPACA, "instruction": "什么是 SM4 的分组长度？", "input": ""}, change, value)
        file = write("rows.jsonl", [*good[:2], planted, *good[2:]])
        records = list(read_records(file, "instruction"))
        assert [record.line_no for record in records if isinstance(record, InstructionRecord)] == [1, 2, 4, 5]
        (rejected,) = (record for record in records if isinstance(record, Rejected))
        assert (rejected.line, rejected.code, rejected.path) == (3, *expected[:2])
        assert expected[2] in rejected.reason

    @pytest.mark.parametrize(
        ("roles", "code"),
        [
            (["user", "user", "assistant"], "FT-INST-008"),
            (["user", "assistant", "tool", "assistant"], "FT-INST-008"),
            (["assistant", "user"], "FT-INST-008"),
            (["user"], "FT-INST-008"),
            ([], "FT-INST-008"),
        ],
    )
    def test_roles_out_of_order_are_rejected(self, write: Write, roles: list[str], code: str) -> None:
        row = {"messages": [{"role": role, "content": "x"} for role in roles]}
        assert _one(write, "instruction", row).code == code

    def test_of_a_dialogue_the_last_answer_is_trained_on_and_the_rest_is_history(self, write: Write) -> None:
        said = ["什么是 SM4？", "<think>想</think>分组密码。", "密钥多长？", "<think>再想</think>128 位。"]
        turns = [("user", said[0]), ("assistant", said[1]), ("user", said[2]), ("assistant", said[3])]
        rows = [
            {"messages": [{"role": role, "content": text} for role, text in turns]},
            {"conversations": [{"from": {"user": "human"}.get(role, "gpt"), "value": text} for role, text in turns]},
            {"instruction": said[2], "output": said[3], "history": [said[:2]]},
            {"prompt": [{"role": role, "content": text} for role, text in turns[:3]],
             "completion": [{"role": "assistant", "content": said[3]}]},
        ]  # fmt: skip
        records = [_one(write, "instruction", row) for row in rows]
        assert {(r.question, r.reasoning, r.answer) for r in records} == {("密钥多长？", "再想", "128 位。")}
        assert all(r.history == [Turn("什么是 SM4？", "分组密码。")] for r in records)
        assert len({r.record_id for r in records}) == 1


class TestPreference:
    def test_ddr_becomes_a_record(self, write: Write) -> None:
        record = _one(write, "preference", DDR)
        assert isinstance(record, PreferenceRecord)
        assert (record.question, record.chosen, record.rejected) == ("SM4 的分组长度？", "128 位", "64 位")
        assert record.context == DDR["retrieval_result"]
        assert (record.chosen_score, record.rejected_score, record.margin) == (0.9, 0.2, 0.7)
        assert record.group

    def test_a_line_number_that_ddr_calls_id_is_no_identity(self, write: Write) -> None:
        other = {**DDR, "query": "SM3 的摘要长度？"}
        assert _one(write, "preference", DDR).record_id != _one(write, "preference", other).record_id
        assert _one(write, "preference", {**DDR, "id": 7}).record_id == _one(write, "preference", DDR).record_id
        assert _one(write, "preference", {**DDR, "id": "d-7"}).record_id == "d-7"

    def test_trl_and_the_canonical_form_become_records(self, write: Write) -> None:
        record = _one(write, "preference", {"prompt": "Why?", "chosen": "Because.", "rejected": "No."})
        assert (record.question, record.margin, record.language) == ("Why?", None, "en")
        assert _one(write, "preference", msgspec.to_builtins(record)) == record

    @pytest.mark.parametrize(
        ("change", "value", "expected"),
        [
            ("chosen", ..., ("FT-PREF-001", "$.chosen", "the field `chosen` is missing")),
            ("chosen.text", ..., ("FT-PREF-001", "$.chosen.text", "the field `text` is missing")),
            ("chosen.text", None, ("FT-PREF-001", "$.chosen.text", "found null, expected text")),
            ("chosen", "128 位", ("FT-PREF-001", "$.chosen", "found text, expected an object")),
            ("retrieval_result", [1], ("FT-PREF-001", "$.retrieval_result[0]", "found a whole number, expected text")),
            ("chosen.rouge_score", "0.9", ("FT-PREF-001", "$.chosen.rouge_score", "expected a number")),
            ("rejected.text", "　 ", ("FT-PREF-002", "$.rejected.text", "empty")),
            ("rejected.text", "128 位", ("FT-PREF-003", "$.rejected.text", "the same")),
            ("rejected.text", "１２８ 位。", ("FT-PREF-003", "$.rejected.text", "after normalisation")),
            ("rejected.rouge_score", 0.95, ("FT-PREF-004", "$.chosen", "0.9")),
            ("rejected.rouge_score", 0.9, ("FT-PREF-005", "$.chosen", "both are scored")),
            ("rejected.rouge_score", ..., ("FT-PREF-006", "$.rejected", "no score")),
            ("chosen", {"text": "128 位", "f1_score": 1}, ("FT-PREF-006", "$.rejected", "f1_score")),
            ("chosen.text", "128<|im_end|>", ("FT-PREF-007", "$.chosen.text", "<|im_end|>")),
            ("query", "", ("FT-PREF-008", "$.query", "empty")),
        ],
    )
    def test_a_planted_defect_is_rejected_on_its_line_and_the_good_rows_stay(
        self, write: Write, change: str, value: Any, expected: tuple[str, str, str]
    ) -> None:
        file = write("rows.jsonl", [DDR, _with(DDR, change, value), DDR])
        records = list(read_records(file, "preference"))
        assert [record.line_no for record in records if isinstance(record, PreferenceRecord)] == [1, 3]
        (rejected,) = (record for record in records if isinstance(record, Rejected))
        assert (rejected.line, rejected.code, rejected.path) == (2, *expected[:2])
        assert expected[2] in rejected.reason

    def test_a_margin_that_is_not_above_the_least_is_a_tie(self, write: Write) -> None:
        row = _with(_with(DDR, "chosen.rouge_score", 0.8), "rejected.rouge_score", 0.7)
        assert _one(write, "preference", row, policy=ReadPolicy(min_margin=0.1)).code == "FT-PREF-005"
        assert _one(write, "preference", row, policy=ReadPolicy(min_margin=0.09)).margin == 0.1

    def test_formulas_that_differ_in_a_sign_are_no_equals(self, write: Write) -> None:
        row = {"prompt": "q", "chosen": "2⁶⁴", "rejected": "264"}
        assert isinstance(_one(write, "preference", row), PreferenceRecord)


class TestRetrieval:
    def test_beir_queries_passages_and_qrels_become_records(self, write: Write) -> None:
        assert _one(write, "query", {"_id": 3, "text": "什么是 SM2？"}) == QueryRecord(
            query_id="3", query="什么是 SM2？", language="zh", source="rows.jsonl", line_no=1
        )
        assert _one(write, "passage", {"_id": "d", "title": "T", "text": "x"}) == PassageRecord(
            document_id="d", title="T", text="x", source="rows.jsonl", line_no=1
        )
        rows = ["query-id\tcorpus-id\tscore", "q\td\t2", "q\te\t0"]
        expected = [("q", "d", 2, 2), ("q", "e", 0, 3)]
        records = list(read_records(write("qrels.tsv", rows), "qrels"))
        assert [
            (r.query_id, r.passage_id, r.score, r.line_no) for r in records if isinstance(r, QrelRecord)
        ] == expected
        headless = list(read_records(write("qrels.tsv", rows[1:]), "qrels"))
        assert [r.line_no for r in headless if isinstance(r, QrelRecord)] == [1, 2]

    @pytest.mark.parametrize(
        ("row", "code", "path"),
        [
            ("q\td", "FT-QREL-001", "$"),
            ("q\td\t1\tx", "FT-QREL-001", "$"),
            ("\td\t1", "FT-QREL-002", "$[0]"),
            ("q\td\t1.5", "FT-QREL-003", "$[2]"),
            ("q\td\thigh", "FT-QREL-003", "$[2]"),
        ],
    )
    def test_a_wrong_judgement_is_rejected(self, write: Write, row: str, code: str, path: str) -> None:
        records = list(read_records(write("qrels.tsv", ["q\ta\t1", row, "q\tb\t1"]), "qrels"))
        assert [(r.line, r.code, r.path) for r in records if isinstance(r, Rejected)] == [(2, code, path)]

    @pytest.mark.parametrize(
        ("kind", "row", "code", "path"),
        [
            ("query", {"_id": "q"}, "FT-QRY-001", "$.text"),
            ("query", {"_id": "q", "text": " "}, "FT-QRY-002", "$.text"),
            ("query", {"_id": "", "text": "x"}, "FT-QRY-002", "$._id"),
            ("passage", {"text": "x", "title": "t"}, "FT-PSG-001", "$._id"),
            ("passage", {"_id": "d", "text": ""}, "FT-PSG-002", "$.text"),
            ("passage", {"_id": "a\nb\u0007", "text": "x"}, "FT-TEXT-001", "$._id"),
        ],
    )
    def test_a_wrong_query_or_passage_is_rejected(
        self, write: Write, kind: Any, row: dict[str, str], code: str, path: str
    ) -> None:
        rejected = _one(write, kind, row)
        assert (rejected.code, rejected.path) == (code, path)


def test_rows_of_no_known_dialect_are_all_rejected_with_what_would_be_read(write: Write) -> None:
    rows = list(read_records(write("rows.jsonl", [{"frage": "x"}, 5, ["a"]]), "instruction"))
    assert [row.code for row in rows] == ["FT-DIALECT-001"] * 3  # pyright: ignore
    assert "alpaca (instruction, output)" in rows[0].reason  # pyright: ignore


def test_the_dialect_of_a_file_is_recognised_and_the_row_that_disagrees_rejected(write: Write) -> None:
    path = write("mixed.jsonl", [ALPACA, {"messages": []}, ALPACA, 7])
    assert recognise(path).name == "alpaca"
    rejected = [row for row in read_records(path, "instruction") if isinstance(row, Rejected)]
    assert [(row.line, row.code) for row in rejected] == [(2, "FT-DIALECT-002"), (4, "FT-INST-001")]
    with pytest.raises(Refused, match="FT-DIALECT-001"):
        recognise(write("other.jsonl", [{"frage": "q", "antwort": "p"}]))


class TestDuplicates:
    def test_repetitions_are_rejected_and_the_first_stays(self, write: Write) -> None:
        rows = [
            {"id": "a", "instruction": "什么是 SM4？", "output": "分组密码"},
            {"id": "b", "instruction": "什么是 SM3？", "output": "杂凑算法"},
            {"id": "a", "instruction": "什么是 SM9？", "output": "标识密码"},
            {"id": "c", "instruction": "什么是 ＳＭ４？ ", "output": "分组密码。"},
        ]
        sifted = list(Duplicates().sift(read_records(write("rows.jsonl", rows), "instruction")))
        rejected = [row for row in sifted if isinstance(row, Rejected)]
        assert [(row.line, row.code) for row in rejected] == [(3, "FT-DUP-001"), (4, "FT-DUP-002")]
        assert "rows.jsonl:1" in rejected[0].reason

    def test_different_answers_to_one_question_are_kept_and_reported(self, write: Write) -> None:
        rows = [
            {"instruction": "真实性是什么？", "output": "甲"},
            {"instruction": "真实性 是什么", "output": "乙"},
            {"instruction": "真实性是什么？", "input": "另一段", "output": "丙"},
            {"instruction": "真实性是什么？", "output": "丁"},
        ]
        duplicates = Duplicates()
        sifted = list(duplicates.sift(read_records(write("rows.jsonl", rows), "instruction")))
        assert not [row for row in sifted if isinstance(row, Rejected)]
        (conflict,) = duplicates.conflicts
        assert conflict.lines == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:4"]
        assert conflict.answers == ["甲", "乙", "丁"]

    def test_a_pair_preferred_both_ways_is_a_conflict_and_another_chosen_text_is_none(self, write: Write) -> None:
        rows = [
            {"prompt": "q", "chosen": chosen, "rejected": rejected}
            for chosen, rejected in [("a", "b"), ("c", "b"), ("b", "a")]
        ]
        duplicates = Duplicates()
        assert len(list(duplicates.sift(read_records(write("rows.jsonl", rows), "preference")))) == 3
        assert [conflict.lines for conflict in duplicates.conflicts] == [["rows.jsonl:1", "rows.jsonl:3"]]

    def test_a_pair_judged_twice_counts_once(self, write: Write) -> None:
        path = write("qrels.tsv", ["q\td\t1", "q\td\t1", "q\td\t2", "q\te\t1"])
        rejected = [row for row in Duplicates().sift(read_records(path, "qrels")) if isinstance(row, Rejected)]
        assert [(row.line, row.code) for row in rejected] == [(2, "FT-DUP-002"), (3, "FT-QREL-004")]


def test_the_quarantine_is_jsonl_with_place_reason_and_fix(write: Write, tmp_path: Path) -> None:
    rows = read_records(write("rows.jsonl", [ALPACA, {**ALPACA, "output": ""}]), "instruction")
    target = tmp_path / "quarantine.jsonl"
    assert write_quarantine(target, (row for row in rows if isinstance(row, Rejected))) == 1
    (line,) = target.read_text("utf-8").splitlines()
    assert set(json.loads(line)) == {
        "file", "file_sha256", "line", "offset", "code", "path", "reason", "raw", "suggestion",
    }  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_the_published_schemas_are_fresh(name: str) -> None:
    published = (FOLDER / f"{name}.json").read_text("utf-8")
    assert published == schema_text(name), "run `python -m expectations.formats.schemas`"


class TestRealData:
    def test_the_chinese_cryptography_set_reads_as_instruction(self, shared: Path) -> None:
        path = shared / "data" / "crypto_qa_zh" / "thinking_training_data.json"
        duplicates = Duplicates()
        records = list(duplicates.sift(read_records(path, "instruction", policy=ReadPolicy(thinking="require"))))
        rejected = [record for record in records if isinstance(record, Rejected)]
        assert len(records) == 73
        # Seven answers hold the next question with its own <thinking>: glued on when the set was made.
        assert [row.code for row in rejected] == ["FT-INST-004"] * 7
        # Three instructions have two answers each; one of the six rows (line 30) is in the quarantine.
        assert {conflict.question for conflict in duplicates.conflicts} == {
            "什么是信息系统密码应用的基本要求？",
            "什么是不可否认性？",
            "什么是真实性？",
        }
        assert any(row.line == 30 and "什么是不可否认性？" in row.raw for row in rejected)
        assert all("thinking>" not in record.answer for record in records if isinstance(record, InstructionRecord))

    def test_toy_retrieval_files_are_clean(self, shared: Path) -> None:
        folder = shared / "data" / "ultrarag_examples" / "examples" / "finetuning" / "embedding"
        for name, kind in (("queries_toy.jsonl", "query"), ("corpus_toy.jsonl", "passage"), ("qrels_toy.tsv", "qrels")):
            assert recognise(folder / name).format.name == kind
            assert not [row for row in read_records(folder / name, kind) if isinstance(row, Rejected)]  # pyright: ignore
