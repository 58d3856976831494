"""Tables: a header names the columns, quotes and line ends within cells, and tables that say too little."""

from __future__ import annotations

import json
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expectations.formats.registry import DIALECTS
from expectations.reading import RawRow, Rejected, read_raw_rows
from expectations.reading.tables import COLUMNS
from expectations.verify import Report, verify_file


def _write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _verify(folder: Path, name: str, text: str | bytes) -> Report:
    return verify_file(_write(folder, name, text))


def _values(path: Path) -> list[Any]:
    return [row.value for row in read_raw_rows(path) if isinstance(row, RawRow)]


def test_the_reader_knows_the_columns_of_every_dialect() -> None:
    marks = chain.from_iterable((*dialect.marks, *dialect.extra_marks) for dialect in DIALECTS)
    keys = set(chain.from_iterable(mark.split("|") for mark in marks))
    # o1's columns are read in lower case, as those of a question and its response; FT-KEY-008 keeps the reasoning
    only_json = {"Question", "Response", "Complex_CoT"}
    assert keys - COLUMNS - {"negative_1", "match_id"} - only_json == set()


@pytest.mark.parametrize(
    ("name", "start", "delimiter", "end"),
    [
        ("rows.csv", "", ",", "\n"),
        ("rows.csv", "", ";", "\r\n"),
        ("rows.csv", "\ufeff", ", ", "\n"),
        ("rows.csv", "sep=|\n", "|", "\n"),
        ("rows.tsv", "", "\t", "\n"),
        ("rows.jsonl", "", ",", "\n"),
    ],
)
def test_quotes_and_line_ends_within_cells_are_read(
    tmp_path: Path, name: str, start: str, delimiter: str, end: str
) -> None:
    rows = [
        ("Question", "answer"),
        ('"Which letter, is the\nfirst?"', '"The ""alpha""."'),
        ("And the last?", "The omega."),
    ]
    path = _write(tmp_path, name, start + "".join(delimiter.join(row) + end for row in rows))
    assert [list(value.values()) for value in _values(path)] == [
        ["Which letter, is the\nfirst?", 'The "alpha".'],
        ["And the last?", "The omega."],
    ]
    report = verify_file(path)
    assert (report.format, report.clean, report.rows, report.counts) == ("instruction", 2, 2, {})


def test_the_line_of_a_row_is_its_first_and_the_offset_its_place_in_the_file(tmp_path: Path) -> None:
    text = 'question,answer\n"a\n\nb",c\nd,e\nf\n"g",h\n'
    path = _write(tmp_path, "rows.csv", text)
    rows = list(read_raw_rows(path))
    assert [(row.line, row.offset) for row in rows] == [(2, 16), (5, 25), (6, 29), (7, 31)]
    assert isinstance(rows[2], Rejected)
    assert (rows[2].code, rows[2].reason) == (
        "FT-TAB-002",
        "found 1 cells, the header names 2 columns: `question`, `answer`",
    )


def test_quotes_in_a_table_that_uses_none_stay_as_they_are(tmp_path: Path) -> None:
    text = 'question\tanswer\n"Alpha" is what?\t"A"\nWhat is 5"?\t"Five inches."\n'
    values = _values(_write(tmp_path, "rows.tsv", text))
    assert values == [
        {"question": '"Alpha" is what?', "answer": '"A"'},
        {"question": 'What is 5"?', "answer": '"Five inches."'},
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('question,answer\n"Which?,Alpha.\nAnd then?,Beta.\n', [2]),
        ('question,answer\n"Which" one?,Alpha.\nAnd then?,Beta.\n', [2]),
        ('question,answer\nWhich?,"Alpha\nAnd then?,"Beta"\nWhat?,Gamma.\n', [2]),
    ],
)
def test_broken_quotes_swallow_no_row_without_a_word(tmp_path: Path, text: str, lines: list[int]) -> None:
    rows = list(read_raw_rows(_write(tmp_path, "rows.csv", text)))
    assert [row.line for row in rows if isinstance(row, Rejected)] == lines
    assert {row.code for row in rows if isinstance(row, Rejected)} == {"FT-TAB-003"}
    assert all("Alpha" not in json.dumps(row.value) for row in rows if isinstance(row, RawRow))


