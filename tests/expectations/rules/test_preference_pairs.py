"""From scored answers to a pair or one code: by cases, and for any set of answers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from expectations.codes import CODES
from expectations.rules.answer_scores import numbers_of, score, units
from expectations.rules.preference_pairs import (
    CandidatePair,
    NoPair,
    PairFacts,
    PairRules,
    SampledAnswer,
    find_pair,
    lengths_are_alike,
    nothing_is_held_out,
    pairs_are_right,
)

RULES = PairRules(min_margin=0.3, min_chosen=0.7, rejected="frequent", prefer="none")
_GOLD = "512 bits"


def answers(
    *texts: str, gold: str = _GOLD, with_passages: bool = True, temperature: float = 0.7
) -> list[SampledAnswer]:
    return [
        SampledAnswer(
            key=f"{with_passages}-{temperature}-{number}",
            answer=text,
            text=text,
            with_passages=with_passages,
            temperature=temperature,
            reward=score(text, gold).f1,
        )
        for number, text in enumerate(texts)
    ]


def pair_of(candidates: list[SampledAnswer], rules: PairRules = RULES, gold: str = _GOLD) -> CandidatePair:
    found = find_pair(candidates, gold, rules)
    assert isinstance(found, CandidatePair), found
    return found


def code_of(candidates: list[SampledAnswer], rules: PairRules = RULES, gold: str = _GOLD) -> str:
    found = find_pair(candidates, gold, rules)
    assert isinstance(found, NoPair) and found.reason
    return found.code


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["512 bits", "512 Bits.", "５１２ bits"], "FT-DDR-001"),  # the same answer, as the scores see it
        (["a cat", "a dog"], "FT-DDR-002"),
        (["512 bits or so", "512 bits in all today"], "FT-DDR-003"),
        (["512", "a cat"], "FT-DDR-004"),
        ([], "FT-DDR-006"),
        (["the key has 128 bits", "a cat"], "FT-DDR-007"),
    ],
)
def test_a_question_without_a_pair_has_one_code(texts: list[str], code: str):
    gold = "the key has 512 bits" if code == "FT-DDR-007" else _GOLD
    assert code_of(answers(*texts, gold=gold), gold=gold) == code


def test_cut_and_empty_answers_are_kept_out_whatever_their_score():
    right, wrong = answers("512 bits", "a cat")
    assert pair_of([right, wrong]).chosen == right
    assert code_of([replace(right, fault="FT-DDR-005"), wrong]) == "FT-DDR-001"
    assert code_of([replace(one, fault="FT-DDR-005") for one in (right, wrong)]) == "FT-DDR-006"


def test_a_margin_just_allowed_counts():
    chosen, rejected = answers("512 bits", "a cat")
    near = [replace(chosen, reward=0.8), replace(rejected, reward=0.5)]  # 0.8 - 0.5 is 0.30000000000000004
    assert pair_of(near).margin == 0.3
    assert pair_of([replace(chosen, reward=0.7), replace(rejected, reward=0.4)]).margin == 0.3  # 0.29999999999999993


def test_a_second_best_answer_is_chosen_where_the_best_has_another_number():
    gold = "the key of version 2 has 512 bits in all modes"
    texts = answers("the key of version 2 has 128 bits in all modes", "key of version 2 has 512 bits", "no", gold=gold)
    assert texts[0].reward > texts[1].reward >= 0.7
    assert pair_of(texts, gold=gold).chosen == texts[1]


def test_the_rejected_answer_is_the_most_frequent_wrong_one_with_passages():
    shown = answers("512 bits", "a cat", "two dogs", "Two dogs!", temperature=1.0)
    alone = answers("nothing", "nothing", "nothing", with_passages=False)
    assert units(pair_of([*shown, *alone]).rejected.answer) == ["two", "dogs"]
    assert pair_of([shown[0], *alone]).rejected.answer == "nothing"
    lowest = replace(RULES, rejected="lowest")
    assert pair_of([*answers("512 bits", "512 cats", "512 cats"), *alone], lowest).rejected.answer == "nothing"


def test_among_equally_good_answers_the_setting_decides():
    shown = answers("512 bits", "a cat")
    alone = answers("512 Bits", "512 bits.", with_passages=False, temperature=0.0)
    by_setting = {
        prefer: pair_of([*shown, *alone], replace(RULES, prefer=prefer)).chosen.with_passages
        for prefer in ("none", "evidence", "memory")
    }
    assert by_setting == {"none": False, "evidence": True, "memory": False}


def test_chinese_answers_are_compared_by_character():
    gold = "密钥长度为２５６位"
    texts = answers("密钥长度为256位", "密钥长度为128位", "不知道", gold=gold)
    pair = pair_of(texts, gold=gold)
    assert pair.chosen == texts[0] and pair.rejected.answer == "不知道"
    assert code_of(texts[1:], gold=gold) == "FT-DDR-007"


@pytest.mark.parametrize(
    ("left", "right", "are_equal"),
    [
        ("1,000 rows", "1000 rows", True),
        ("1.50", "1.5", True),
        ("第２５６条", "第256条", True),
        ("FIPS 180", "FIPS 180-4", False),
        ("2⁶⁴", "264", False),
        ("version 1.2.3", "version 1.2.4", False),
        ("007", "7", True),
        ("none", "no number", True),
    ],
)
def test_numbers_are_compared_by_their_value(left: str, right: str, are_equal: bool):
    assert (numbers_of(left) == numbers_of(right)) is are_equal


_WORDS = ("512 bits", "512 Bits", "128 bits", "512", "the 512 bits", "a cat", "", "无 512 bits")


def _sampled(text: str, with_passages: bool, temperature: float, fault: str) -> SampledAnswer:
    (one,) = answers(text, with_passages=with_passages, temperature=temperature)
    return replace(one, fault=fault if text else "FT-DDR-005")


_sample = st.builds(
    _sampled,
    st.sampled_from(_WORDS),
    st.booleans(),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.sampled_from(["", "FT-DDR-005"]),
)
_candidates = st.lists(_sample, max_size=14).map(lambda some: [replace(one, key=str(n)) for n, one in enumerate(some)])
_rules = st.builds(
    PairRules,
    min_margin=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    min_chosen=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    rejected=st.sampled_from(["frequent", "lowest"]),
    prefer=st.sampled_from(["none", "evidence", "memory"]),
)


@given(_candidates, _rules, st.randoms())
def test_any_answers_end_in_a_pair_that_keeps_the_rules_or_in_one_code(
    candidates: list[SampledAnswer], rules: PairRules, random: Random
):
    found = find_pair(candidates, _GOLD, rules)
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert find_pair(shuffled, _GOLD, rules) == found
    if isinstance(found, NoPair):
        assert found.code in CODES and found.reason
        return
    facts = PairFacts(
        where="q",
        gold=_GOLD,
        chosen_answer=found.chosen.answer,
        chosen=found.chosen.answer,
        rejected=found.rejected.answer,
        chosen_score=found.chosen.reward,
        rejected_score=found.rejected.reward,
    )
    assert not pairs_are_right("x", [facts], rules)
    assert not found.chosen.fault and not found.rejected.fault and found.chosen in candidates


def test_the_gate_names_each_broken_rule():
    good = PairFacts(
        where="q1",
        gold=_GOLD,
        chosen_answer="512 bits",
        chosen="512 bits",
        rejected="a cat",
        chosen_score=1.0,
        rejected_score=0.0,
    )
    bad = [
        replace(good, rejected_score=0.8),
        replace(good, chosen_score=0.6),
        replace(good, rejected="512 Bits!"),
        replace(good, chosen_answer="128 bits"),
    ]
    assert pairs_are_right("x", [good], RULES) == []
    found = pairs_are_right("x", bad, RULES)
    assert [one.code for one in found] == ["FT-DDR-010"] * 4 and found[0].where == "x, q1"


def test_held_out_parts_and_lengths_are_named():
    (held,) = nothing_is_held_out("x", [("q1", "passages", "aes#1")])
    assert (held.code, held.field, held.found) == ("FT-DDR-011", "passages", "aes#1")
    assert lengths_are_alike("x", [], []) == lengths_are_alike("x", [2, 4, 90], [2, 3, 3]) == []
    (longer,) = lengths_are_alike("x", [9, 9, 9], [2, 3, 3])
    assert longer.code == "FT-DDR-012" and longer.found == 3.0
