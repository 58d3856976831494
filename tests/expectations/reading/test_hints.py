"""Faults of JSON and of encodings are named by what they are, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.reading import Rejected, read_raw_rows
from expectations.reading.encodings import name_encoding, name_wide_encoding
from expectations.verify import verify_file

HINTS = {
    "a comma after a row": ('{"a": 1},', "FT-ROW-017", "delete the comma"),
    "a comma before a brace": ('{"a": 1,}', "FT-ROW-017", "trailing comma"),
    "a comma before a bracket": ('{"a": [1,]}', "FT-ROW-017", "before `]`"),
    "single quotes": ("{'a': 1}", "FT-ROW-018", "single quotes"),
    "a value of Python": ('{"a": None}', "FT-ROW-018", "`null`"),
    "a key without quotes": ("{a: 1}", "FT-ROW-018", "the key `a`"),
    "a comment": ("// exported in May", "FT-ROW-018", "comments"),
    "a comment behind a row": ('{"a": 1} # done', "FT-ROW-018", "comments"),
    "two objects": ('{"a": 1}{"a": 2}', "FT-ROW-016", "two objects"),
    "an object over several lines": ('"a": 1,', "FT-ROW-016", "pretty-printed"),
    "a raw line break": ('{"a": "x', "FT-ROW-016", "line break"),
    "the rest of a broken text": ('rest of it"}', "FT-ROW-002", "raw line break"),
    "a path of Windows": (r'{"a": "C:\Users\x"}', "FT-ROW-002", "backslash twice"),
    "a raw tab": ('{"a": "x\ty"}', "FT-ROW-002", "control character \\t"),
    "a quotation mark in a text": ('{"a": "say "yes" now"}', "FT-ROW-002", "quotation mark"),
    "a BOM": ('\ufeff{"a": 1}', "FT-ROW-015", "BOM"),
    "NaN": ('{"a": NaN}', "FT-ROW-004", "NaN"),
}


@pytest.mark.parametrize("fault", HINTS)
def test_a_fault_of_json_is_named_with_its_fix(tmp_path: Path, fault: str) -> None:
    line, code, words = HINTS[fault]
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 0}}\n{line}\n{{"a": 2}}\n', "utf-8")
    (rejected,) = (row for row in read_raw_rows(path) if isinstance(row, Rejected))
    assert (rejected.line, rejected.code) == (2, code)
    assert words in rejected.reason


def test_pretty_printed_objects_get_one_message_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{\n "a": 1\n}\n{\n "a": 2\n}\n', "utf-8")
    (rejected,) = read_raw_rows(path)
    assert isinstance(rejected, Rejected)
    assert "line 4" in rejected.reason
    assert "jq -c" in rejected.reason


ENCODED = {
    "gb18030": ("怎样申请图书馆的借书证？到一楼的服务台就可以了。", "GB18030"),
    "big5": ("請問圖書館的開放時間是什麼時候？", "BIG5"),
    "cp949": ("도서관은 언제 문을 여나요? 아침 아홉 시에 엽니다.", "CP949"),
    "cp932": ("図書館は何時に開きますか？朝九時です。", "SHIFT_JIS"),
    "euc_jp": ("図書館は何時に開きますか？朝九時です。", "EUC-JP"),
    "cp1251": ("Когда открывается библиотека?", "CP1251"),
    "koi8_r": ("Когда открывается библиотека?", "KOI8-R"),
    "cp1252": ("Wann öffnet die Bücherei? Um 9 – täglich außer sonntags.", "CP1252"),
    "cp1250": ("Kiedy otwiera się książnica? Żółta tablica.", None),
    "cp1253": ("Πότε ανοίγει η βιβλιοθήκη;", None),
    "cp1255": ("מתי נפתחת הספרייה", None),
}


@pytest.mark.parametrize("codec", ENCODED)
def test_an_encoding_is_named_only_where_it_clearly_fits(tmp_path: Path, codec: str) -> None:
    text, name = ENCODED[codec]
    encoding = name_encoding([text.encode(codec)])
    assert (encoding.name if encoding else None) == name
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f'{{"instruction": "{text}", "output": "x"}}\n'.encode(codec))
    report = verify_file(path)
    assert report.unreadable_code == "FT-ROW-001"
    assert (f"iconv -f {name} " if name else "cannot be told") in report.unreadable
    assert "GB18030" not in report.unreadable or name == "GB18030"


def test_one_line_in_another_encoding_is_not_answered_with_a_conversion_of_the_file(tmp_path: Path) -> None:
    row = '{{"instruction": "{}", "output": "借书证"}}\n'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row.format("图书馆几点开门？").encode() + row.format("怎样申请借书证？").encode("gb18030"))
    (rejected,) = verify_file(path).rejected
    assert "files were joined" in rejected.reason


def test_a_cut_character_is_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": "图书馆几点开门'.encode()[:-1] + b'"}\n')
    (rejected,) = read_raw_rows(path)
    assert isinstance(rejected, Rejected)
    assert "a character was cut" in rejected.reason


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_file_in_utf_16_gets_one_message(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "my rows.json"
    path.write_bytes('[\n{"instruction": "图书馆几点开门？", "output": "九点。"}\n]\n'.encode(codec))
    report = verify_file(path)
    assert report.counts == {"FT-ROW-014": 1}
    assert f"iconv -f {codec.upper()[:6]}" in report.unreadable
    assert "'my rows.json'" in report.unreadable


def test_utf_8_is_not_taken_for_utf_16() -> None:
    assert name_wide_encoding('{"a": "图书馆"}'.encode()) is None
    assert name_wide_encoding(b'{"a": "\x00\x00"}') is None


ROW = '{"instruction": "When?", "output": "At nine."}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"version": "1", "data": [{ROW}]}}', "`data`"),
        (f'{{"train": [{ROW}], "test": [{ROW}]}}', "`train`, `test`"),
        (f'{{\n"q1": {ROW},\n"q2": {ROW}\n}}', "dictionary by id"),
        ('{"instruction": {"0": "a", "1": "b"}, "output": {"0": "c", "1": "d"}}', "table by columns"),
        ('{"instruction": ["a", "b"], "output": ["c", "d"]}', "table by columns"),
    ],
)
def test_a_file_that_is_one_object_around_its_rows_names_where_they_are(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, "utf-8")
    report = verify_file(path)
    assert report.unreadable_code == "FT-ROW-019"
    assert words in report.unreadable


def test_one_dialogue_is_no_wrapper(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}', "utf-8")
    assert verify_file(path).clean == 1
