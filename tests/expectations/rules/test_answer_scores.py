"""Answers are scored fairly in Chinese and English, without their reasoning."""

from __future__ import annotations

import pytest

from expectations.rules.answer_scores import (
    check_not_worse,
    check_thoughts_close,
    read_reply,
    score,
    units,
)
from expectations.rules.bootstrap import Interval


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("256 比特", "256比特"), ("ＡＥＳ。", "aes"), ("The key is 128-bit!", "the key is 128 bit"), ("", "。")],
)
def test_spaces_case_width_and_punctuation_do_not_matter(answer: str, gold: str) -> None:
    assert score(answer, gold).exact_match == 1.0
    assert score(answer, gold).f1 == score(answer, gold).rouge_l == 1.0


def test_chinese_counts_by_character_and_english_by_word() -> None:
    assert units("AES-256 使用分组密码") == ["aes", "256", "使", "用", "分", "组", "密", "码"]
    assert score("分组密码", "流密码").f1 == pytest.approx(2 * 2 / 7)
    assert score("block cipher", "stream cipher").f1 == pytest.approx(0.5)


def test_a_number_in_common_does_not_make_two_sentences_equal() -> None:
    scores = score("AES 是一种分组密码,分组 128 比特", "AES 的密钥最短 128 位")
    assert scores.exact_match == 0.0
    assert 0 < scores.rouge_l < 0.6


def test_rouge_l_sees_order_where_f1_does_not() -> None:
    scores = score("码密组分", "分组密码")
    assert scores.f1 == 1.0
    assert scores.rouge_l == 0.25


def test_an_empty_answer_scores_zero() -> None:
    assert score("", "AES") == score("AES", "")
    assert score("", "AES").f1 == 0.0


@pytest.mark.parametrize(
    ("mean", "high", "lost"), [(-0.2, -0.1, True), (-0.2, 0.05, False), (-0.01, -0.001, False), (0.3, 0.5, False)]
)
def test_a_candidate_loses_only_by_a_drop_that_is_large_and_certain(mean: float, high: float, lost: bool) -> None:
    found = check_not_worse(Interval(mean, mean - 0.1, high, 50), 0.05, where="adapter_evaluation", baseline="base")
    assert bool(found) == lost


@pytest.mark.parametrize(
    ("text", "opened", "answer", "thought", "closed"),
    [
        ("AES 是分组密码", False, "AES 是分组密码", None, True),
        ("先看分组长度\n</think>\n\nAES", True, "AES", "先看分组长度", True),
        ("<think>\n先看分组长度\n</think>\n\nAES", False, "AES", "先看分组长度", True),
        ("<think>\n\n</think>\n\nAES", False, "AES", "", True),
        ("先看分组长度，再看", True, "", "先看分组长度，再看", False),
        ("<think>先看", False, "", "先看", False),
        ("a</think>b</think> c", True, "c", "a</think>b", True),
        ("想完了</think>", True, "", "想完了", True),
        ("", True, "", "", False),
    ],
)
def test_the_reasoning_is_removed_before_an_answer_is_scored(
    text: str, opened: bool, answer: str, thought: str | None, closed: bool
) -> None:
    reply = read_reply(text, opens_thought=opened, tokens=7, cut=True)
    assert (reply.answer, reply.thought, reply.closed) == (answer, thought, closed)
    assert (reply.tokens, reply.cut) == (7, True)


@pytest.mark.parametrize(("finished", "most", "warned"), [(0.8, 0.1, True), (0.9, 0.1, False), (1.0, 0.0, False)])
def test_open_reasoning_is_reported_beyond_the_allowed_share(finished: float, most: float, warned: bool) -> None:
    found = check_thoughts_close(finished, most, where="adapter_evaluation", model="dpo", max_new_tokens=32)
    assert bool(found) == warned
    assert all("now 32" in violation.fix for violation in found)
