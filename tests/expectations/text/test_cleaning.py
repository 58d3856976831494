"""Cleaning keeps the meaning, keys are only for comparing, the script shows the language, sentences keep offsets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.text.cleaning import (
    clean,
    comparison_key,
    find_control_character,
    find_special_token,
    language_of,
    matching_key,
    sentences,
)


def test_formulas_survive_cleaning() -> None:
    assert clean("2⁶⁴ 与 a²+b²，½") == "2⁶⁴ 与 a²+b²，½"


def test_full_width_letters_and_symbols_become_ascii_and_chinese_punctuation_stays() -> None:
    assert clean("ＡＥＳ－１２８　＜ｔａｇ＞（分组密码），是吗？") == "AES-128 <tag>（分组密码），是吗？"
    assert clean("cafe\u0301\r\nx\ry") == "café\nx\ny"


def test_a_special_token_written_full_width_is_found_after_cleaning() -> None:
    assert find_special_token("＜｜im_start｜＞") is None
    assert find_special_token(clean("＜｜im_start｜＞")) == "<|im_start|>"


@pytest.mark.parametrize("text", ["<|endoftext|>", "</s>", "[INST] x", "<start_of_turn>user", "<|begin▁of▁sentence|>"])
def test_markers_of_chat_templates_are_found(text: str) -> None:
    assert find_special_token(text)


@pytest.mark.parametrize("text", ["a <| b |> c < d > e", "x[i] << y", "<b>bold</b>", "<thinking>"])
def test_ordinary_text_holds_no_special_token(text: str) -> None:
    assert find_special_token(text) is None


def test_control_characters_are_named() -> None:
    assert find_control_character("a\x00b") == "\\x00"
    assert find_control_character("a\tb\n密") is None


def test_matching_is_coarse_and_comparison_keeps_formulas_apart() -> None:
    assert matching_key("什么是 ＳＭ２？") == matching_key("什么是sm2")
    assert matching_key("2⁶⁴") == matching_key("264")
    assert comparison_key("2⁶⁴") != comparison_key("264")
    assert comparison_key("x > 0") != comparison_key("x < 0")
    assert comparison_key(" 国密  算法。") == comparison_key("国密 算法")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("什么是信息系统密码应用的基本要求？", "zh"),
        ("SM2 数字签名算法", "zh"),
        ("Explain ECDSA nonce reuse", "en"),
        ("What does 密码 mean in this standard?", "en"),
        ("図書館で本を読みます", "ja"),
        ("テスト", "ja"),
        ("Что такое шифрование?", "other"),
        ("12345 !?", "other"),
        ("", "other"),
    ],
)
def test_language_is_told_by_script(text: str, language: str) -> None:
    assert language_of(text) == language


def test_chinese_and_english_sentences_are_cut_with_offsets() -> None:
    text = (
        "SM2 是椭圆曲线算法。“它安全吗？”\nDr. Koblitz proposed it, e.g. for ECDSA, at 2.5 times the speed. Really?! 是"
    )
    assert [text[start:end] for start, end in sentences(text)] == [
        "SM2 是椭圆曲线算法。",
        "“它安全吗？”",
        "Dr. Koblitz proposed it, e.g. for ECDSA, at 2.5 times the speed.",
        "Really?!",
        "是",
    ]


@pytest.mark.parametrize(
    "marked",
    [
        "Pi is 3.14.| Dr. Smith et al. [3] agree, see Fig. 2, i.e. this one.",
        "See https://a.b/c?x=1!2;y.html for more.| Next",
        "1. First step.| 2. Second step.",
        "He used AES, DES, etc.| The rest is in version 2.| Then it ended.",
        "Wait... what?| He left...| The end.",
        "A wrapped line\ngoes on.|\nAnother line|\n\nA paragraph",
        "他说：“好。”|然后走了……|天黑了。|（真的？！）|是。",
        "版本2.0发布了。|地址是https://a.b/c?d=e。|你好!|我好?",
        "第一行没有标点|\n第二行也没有",
        "甲；乙；丙。",
        "**Bold.**| Then plain.",
    ],
)
def test_sentences_end_where_a_reader_says_they_do(marked: str) -> None:
    text = marked.replace("|", "")
    assert [text[start:end] for start, end in sentences(text)] == [piece.strip() for piece in marked.split("|")]


@given(st.text(alphabet="ab 。.?!\n”密A", max_size=60))
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    spans = sentences(text)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    covered = "".join(text[start:end] for start, end in spans)
    assert "".join(covered.split()) == "".join(text.split())


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)
