"""Markdown tables."""

from __future__ import annotations

from expectations.markdown import markdown_cell, markdown_table


def test_a_table_has_a_header_and_one_line_a_row():
    table = markdown_table(["", "rows"], [["a|b", 1], [markdown_cell("c|d\n e"), 2.5]], numbers=["rows"])
    assert table.splitlines() == ["|  | rows |", "| --- | ---: |", "| a|b | 1 |", "| c\\|d e | 2.5 |"]


def test_a_table_without_rows_is_its_header():
    assert markdown_table(["a"], []) == "| a |\n| --- |"
