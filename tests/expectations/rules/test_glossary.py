"""Answers keep the terms of their questions, and questions name terms of the glossary."""

from __future__ import annotations

from expectations.rules.glossary import Coverage, answers_keep_their_terms, cover, questions_name_terms
from expectations.text.glossary import TermFinder


def test_an_answer_keeps_its_questions_terms_under_any_name() -> None:
    finder = TermFinder({"hash function": ["杂凑算法"], "AES": ["Rijndael"], "SM4": []})
    rows = [
        ("a.json:1", "Is SM3 a 杂凑算法?", "Yes, a hash function."),
        ("a.json:2", "AES 和 SM4 的分组多长？", "SM4 是 128 比特。"),
        ("a.json:3", "How long is an AES block?", "128 bits"),
        ("a.json:4", "没有术语的问题", "没有术语的回答，Rijndael 除外"),
    ]
    coverage = cover(finder, rows)
    assert (coverage.rows, coverage.naming, [row.where for row in coverage.lost]) == (4, 3, ["a.json:3"])
    assert coverage.questions == {"hash function": 1, "AES": 2, "SM4": 1}
    assert coverage.answers == {"hash function": 1, "SM4": 1, "AES": 1}
    assert answers_keep_their_terms("instruction_records", coverage, 0.4) == []
    (violation,) = answers_keep_their_terms("instruction_records", coverage, 0.3)
    assert (violation.code, violation.where, violation.expected) == ("FT-TERM-001", "a.json:3", "AES")


def test_questions_that_name_no_term_are_reported_where_there_are_both() -> None:
    (violation,) = questions_name_terms("instruction_records", Coverage(rows=3), 120)
    assert (violation.code, violation.expected) == ("FT-TERM-002", "one of 120 terms")
    assert "3 questions" in violation.message
    assert questions_name_terms("instruction_records", Coverage(rows=3, naming=1), 120) == []
    assert questions_name_terms("instruction_records", Coverage(rows=3), 0) == []
    assert questions_name_terms("instruction_records", Coverage(), 120) == []
