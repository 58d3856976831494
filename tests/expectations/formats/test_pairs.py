"""Queries with positives and negatives: what is read, and what is refused, on its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.pairs import RetrievalPairRecord
from expectations.reading import Rejected
from expectations.records.read import read_records
from expectations.verify import verify_file

Write = Callable[..., Path]

ROW = {
    "query": "SM4 的分组长度是多少？",
    "pos": ["SM4 的分组长度为 128 位。"],
    "neg": ["SM3 输出 256 位摘要。", "SM2 是椭圆曲线算法。"],
    "pos_scores": [0.9],
    "neg_scores": [0.2, 1],
    "prompt": "为问题找到段落：",
    "type": "normal",
}


def _read(path: Path) -> Any:
    (record,) = read_records(path, "retrieval_pair")
    return record


def test_a_flag_embedding_row_keeps_its_scores_prompt_and_type(write: Write) -> None:
    record = _read(write("pairs.jsonl", [ROW]))
    assert isinstance(record, RetrievalPairRecord)
    assert record.positives == ROW["pos"]
    assert record.negatives == ROW["neg"]
    assert record.positive_scores == [0.9]
    assert record.negative_scores == [0.2, 1.0]
    assert (record.prompt, record.task_type, record.language) == (ROW["prompt"], "normal", "zh")
    assert record.in_batch_negatives


def test_a_row_needs_neither_negatives_nor_scores(write: Write) -> None:
    record = _read(write("pairs.jsonl", [{"query": "What is SM3?", "pos": ["A hash function."]}]))
    assert record.negatives == []
    assert record.positive_scores is None


@pytest.mark.parametrize("name", ["sts-no_in_batch_neg.jsonl", "clustering-no_in_batch_neg/arxiv.jsonl"])
def test_the_name_of_the_file_or_its_folder_turns_in_batch_negatives_off(
    write: Write, tmp_path: Path, name: str
) -> None:
    (tmp_path / "clustering-no_in_batch_neg").mkdir()
    assert not _read(write(name, [ROW])).in_batch_negatives


def test_the_id_is_made_of_the_content_so_that_order_does_not_matter(write: Write) -> None:
    other = ROW | {"query": "SM3 的摘要多长？"}
    first = [record.record_id for record in read_records(write("a.jsonl", [ROW, other]), "retrieval_pair")]  # pyright: ignore
    second = [record.record_id for record in read_records(write("b.jsonl", [other, ROW]), "retrieval_pair")]  # pyright: ignore
    assert first == second[::-1]


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"pos": "SM4"}, "FT-PAIR-001", "$.pos"),
        ({"pos": ...}, "FT-PAIR-001", "$.pos"),
        ({"pos_scores": ["0.9"]}, "FT-PAIR-001", "$.pos_scores[0]"),
        ({"query": "　 "}, "FT-PAIR-002", "$.query"),
        ({"pos": []}, "FT-PAIR-003", "$.pos"),
        ({"pos": [" "]}, "FT-PAIR-003", "$.pos[0]"),
        ({"neg": [""], "neg_scores": None}, "FT-PAIR-004", "$.neg[0]"),
        ({"neg": ["SM2 是椭圆曲线算法。", "ＳＭ４ 的分组长度为 128 位"]}, "FT-PAIR-005", "$.neg[1]"),
        ({"neg": [["一", "二"]]}, "FT-PAIR-006", "$.neg[0]"),
        ({"neg_scores": [0.2]}, "FT-PAIR-007", "$.neg_scores"),
        ({"pos_scores": [0.9, 0.8]}, "FT-PAIR-007", "$.pos_scores"),
        ({"pos": ["SM4<|im_end|>"]}, "FT-PAIR-008", "$.pos[0]"),
        ({"neg": ["Document(page_content='SM2')"], "neg_scores": None}, "FT-TEXT-003", "$.neg[0]"),
        ({"language": "en"}, "FT-TEXT-004", "$.language"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(write: Write, change: dict[str, Any], code: str, path: str) -> None:
    row = {key: value for key, value in (ROW | change).items() if value is not ...}
    rejected = _read(write("pairs.jsonl", [row]))
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.path, rejected.line) == (code, path, 1)


def test_the_same_negative_twice_is_kept_and_the_same_row_twice_is_not(write: Write) -> None:
    row = ROW | {"neg": ["SM3", "SM3"]}
    report = verify_file(write("pairs.jsonl", [row, ROW, row]))
    assert (report.format, report.dialect, report.clean) == ("retrieval_pair", "flag-embedding", 2)
    assert report.counts == {"FT-DUP-002": 1}


def test_questions_with_the_texts_of_their_laws_become_pairs(write: Write) -> None:
    law = {"中华人民共和国密码法第七条": "核心密码、普通密码用于保护国家秘密信息。\n", "第八条": "商用密码用于……"}
    record = _read(write("queries.json", [{"query_id": 7, "问题": "谁能用商用密码？", "相关法规": law}]))
    assert record.record_id == "7"
    assert record.query == "谁能用商用密码？"
    assert record.positives == ["核心密码、普通密码用于保护国家秘密信息。", "商用密码用于……"]
