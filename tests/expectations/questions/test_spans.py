from __future__ import annotations

import pytest

from expectations.questions.spans import find_spans, sentence_of
from expectations.text.glossary import TermFinder

ENGLISH = (
    "AES was published by NIST as FIPS 197 in November 2001. It encodes 65,536 blocks of 128 bits, and SLIP-0039 "
    "does not use the DES key. Rijndael came from Joan Daemen. The extension is named encrypt_then_mac in TLS 1.3."
)
CHINESE = "分组密码 SM4 的分组长度为 128 比特，共 32 轮。《密码法》自 2020 年 1 月 1 日起施行，参见 GB/T 39786-2021。"


def texts(text: str, heading: str = "", **terms: list[str]) -> list[str]:
    return [span.text for span in find_spans(text, heading, TermFinder(terms))]


def test_numbers_with_units_dates_codes_and_names_are_spans():
    found = texts(ENGLISH)
    wanted = {"NIST", "FIPS 197", "November 2001", "65,536 blocks", "128 bits", "Joan Daemen", "encrypt_then_mac"}
    assert wanted <= set(found)
    assert "TLS 1.3" in found
    assert "Rijndael" not in found, "the first word of a sentence has a capital whatever it is"


def test_a_span_is_never_a_part_of_a_word_or_of_a_code():
    found = texts(ENGLISH, DES=[])
    assert found.count("DES") == 1
    assert "0039" not in found
    assert "SLIP-0039" in found


def test_chinese_numbers_dates_titles_and_codes():
    assert texts(CHINESE, 分组密码=[]) == [
        "分组密码", "SM4", "128 比特", "32 轮", "《密码法》", "2020 年 1 月 1 日", "GB/T 39786-2021",
    ]  # fmt: skip


def test_the_subject_of_the_heading_and_a_repeated_answer_are_no_spans():
    text = "The tag of GCM has 128 bits at most. A tag of GCM with 128 bits is usual."
    assert texts(text, "GCM > Tags") == ["128 bits"]


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_span_is_the_text_at_its_place_and_has_a_sentence(text: str):
    for span in find_spans(text, ""):
        assert text[span.start : span.end] == span.text
        assert span.text in sentence_of(text, span)
