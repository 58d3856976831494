"""Text from data on a page: shown as it is, whatever it holds."""

from __future__ import annotations

import pytest

from expectations.markdown import bar_table, histogram_table, markdown_cell


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>", "![x](http://example.com/track.png)", "[click](javascript:alert(1))", "a | b",
        "`code`", "**bold**", "&lt;script&gt;", "<http://example.com>", "~~gone~~", "# a title", "\\| b", "__init__",
    ],
)  # fmt: skip
def test_a_cell_is_neither_html_nor_markdown(text: str):
    cell = markdown_cell(text)
    bare = cell.replace("\\\\", "").replace("\\", "\0")
    for markup in "<>[]`*|&~":
        assert all(before == "\0" for before, char in zip(" " + bare, bare, strict=False) if char == markup), cell
    assert cell.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\") == text


def test_words_and_lines_stay_readable():
    assert markdown_cell("sft_adapter\n 密钥\t(5-7%)!") == "sft_adapter 密钥 (5-7%)!"
    assert markdown_cell("abcdef", 3) == "abc…"


def test_bars_show_every_value_and_add_up_none():
    table = bar_table({f"weights {n}": n / 7 for n in range(30)}, "fusion", "nDCG@10")
    assert len(table.splitlines()) == 32 and "others" not in table and "| weights 1 | 0.1429 |" in table
    assert bar_table({}, "code").count("\n") == 1


def test_a_histogram_keeps_all_rows_in_at_most_ten_ranges():
    counts = list(range(24))
    lines = histogram_table(counts, 0, 4800, "tokens").splitlines()[2:]
    assert len(lines) <= 10 and sum(int(line.split("|")[2]) for line in lines) == sum(counts)
    assert lines[0].startswith("| 0 to 600 |") and lines[-1].split("|")[1].endswith("to 4800 ")
    assert histogram_table([0, 0], 0, 1, "tokens") == "#### No rows"
