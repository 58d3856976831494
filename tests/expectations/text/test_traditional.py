"""Traditional Chinese becomes Simplified; Japanese never does."""

from __future__ import annotations

import pytest

from expectations.text.traditional import simplify


def test_traditional_becomes_simplified_by_character_or_with_the_words_of_taiwan() -> None:
    text = "軟體的金鑰以雜湊函數產生，2⁶⁴ 次。"
    assert simplify(text, "keep") is text
    assert simplify(text, "t2s") == "软体的金钥以杂凑函数产生，2⁶⁴ 次。"
    assert simplify(text, "tw2sp").startswith("软件的密钥")


@pytest.mark.parametrize(
    "text",
    ["暗号技術の図書館で鍵を學習します。", "カタカナ", "密碼學 の 本です", "plain English", "简体中文不变。", ""],
)
def test_japanese_and_what_is_simplified_already_stay(text: str) -> None:
    assert simplify(text, "t2s") == text


def test_a_sentence_with_kana_stays_in_a_chinese_text() -> None:
    text = "這是關於密碼學的傳統漢字文章，講述金鑰與雜湊函數的歷史發展。\n日本語では「鍵の長さ」と學ぶ。"
    text += "後來的標準有變化，內容與過去的標準並不相同，請參閱文件。"
    made = simplify(text, "t2s")
    assert "「鍵の長さ」と學ぶ。" in made
    assert made.startswith("这是关于密码学的传统汉字文章") and "后来的标准有变化" in made
    assert made.count("\n") == 1