def test_an_index_column_numbers_truth_and_lists_have_their_types(tmp_path: Path) -> None:
    text = (
        ",query,chosen_score,label,messages,answer\n"
        '0,Which?,8.5,True,"[{""role"": ""user"", ""content"": ""x""}]",1.0\n'
        '1,And?,,false,"[Greek] letters",\n'
    )
    first, second = _values(_write(tmp_path, "rows.csv", text))
    assert (first["chosen_score"], first["label"], first["answer"]) == (8.5, True, "1.0")
    assert first["messages"] == [{"role": "user", "content": "x"}]
    assert first["Unnamed: 0"] == "0"
    assert (second["chosen_score"], second["label"], second["messages"], second["answer"]) == (
        None, False, "[Greek] letters", "",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_a_header_of_no_format_is_refused_with_its_columns(tmp_path: Path, name: str) -> None:
    text = "Frage\tAntwort\nWelcher Buchstabe ist der erste?\tAlpha.\n"
    report = _verify(tmp_path, name, text if name.endswith("tsv") else text.replace("\t", ","))
    assert (report.clean, report.unreadable_code) == (0, "FT-TAB-001")
    assert "`Frage`, `Antwort`" in report.unreadable


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    report = _verify(tmp_path, "rows.csv", "question,answer,Answer\na,b,c\n")
    assert (report.unreadable_code, report.unreadable) == ("FT-TAB-004", "the header names `answer` more than once")


@pytest.mark.parametrize(
    "header",
    [
        "query-id\tcorpus-id\tscore",
        "qid\tpid\tscore",
        "query_id\tcorpus_id\tscore",
        "qid\tdocid\trel",
        "Query ID\tDoc ID\tRelevance",
        "query_id\tdoc_id\tlabel",
        "topic\tdocno\tgrade",
    ],
)
def test_judgements_are_known_by_their_header_in_all_usual_spellings(tmp_path: Path, header: str) -> None:
    report = _verify(tmp_path, "rows.tsv", f"{header}\nq1\td1\t1.0\nq1\td2\t0\nq2\td3\t0.5\nq2\td4\t40\n")
    assert (report.format, report.clean, report.counts) == ("qrels", 3, {"FT-QREL-003": 1})
    assert report.first is not None
    assert (report.first["query_id"], report.first["passage_id"], report.first["score"]) == ("q1", "d1", 1)
    assert "found 0.5" in report.rejected[0].reason


@pytest.mark.parametrize(
    ("name", "text", "dialect"),
    [
        ("dev.qrel", "q1 0 d1 1\nq1 0 d2 0\n", "trec-qrels-tsv"),
        ("dev.qrels", "q1 d1 1\nq1  d2  0\n", "beir-qrels-tsv"),
        ("dev.txt", "301 0 FT-1 1\n301\t0\tFT-2\t0\n", "trec-qrels-tsv"),
        ("dev.txt", "301\tQ0\tFT-1\t1\n", "trec-qrels-tsv"),
    ],
)
def test_columns_between_blanks_are_judgements_of_trec(tmp_path: Path, name: str, text: str, dialect: str) -> None:
    report = _verify(tmp_path, name, text)
    assert (report.dialect, report.counts) == (dialect, {})


@pytest.mark.parametrize("name", ["run.txt", "bm25.trec", "dev.tsv"])
@pytest.mark.parametrize("between", [" ", "\t"])
def test_a_run_is_refused_as_a_run(tmp_path: Path, name: str, between: str) -> None:
    rows = [["301", "Q0", "FT-1", "1", "14.2", "bm25"], ["301", "Q0", "FT-2", "2", "-13.9", "bm25"]]
    report = _verify(tmp_path, name, "".join(between.join(row) + "\n" for row in rows))
    assert (report.clean, report.unreadable_code) == (0, "FT-TAB-006")
    assert "TREC run" in report.unreadable


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["121\t291279\t728291", "634\t772352\t119335"], "grades up to 772352|three columns of ids"),
        (["which is first\talpha is first\tomega is last"], "three texts"),
        (["12\t25", "13\t26"], "two ids"),
        (["Which is first?\tAlpha.", "Which is last?\tOmega."], "two texts"),
        (["12\t25\tshort text", "13\t26\tother text"], "no grade"),
        (["D1\thttps://a.example\tAlpha\tAlpha is the first letter."], "4 cells"),
    ],
)
def test_a_table_without_a_header_is_not_guessed_by_its_width(tmp_path: Path, rows: list[str], words: str) -> None:
    report = _verify(tmp_path, "rows.tsv", "\n".join(rows) + "\n")
    assert (report.clean, report.unreadable_code) == (0, "FT-TAB-005")
    assert any(word in report.unreadable for word in words.split("|"))


