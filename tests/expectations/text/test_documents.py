"""Documents of every kind become sections whose offsets point into their text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from expectations.reading import Rejected
from expectations.text.documents import Section, is_document, read_document
from expectations.text.webpages import read_page
from expectations.violations import Refused

PAGE = """<!DOCTYPE html>
<html lang="zh"><head><meta charset="utf-8"><title>SM4 &amp; AES</title>
<style>p { color: red }</style><script>document.write("<h2>no heading</h2>")</script></head>
<body><nav><a href="/">首页</a><h2>目录</h2></nav>
<p>分组密码把明文
分成<b>等长</b>的组。&nbsp;See <a href="x">NIST</a>.</p>
<h2 id="p">参数
 &lt;SM4&gt;<a class="headerlink">¶</a></h2>
<p>密钥空间是 2<sup>128</sup>，不是 2128；a<sub>i</sub> 与 H<sub>2</sub>。</p>
<ul><li>第一项</li><li><p>第二项</p><ol start="3"><li>three</li><li>four</li></ol></li></ul>
<table><caption>轮数</caption><thead><tr><th>算法</th><th>轮数</th></tr></thead>
<tr><td><p>SM4</p></td><td>32</td></tr><tr><td>AES-128</td><td>10</td></tr></table>
<template><p>模板</p></template><p hidden>hidden</p><noscript>noscript</noscript>
<h3>代码</h3><pre>for i in range(32):
    x = f(x)
</pre><br>
<h2>Unclosed <i>markup<p>The last &copy; paragraph
</body></html>
"""


def _sections(path: Path) -> list[Section]:
    items = list(read_document(path, path.name))
    assert not [item for item in items if isinstance(item, Rejected)], items
    return [item for item in items if isinstance(item, Section)]


def _write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_page_becomes_sections_that_read_as_the_page_does(tmp_path: Path) -> None:
    path = _write(tmp_path / "sm4.html", PAGE)
    sections = _sections(path)
    assert [(s.section_id, s.headings, s.line) for s in sections] == [
        ("sm4#1", ("SM4 & AES",), 1),
        ("sm4#参数-sm4", ("SM4 & AES", "参数 <SM4>"), 7),
        ("sm4#代码", ("SM4 & AES", "参数 <SM4>", "代码"), 14),
        ("sm4#unclosed-markup-the-last-paragraph", ("SM4 & AES", "Unclosed markup The last © paragraph"), 17),
    ]
    texts = [s.whole[s.start : s.end].strip() for s in sections]
    assert texts[0] == "分组密码把明文分成等长的组。 See NIST."
    assert texts[1] == (
        "密钥空间是 2¹²⁸，不是 2128；a_i 与 H₂。\n\n- 第一项\n- 第二项\n  3. three\n  4. four\n\n"
        "轮数\n算法 | 轮数\nSM4 | 32\nAES-128 | 10"
    )
    assert texts[2] == "for i in range(32):\n    x = f(x)"
    whole = sections[0].whole
    assert all(section.whole is whole for section in sections)
    for dropped in ("color", "no heading", "首页", "目录", "模板", "hidden", "noscript"):
        assert dropped not in whole
    assert read_page(PAGE) == read_page(PAGE)


def test_a_page_that_is_laid_out_with_tables_keeps_its_lines() -> None:
    page = read_page(
        "<table><tr><td><h1>T</h1><p>一</p><p>二</p></td><td><table><tr><td>a</td><td>b</td></tr></table></table>"
    )
    assert [h.text for h in page.headings] == ["T"]
    assert page.text.split("\n") == ["T", "", "一", "", "二", "", "a | b"]


def test_a_title_stands_over_a_page_only_where_it_has_no_first_heading(tmp_path: Path) -> None:
    (section,) = _sections(_write(tmp_path / "a.htm", "<title>T</title><h1>标题</h1><p>正文在这里。"))
    assert section.headings == ("标题",)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('<meta charset="gbk"><p>text', "gbk"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=ISO-8859-1"><p>text', "iso-8859-1"),
        ("<?xml version='1.0' encoding='Big5'?><html><p>text", "big5"),
        ("<meta charset=gbk><p>中文".encode("gbk"), "not UTF-8"),
    ],
)
def test_a_page_that_is_not_utf8_or_says_so_is_rejected(tmp_path: Path, data: str | bytes, reason: str) -> None:
    (rejected,) = read_document(_write(tmp_path / "a.html", data), "a.html")
    assert isinstance(rejected, Rejected) and rejected.code == "FT-CORPUS-001"
    assert reason in rejected.reason and "UTF-8" in rejected.suggestion and rejected.file_sha256


def test_html_without_its_library_is_refused_with_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(Refused, match=r'FT-CORPUS-007.*pip install "ft-assets\[html\]"'):
        list(read_document(_write(tmp_path / "a.html", "<p>x"), "a.html"))


def test_rows_of_json_parquet_and_a_saved_folder_are_documents_with_their_ids(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"_id": "d1", "title": "AES", "text": "AES 的分组是 128 比特。"},
        {"_id": "d2", "title": "", "text": "Other"},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "corpus.parquet")
    _write(tmp_path / "corpus.json", json.dumps(rows))
    folder = tmp_path / "saved"
    folder.mkdir()
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    _write(folder / "dataset_info.json", "{}")
    _write(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    for path in (tmp_path / "corpus.parquet", tmp_path / "corpus.json", folder):
        sections = _sections(path)
        assert [(s.section_id, s.headings) for s in sections] == [("d1", ("AES",)), ("d2", ())]
        assert sections[0].source == f"{path.name}:1"
        assert sections[0].whole[sections[0].start : sections[0].end] == "AES 的分组是 128 比特。"


def test_headings_of_one_name_without_a_heading_above_do_not_stop_the_reader(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.md", "### Same\n\ntext one\n\n### Same\n\ntext two\n")
    assert [s.section_id for s in _sections(path)] == ["a#same", "a#same"]


def test_documents_are_told_from_tables_by_their_suffix() -> None:
    assert [is_document(Path(name)) for name in ("a.md", "a.HTML", "a.txt", "a.htm", "a.markdown")] == [True] * 5
    assert [is_document(Path(name)) for name in ("a.jsonl", "a.json", "a.parquet", "a.pdf", "a")] == [False] * 5
