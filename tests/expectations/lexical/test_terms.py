"""Terms of texts in many scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.lexical.terms import NO_LANGUAGE, Terms, detect_language, term_number, usual_stop_words
from expectations.violations import Refused

ENGLISH = Terms("english", usual_stop_words("english"))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The pumps are RUNNING", ["pump", "run"]),
        ("max_tokens: 3.8.1 (E-4102)", ["max", "token", "3", "8", "1", "e", "4102"]),
        ("ＡＥＳ－ＧＣＭ ①", ["ae", "gcm", "1"]),
        ("年假规定", ["年假", "假规", "规定"]),
        ("税", ["税"]),
        ("用AES加密", ["用", "ae", "加密"]),
        ("設備のカメラ", ["設備", "備の", "のカ", "カメ", "メラ"]),
        ("안전 점검표", ["안전", "점검", "검표"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("don't — won’t", []),
        ("", []),
        ("\ud800 \x00 🙂", []),
    ],
)
def test_a_text_becomes_these_terms(text: str, terms: list[str]) -> None:
    assert ENGLISH.of(text) == terms


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Which port does the metrics endpoint listen on?", "english"),
        ("Wie lange gilt die Garantie auf eine überholte Pumpe, und wer trägt die Kosten?", "german"),
        ("Combien de temps dure la garantie sur une pompe rénovée, et qui paie les frais ?", "french"),
        ("Сколько времени действует гарантия на насос, если он не новый?", "russian"),
        ("年假没有休完可以折算成工资吗？", NO_LANGUAGE),
        ("red 12 mm steel bolt M8 zinc", NO_LANGUAGE),
        ("", NO_LANGUAGE),
    ],
)
def test_the_language_is_read_from_the_stop_words(text: str, language: str) -> None:
    assert detect_language([text]) == language


def test_words_of_another_language_meet_their_inflections() -> None:
    german = Terms("german", usual_stop_words("german"))
    assert german.of("die Verträge") == german.of("des Vertrags")


def test_a_language_without_a_stemmer_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(Refused, match=r"FT-LEX-001.*klingon.*english"):
        Terms("klingon", [])


def test_numbers_are_the_same_in_every_process() -> None:
    assert ENGLISH.numbers(["pump", "年假"]) == [term_number("pump"), term_number("年假")] == [373298348, 1076365401]


def test_the_fingerprint_differs_with_what_changes_terms() -> None:
    other = [Terms("english", []), Terms("german", usual_stop_words("english")), Terms(NO_LANGUAGE, [])]
    assert len({ENGLISH.fingerprint, *(terms.fingerprint for terms in other)}) == 4
    assert Terms("english", reversed(usual_stop_words("english"))).fingerprint == ENGLISH.fingerprint


@given(st.text())
def test_any_text_has_terms_that_do_not_depend_on_width_or_case(text: str) -> None:
    terms = ENGLISH.of(text)
    assert all(0 <= number < 2**31 for number in ENGLISH.numbers(terms))
    wide = text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    assert ENGLISH.of(wide) == terms
