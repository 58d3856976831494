"""Files of every dialect are recognised by their content; mixed and ambiguous files are reported as such."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from expectations.codes import CODES
from expectations.formats.registry import DIALECTS, FORMATS
from expectations.reading import Rejected
from expectations.records.read import Record, read_records
from expectations.verify import verify_file

Write = Callable[..., Path]

Q, A = "SM4 的分组多长？", "128 位。"
TEXT = "SM4 是分组密码，分组长度 128 位。"
TURNS = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
BETTER = {"text": A, "temperature": 0.5, "type": "aug", "rouge_score": 0.9}
WORSE = {"text": "64 位。", "temperature": 0.9, "type": "raw", "rouge_score": 0.2}
QUESTIONS: list[dict[str, Any]] = [{"id": "Q0", "question": Q, "answers": [{"text": "128 位", "answer_start": 12}]}]
DOCUMENT: dict[str, Any] = {"title": "SM4", "paragraphs": [{"context": TEXT, "qas": QUESTIONS}]}

# dialect -> (kind, file name, rows): the name matters only where the rows cannot tell
FILES: dict[str, tuple[str, str, list[Any]]] = {
    "alpaca": (
        "instruction",
        "rows.jsonl",
        [
            {
                "instruction": Q,
                "input": "",
                "output": f"<thinking>查标准</thinking>\n{A}",
                "system": "专家",
                "history": [],
            },
            {
                "instruction": "SM3 呢？",
                "output": "256 位。",
                "reasoning_content": "查",
                "difficulty": "beginner",
                "history": [[Q, f"<think>查</think>{A}"]],
            },
        ],
    ),
    "messages": ("instruction", "rows.jsonl", [{"messages": TURNS}]),
    "sharegpt": (
        "instruction",
        "rows.jsonl",
        [{"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]}],
    ),
    "prompt-completion": (
        "instruction",
        "rows.jsonl",
        [{"prompt": Q, "completion": A}, {"prompt": TURNS[:1], "completion": [TURNS[1] | {"content": "128"}]}],
    ),
    "instruction": ("instruction", "rows.jsonl", [{"question": Q, "answer": A, "context": [TEXT]}]),
    "ddr": (
        "preference",
        "rows.jsonl",
        [
            {
                "query": Q,
                "retrieval_result": [TEXT],
                "ground_truth": A,
                "keypoints": "1. 128",
                "id": 0,
                "raw_input": Q,
                "augment_input": Q,
                "context": [BETTER, WORSE],
                "chosen": BETTER,
                "rejected": WORSE,
            }
        ],
    ),
    "rag-ddr": (
        "preference",
        "rows.jsonl",
        [
            {
                "id": "1",
                "question": Q,
                "answer": A,
                "data_type": "qa",
                "cot": None,
                "passage": [{"segment": TEXT}],
                "chosen": {"text": A, "score": 1.0},
                "rejected": {"text": "64", "score": 0.0},
            }
        ],
    ),
    "trl": ("preference", "rows.jsonl", [{"prompt": Q, "chosen": A, "rejected": "64 位。"}]),
    "preference": (
        "preference",
        "rows.jsonl",
        [{"question": Q, "chosen": A, "rejected": "64 位。", "chosen_score": 1.0, "rejected_score": 0.5}],
    ),
    "conversation": (
        "instruction",
        "rows.jsonl",
        [
            {"source": "x", "conversation": [{"input": "SM4？", "output": "密码。"}, {"input": Q, "output": A}]},
            {"system": "专家", "conversation": [{"human": Q, "assistant": A}]},
        ],
    ),
    "prompt-response": ("instruction", "rows.jsonl", [{"prompt": Q, "response": A}]),
    "query-response": (
        "instruction",
        "rows.jsonl",
        [{"system": "专家", "query": Q, "response": A, "history": [["SM4？", "密码。"]]}],
    ),
    "instruction-response": (
        "instruction",
        "rows.jsonl",
        [{"instruction": Q, "context": TEXT, "response": A, "category": "closed_qa"}],
    ),
    "question-response": ("instruction", "rows.jsonl", [{"question": Q, "response": A}]),
    "input-output": ("instruction", "rows.jsonl", [{"input": Q, "output": A}]),
    "input-target": ("instruction", "rows.jsonl", [{"kind": "QA", "input": Q, "target": A}]),
    "question-response-o1": ("instruction", "rows.jsonl", [{"Question": Q, "Complex_CoT": "查", "Response": A}]),
    "ragas": (
        "instruction",
        "rows.jsonl",
        [{"question": Q, "answer": A, "contexts": [TEXT], "ground_truth": "一百二十八位。"}],
    ),
    "ragas-2": (
        "instruction",
        "rows.jsonl",
        [{"user_input": Q, "response": A, "retrieved_contexts": [TEXT], "reference": "一百二十八位。"}],
    ),
    "anthropic-hh": (
        "preference",
        "rows.jsonl",
        [
            {
                "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
                "rejected": f"\n\nHuman: {Q}\n\nAssistant: 64 位。",
            }
        ],
    ),
    "alpaca-preference": (
        "preference",
        "rows.jsonl",
        [{"instruction": Q, "input": TEXT, "chosen": A, "rejected": "64 位。"}],
    ),
    "alpaca-rejected": ("preference", "rows.jsonl", [{"instruction": Q, "output": A, "rejected": "64 位。"}]),
    "alpaca-ranked": ("preference", "rows.jsonl", [{"instruction": Q, "input": "", "output": [A, "64 位。"]}]),
    "query-preference": ("preference", "rows.jsonl", [{"query": Q, "chosen": A, "rejected": "64 位。"}]),
    "messages-preference": (
        "preference",
        "rows.jsonl",
        [{"messages": TURNS[:1], "chosen": TURNS[1], "rejected": {"role": "assistant", "content": "64 位。"}}],
    ),
    "sharegpt-preference": (
        "preference",
        "rows.jsonl",
        [
            {
                "conversations": [{"from": "human", "value": Q}],
                "chosen": {"from": "gpt", "value": A},
                "rejected": {"from": "gpt", "value": "64 位。"},
            }
        ],
    ),
    "swift-query": (
        "preference",
        "rows.jsonl",
        [{"query": Q, "response": A, "rejected_response": ["64 位。", "256 位。"]}],
    ),
    "swift-messages": ("preference", "rows.jsonl", [{"messages": TURNS, "rejected_response": "64 位。"}]),
    "swift-rejected-messages": (
        "preference",
        "rows.jsonl",
        [{"messages": TURNS, "rejected_messages": [TURNS[0], {"role": "assistant", "content": "64 位。"}]}],
    ),
    "kto-alpaca": (
        "unpaired_preference",
        "rows.jsonl",
        [
            {"instruction": Q, "input": TEXT, "output": A, "kto_tag": True},
            {"instruction": Q, "output": "<think>猜</think>64 位。", "kto_tag": False},
        ],
    ),
    "kto-messages": ("unpaired_preference", "rows.jsonl", [{"messages": TURNS, "label": False}]),
    "kto-sharegpt": (
        "unpaired_preference",
        "rows.jsonl",
        [{"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}], "kto_tag": True}],
    ),
    "kto-prompt-completion": (
        "unpaired_preference",
        "rows.jsonl",
        [
            {"prompt": Q, "completion": A, "label": True},
            {"prompt": TURNS[:1], "completion": [TURNS[1] | {"content": "64 位。"}], "label": 0},
        ],
    ),
    "kto-prompt-response": ("unpaired_preference", "rows.jsonl", [{"prompt": Q, "response": A, "label": "True"}]),
    "kto-query-response": (
        "unpaired_preference",
        "rows.jsonl",
        [{"query": Q, "response": A, "label": True, "history": [["SM3 呢？", "256 位。"]]}],
    ),
    "kto-instruction-response": ("unpaired_preference", "rows.jsonl", [{"instruction": Q, "response": A, "label": 1}]),
    "kto-question-response": ("unpaired_preference", "rows.jsonl", [{"question": Q, "response": A, "desired": False}]),
    "kto-question-answer": ("unpaired_preference", "rows.jsonl", [{"question": Q, "answer": A, "label": False}]),
    "kto-input-output": ("unpaired_preference", "rows.jsonl", [{"input": Q, "output": A, "label": False}]),
    "kto-input-target": ("unpaired_preference", "rows.jsonl", [{"input": Q, "target": A, "label": True}]),
    "kto-conversation": (
        "unpaired_preference",
        "rows.jsonl",
        [{"conversation": [{"human": Q, "assistant": A}], "label": True}],
    ),
    "kto-question-response-o1": (
        "unpaired_preference",
        "rows.jsonl",
        [{"Question": Q, "Complex_CoT": "查标准", "Response": A, "label": True}],
    ),
    "unpaired_preference": (
        "unpaired_preference",
        "rows.jsonl",
        [{"question": Q, "context": [TEXT], "answer": A, "desirable": True, "group": "SM4"}],
    ),
    "openai-preference": (
        "preference",
        "rows.jsonl",
        [
            {
                "input": {"messages": TURNS[:1], "tools": []},
                "preferred_output": TURNS[1:],
                "non_preferred_output": [{"role": "assistant", "content": "64 位。"}],
            }
        ],
    ),
    "kbalign-chunks": ("qa", "KB_0.jsonl", [{"id": 0, "content": TEXT, "questions": [Q], "answers": [A]}]),
    "kbalign-flat": ("qa", "rows.jsonl", [{"index": 0, "data": {"messages": TURNS}, "golden_reference": TEXT}]),
    "kbalign-merged": ("qa", "rows.jsonl", [{"messages": TURNS, "golden_reference": None}]),
    "kbalign-bm": ("qa", "rows.jsonl", [{"id": "23_0", "data": [f"User: {Q}\nAssistant: ", A]}]),
    "squad": ("qa", "dev.json", [{"version": "v1.0", "data": [DOCUMENT]}]),
    "squad-document": ("qa", "rows.jsonl", [DOCUMENT]),
    "rageval": (
        "qa",
        "rows.jsonl",
        [
            {
                "domain": "法律",
                "query": {"query_id": 1, "content": Q},
                "ground_truth": {"content": A, "doc_ids": [4], "references": [TEXT]},
            }
        ],
    ),
    "qa": ("qa", "rows.jsonl", [{"question": Q, "answer": A, "references": [TEXT], "golden_reference": None}]),
    "flag-embedding": ("retrieval_pair", "rows.jsonl", [{"query": Q, "pos": [TEXT], "neg": ["SM3 是散列算法。"]}]),
    "stard": (
        "retrieval_pair",
        "queries.json",
        [{"query_id": 0, "问题": Q, "相关法规": {"标准": TEXT}, "match_id": [1]}],
    ),
    "retrieval_pair": ("retrieval_pair", "rows.jsonl", [{"query": Q, "positives": [TEXT], "negatives": []}]),
    "beir-queries": ("query", "queries.jsonl", [{"_id": "q1", "text": Q}]),
    "query": ("query", "rows.jsonl", [{"query_id": "q1", "query": Q}]),
    "queries-tsv": ("query", "rows.tsv", [f"928\t{Q}", "929\tSM3 的摘要多长？"]),
    "beir-qrels-tsv": ("qrels", "rows.tsv", ["q1\td1\t1", "q1\td2\t0"]),
    "trec-qrels-tsv": ("qrels", "rows.tsv", ["347\t0\t25469\t1"]),
    "qrels-tsv": ("qrels", "qrels.dev.tsv", ["928\t25351", "1212\t6"]),
    "beir-qrels": ("qrels", "rows.jsonl", [{"query-id": "q1", "corpus-id": "d1", "score": 1}]),
    "query-columns": ("query", "rows.jsonl", [{"qid": 4, "text": Q}]),
    "passage-columns": ("passage", "rows.jsonl", [{"pid": 9, "title": "SM4", "text": TEXT}]),
    "passages-tsv": ("passage", "collection.tsv", [f"9\t{TEXT}"]),
    "sentence-transformers": ("retrieval_pair", "rows.jsonl", [{"anchor": Q, "positive": TEXT, "negative": "SM3。"}]),
    "tevatron": (
        "retrieval_pair",
        "rows.jsonl",
        [{"query_id": "7", "query": Q, "positive_passages": [{"docid": "d1", "title": "SM4", "text": TEXT}]}],
    ),
    "msmarco-triples": ("retrieval_pair", "triples.train.tsv", [f"{Q}\t{TEXT}\tSM3 是散列算法。"]),
    "squad-hub": (
        "qa",
        "rows.jsonl",
        [{"id": "s1", "title": "SM4", "context": TEXT, "question": Q, "answers": {"text": [A], "answer_start": [0]}}],
    ),
    "golden-answers": ("qa", "rows.jsonl", [{"id": 0, "question": Q, "golden_answers": [A], "meta_data": {}}]),
    "qrels": ("qrels", "rows.jsonl", [{"query_id": "q1", "passage_id": "d1", "score": 1}]),
    "beir-corpus": ("passage", "corpus.jsonl", [{"_id": "d1", "title": "SM4", "text": TEXT}]),
    "ultrarag-contents": ("passage", "rows.jsonl", [{"id": 17, "contents": TEXT}]),
    "ultrarag-documents": ("passage", "rows.jsonl", [{"title": "SM4", "content": TEXT}]),
    "passage": ("passage", "rows.jsonl", [{"document_id": "d1", "title": "SM4", "text": TEXT}]),
}


def test_every_dialect_has_a_fixture() -> None:
    assert set(FILES) == {dialect.name for dialect in DIALECTS}
    assert all(format.wrong_type in CODES for format in FORMATS.values())


@pytest.mark.parametrize("dialect", FILES)
def test_a_file_of_each_dialect_is_recognised_and_all_of_it_is_read(write: Write, dialect: str) -> None:
    kind, name, rows = FILES[dialect]
    report = verify_file(write(name, rows))
    assert (report.format, report.dialect, report.counts) == (kind, dialect, {})
    assert not [note for note in report.notes if note.startswith(("ambiguous", "mixed")) or "no dialect" in note]
    assert report.clean >= 1
    assert report.exit_code == 0


@pytest.mark.parametrize("dialect", [name for name, (_, file, _) in FILES.items() if not file.endswith(".tsv")])
def test_the_same_records_come_from_a_json_array(write: Write, tmp_path: Path, dialect: str) -> None:
    kind, name, rows = FILES[dialect]
    array = tmp_path / f"array-{name}"
    array.write_text(json.dumps(rows, ensure_ascii=False, indent=4), encoding="utf-8")
    assert verify_file(array).dialect == dialect
    assert _ids(array, kind) == _ids(write(name, rows), kind)


@pytest.mark.parametrize("dialect", FILES)
def test_what_a_record_was_written_as_is_read_as_the_same_record(write: Write, dialect: str) -> None:
    kind, name, rows = FILES[dialect]
    records = [msgspec.to_builtins(record) for record in read_records(write(name, rows), cast(Any, kind))]
    written = write(
        name.replace(".tsv", ".jsonl"), [{"format_version": FORMATS[kind].version} | row for row in records]
    )
    report = verify_file(written)
    assert (report.format, report.dialect, report.counts) == (kind, kind, {})
    again = [msgspec.to_builtins(record) for record in read_records(written, cast(Any, kind))]
    places = {"source", "line_no"}
    assert [{key: row[key] for key in row.keys() - places} for row in again] == [
        {key: row[key] for key in row.keys() - places} for row in records
    ]


def _ids(path: Path, kind: Any) -> list[str]:
    records = [record for record in read_records(path, kind) if not isinstance(record, Rejected)]
    return [_id_of(record) for record in records]


def _id_of(record: Record) -> str:
    fields = ("record_id", "query_id", "document_id")
    return next(getattr(record, field) for field in fields if hasattr(record, field))


def test_the_rows_of_another_dialect_are_named(write: Write) -> None:
    rows = [FILES["alpaca"][2][0], *FILES["flag-embedding"][2], FILES["alpaca"][2][1]]
    report = verify_file(write("mixed.jsonl", rows))
    assert report.dialect == "alpaca"
    assert report.notes == [
        "mixed: 1 of the first 3 rows look like `flag-embedding`, at line 2",
        "also used: `system`, `reasoning_content`",
    ]
    assert report.counts == {"FT-DIALECT-002": 1}
    assert report.rejected[0].line == 2


def test_a_verdict_on_a_passage_is_no_answer_to_prefer(write: Write) -> None:
    source = {"id": "1", "question": Q, "answer": A, "data_type": "qa", "error_passage": [{"segment": TEXT}]}
    pairs = (("YES", "NO"), ("NO", "YES"), (A, "NO"), ({"text": A}, "NO"))
    path = write("rows.jsonl", [{**source, "chosen": better, "rejected": worse} for better, worse in pairs])
    rejected = list(read_records(path, "preference"))
    assert [row.code for row in rejected if isinstance(row, Rejected)] == ["FT-PREF-009"] * 2 + ["FT-PREF-001"] * 2


def test_two_columns_of_ids_are_judgements_only_if_the_name_or_the_reader_says_so(write: Write) -> None:
    rows = ["928\t25351", "1212\t6"]
    assert verify_file(write("qrels.tsv", rows)).format == "qrels"
    report = verify_file(write("pairs.tsv", rows))
    assert (report.unreadable_code, report.clean) == ("FT-TAB-005", 0)
    assert "two ids a row" in report.unreadable
    assert verify_file(write("pairs.tsv", rows), "qrels").clean == 2


def test_a_table_of_other_columns_is_refused_row_by_row(write: Write) -> None:
    short, score, good = read_records(write("qrels.tsv", ["1\t0\t5", "1\t0\t5\tgut", "1\t0\t5\t1"]), "qrels")
    assert isinstance(short, Record)
    assert isinstance(score, Rejected)
    assert isinstance(good, Rejected)
    rows = ["1\t0\t5\t1", "1\t0\t5\tgut", "2\t0"]
    _, score, short = read_records(write("trec.tsv", rows), "qrels")
    assert isinstance(score, Rejected)
    assert (score.code, score.path) == ("FT-QREL-003", "$[3]")
    assert isinstance(short, Rejected)
    assert short.code == "FT-QREL-001"


def test_documents_without_an_id_are_named_by_what_they_say(write: Write) -> None:
    rows: list[dict[str, Any]] = [{"title": "SM4", "content": TEXT}, {"title": "SM3", "content": "SM3 是散列算法。"}]
    assert _ids(write("a.jsonl", rows), "passage") == _ids(write("b.jsonl", rows[::-1]), "passage")[::-1]
    assert verify_file(write("c.jsonl", [rows[0], rows[0]])).counts == {"FT-DUP-002": 1}


@pytest.mark.parametrize(
    "dialect", ["alpaca", "messages", "trl", "flag-embedding", "qa", "kbalign-flat", "beir-corpus"]
)
def test_parquet_and_folders_of_the_datasets_library_are_read(tmp_path: Path, dialect: str) -> None:
    datasets = pytest.importorskip("datasets")
    kind, name, rows = FILES[dialect]
    columns = {key for row in rows for key in row}
    rows = [dict.fromkeys(columns) | row for row in rows]  # the library takes its columns from the first row
    dataset = datasets.Dataset.from_list(rows)
    parquet = tmp_path / f"{name}.parquet"
    dataset.to_parquet(parquet)
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(folder)
    lines = tmp_path / name
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert verify_file(parquet).counts == {}
    assert _ids(parquet, kind) == _ids(lines, kind)
    assert _ids(folder, kind) == _ids(lines, kind) * 2
    assert verify_file(folder).format == kind


def test_a_file_packed_with_zstd_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "pairs.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(json.dumps(FILES["flag-embedding"][2][0], ensure_ascii=False).encode() + b"\n")
    assert verify_file(path).dialect == "flag-embedding"


# below shared/data: folder or file -> (format asked for, format, dialect)
REAL = {
    "cmrc2018/*.json": (None, "qa", "squad"),
    "crypto_qa_zh/*.json": (None, "instruction", "alpaca"),
    "flagembedding_examples/*/*.jsonl": (None, "retrieval_pair", "flag-embedding"),
    "stard/queries.json": (None, "retrieval_pair", "stard"),
    "stard/qrels.dev.tsv": (None, "qrels", "qrels-tsv"),
    "stard/qrels.train.tsv": (None, "qrels", "trec-qrels-tsv"),
    "stard/*.query.txt": ("query", "query", "queries-tsv"),
    "ultrarag_examples/examples/data_synthesis/*.jsonl": (None, "passage", "ultrarag-contents"),
    "ultrarag_examples/examples/workflow/*.jsonl": (None, "passage", "ultrarag-documents"),
    "ultrarag_examples/examples/finetuning/embedding/corpus*.jsonl": (None, "passage", "beir-corpus"),
    "ultrarag_examples/examples/finetuning/embedding/queries*.jsonl": (None, "query", "beir-queries"),
    "ultrarag_examples/examples/finetuning/embedding/qrels*.tsv": (None, "qrels", "beir-qrels"),
    "ultrarag_examples/examples/finetuning/generation/*.jsonl": (None, "qa", "rageval"),
}
KNOWN = {"FT-INST-004", "FT-QA-002", "FT-DUP-002"}
"""What is known to be wrong in these files: answers glued together, questions left empty."""


@pytest.mark.parametrize("pattern", REAL)
def test_real_files_are_recognised_and_what_fails_is_known(
    shared: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, kind, dialect = REAL[pattern]
    files = sorted((shared / "data").glob(pattern))
    if not files:
        pytest.skip(f"no {pattern} in the folder ../shared")
    for path in files:
        report = verify_file(path, asked)
        assert (report.format, report.dialect) == (kind, dialect), path.name
        expected = ("not used in training: `prompt`", "the longest text has about")
        assert {note for note in report.notes if not note.startswith(expected)} <= {"also used: `system`"}, path.name
        assert set(report.counts) <= KNOWN, path.name
        assert report.clean == report.rows - sum(report.counts.values()) > 0
    assert capsys.readouterr() == ("", "")


def test_folders_without_in_batch_negatives_are_told_by_their_name(shared: Path) -> None:
    files = sorted((shared / "data" / "flagembedding_examples").glob("*/*.jsonl"))
    for path in files:
        alone = {getattr(record, "in_batch_negatives", None) for record in read_records(path, "retrieval_pair")}
        assert alone == {not path.parent.name.endswith("no_in_batch_neg")}