def test_a_later_grade_above_ten_is_asked_about(tmp_path: Path) -> None:
    report = _verify(tmp_path, "rows.tsv", "q1\td1\t1\nq1\td2\t0\nq2\td3\t44\n")
    assert (report.clean, report.counts) == (2, {"FT-QREL-005": 1})


@pytest.mark.parametrize(("name", "clean"), [("qrels.train.tsv", 2), ("pairs.tsv", 0), ("qrels.negatives.tsv", 0)])
def test_pairs_without_a_score_are_right_answers_only_in_files_of_judgements(
    tmp_path: Path, name: str, clean: int
) -> None:
    report = _verify(tmp_path, name, "qid\tpid\n0\t50\n0\t91\n")
    assert report.clean == clean
    assert set(report.counts) == (set() if clean else {"FT-QREL-006"})


@pytest.mark.parametrize(
    ("name", "text", "format", "is_noted"),
    [
        ("collection.tsv", "Alpha is the first letter.", "passage", False),
        ("queries.train.tsv", "Alpha is the first letter.", "query", False),
        ("rows.tsv", "Which letter is first?", "query", False),
        ("rows.tsv", "first letter of the alphabet", "query", False),
        ("rows.tsv", "Alpha is the first letter.", "passage", True),
        ("rows.tsv", "Alpha is the first letter. " * 8, "passage", False),
    ],
)
def test_queries_and_passages_are_told_apart_by_name_and_by_their_texts(
    tmp_path: Path, name: str, text: str, format: str, is_noted: bool
) -> None:
    report = _verify(tmp_path, name, f"11\t{text}\n12\t{text}\n")
    assert (report.format, report.clean, bool(report.notes)) == (format, 2, is_noted)
    headed = _verify(tmp_path, f"headed-{name}", f"id\ttext\n11\t{text}\n12\t{text}\n")
    assert (headed.format, headed.clean, bool(headed.notes)) == (format, 2, is_noted)


def test_a_text_document_is_no_table(tmp_path: Path) -> None:
    for text in ("Question, answer and more\n\nAlpha is first.\n", "Title\tText\n\nAlpha is first.\n", "a b c 4\nd\n"):
        assert _verify(tmp_path, "page.txt", text).dialect == "text"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("rows.jsonl", b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        ("rows.xml", b'<?xml version="1.0"?>\n<rows><row>a</row></rows>', "XML"),
        ("rows.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("rows.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office file"),
        ("rows.db", b"SQLite format 3\x00", "SQLite"),
    ],
)
def test_files_of_other_kinds_are_refused_by_name(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    report = _verify(tmp_path, name, data)
    assert (report.unreadable_code, words in report.unreadable) == ("FT-ROW-011", True)


@pytest.mark.parametrize(
    ("member", "text", "words"),
    [
        ("xl/workbook.xml", "", "an Excel workbook (XLSX)"),
        ("mimetype", "application/vnd.oasis.opendocument.spreadsheet", "(ODS)"),
        ("word/document.xml", "", "a Word document"),
        ("rows.jsonl", "{}", "a zip archive"),
    ],
)
def test_what_is_in_an_archive_is_named(tmp_path: Path, member: str, text: str, words: str) -> None:
    with zipfile.ZipFile(tmp_path / "rows.bin", "w") as archive:
        archive.writestr("first", "x")
        archive.writestr(member, text)
    assert words in verify_file(tmp_path / "rows.bin").unreadable


_CELLS = st.text(alphabet='ab "\t,;\n\r\x00é', max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(_CELLS, min_size=1, max_size=4), max_size=5),
    st.sampled_from(["a.csv", "a.tsv", "a.txt", "a.qrels"]),
)
def test_no_table_crashes_and_every_row_is_clean_or_rejected(tmp_path: Path, rows: list[list[str]], name: str) -> None:
    between = "," if name == "a.csv" else "\t"
    text = "\n".join(between.join(row) for row in [["question", "answer"], *rows])
    report = _verify(tmp_path, name, text)
    assert report.unreadable or report.rows == report.clean + sum(report.counts.values())
