"""The rules that a generated question must pass, each independent of the others, the cheapest first.

A rule raises RowError with its code. The rules that need a model or the corpus (FT-KBA-005 to 009) are applied by the
workers; their decisions on plain values are here too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from expectations.formats.dialect import RowError
from expectations.questions.prompts import GAP
from expectations.questions.tokens import holds, numbers_of, parts_of, tokens_of, written_words
from expectations.rules.answer_scores import score, units
from expectations.text.cleaning import (
    clean,
    find_lost_number,
    find_role_label,
    find_special_token,
    find_template_residue,
    has_han,
)

RULES_VERSION = "1"
"""The version of these rules, as every verified row states it."""

_FEWEST, _MOST, _MOST_ZH = 4, 40, 80  # units of a question
_DIGITS_APART = re.compile(r"(?<=\d),(?=\d{3})")
_LABEL = re.compile(r"(?:questions?|q|answers?|问题|问|答案|答) ?\d* ?[:：]", re.IGNORECASE)
_DEIXIS = re.compile(
    r"\b(?:this|the|that|these|those|above|following|given|provided|said) "
    r"(?:given |following |above |provided )?(?:passages?|texts?|sections?|paragraphs?|documents?|articles?|sentences?|"
    r"excerpts?|headings?|snippets?|author)\b|\b(?:this|given|provided|following) context\b"
    r"|\b(?:mentioned|described|stated|shown|listed|given|as) (?:above|below|here)\b|\bthe above\b|\baforementioned\b"
    r"|本文|上文|下文|前文|上述|该文|此文|(?<![明密论英中原])文中|本段|这段|该段|本节|该节|本章|如上|如下|下列"
    r"|以上(?:文|内容|资料|材料|信息)|(?:这|该|此|本)(?:篇|份|个|条|段)?(?:文章|文档|文本|段落|资料|材料|句子|句话|段话|内容)",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"^(?:\W*\w+){0,4}?\W*\b(?P<word>it|its|they|their|them|he|his|him|she|her|它们?)\b", re.IGNORECASE
)
# words of nearly every question, which name nothing
_COMMON_WORDS = (
    "which what when where who whom whose why how many much long does did has have had was were are been being the "
    "and for from with without that this into than then they them their its only also both each such used uses use "
    "name names called call number value word term text first one two there under about between after before"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget)(?: (?:all|any|of|the|your|my|these|those|everything|that))*"
    r" (?:above|previous|prior|preceding|earlier|instructions?|prompts?)\b"
    r"|(?:忽略|无视|忘记|不要理会)[^。\n]{0,12}(?:以上|上述|上面|前面|之前|先前|指令|指示|提示)",
    re.IGNORECASE,
)


class QuestionCandidate(NamedTuple):
    """A question with its answer, and the passages that it was made from."""

    question: str
    answer: str
    heading: str
    texts: Sequence[str]
    """The texts of the passages; the first one holds the answer."""
    is_cloze: bool = False


def read_question(reply: str, *, cut: bool) -> str:
    """Return the question in a model's reply. FT-KBA-001: it is not one on one line; FT-GEN-003: it was cut."""
    if cut:
        raise _refuse("FT-GEN-003", "the reply was cut at kbalign.max_new_tokens")
    question = clean(reply).strip()
    if "\n" in question:
        raise _refuse("FT-KBA-001", "the reply has several lines")
    if not question.endswith(("?", "？")):
        raise _refuse("FT-KBA-001", "the reply does not end with a question mark")
    if question.count("?") + question.count("？") > 1:
        raise _refuse("FT-KBA-001", "the reply has several questions")
    most = _MOST_ZH if has_han(question) else _MOST
    size = len(units(question))
    if not _FEWEST <= size <= most:
        raise _refuse("FT-KBA-001", f"the question has {size} words or characters, not {_FEWEST} to {most}")
    if label := _LABEL.match(question):
        raise _refuse("FT-KBA-001", f"the reply begins with the label “{label.group()}”")
    for found in (find_role_label(question), find_special_token(question), *find_template_residue(question)):
        if found:
            raise _refuse("FT-KBA-001", f"the reply has “{found}”, which belongs to a template")
    return question


def check_passage(text: str) -> None:
    """FT-KBA-011: nothing is asked about a text that gives a model orders, or that holds tokens of a template."""
    order = _ORDERS.search(text)
    if found := order.group() if order else find_special_token(clean(text)):
        raise RowError("FT-KBA-011", "$.passage", f"the passage has “{found}”")


def check_candidate(candidate: QuestionCandidate) -> None:
    """Apply the rules that need neither a model nor the corpus. Raises RowError with the code of the first broken one.

    FT-KBA-002 needs no context, -003 grounded, -004 does not give itself away, -010 its names and numbers are in the
    passages, -012 a question over several passages needs more than one.
    """
    _check_alone(candidate)
    _check_grounded(candidate)
    _check_secret(candidate)
    if not candidate.is_cloze:  # the sentence of a gap is a quotation
        _check_names(candidate)
    if len(candidate.texts) > 1:
        _check_several(candidate)


def agrees(given: str, answer: str, threshold: float) -> bool:
    """Return whether a judge's answer is the row's: F1 from the threshold on, and the same numbers.

    Two words of three are equal in “November 2001” and “November 2005 too”: numbers are compared by themselves.
    """
    f1 = score(_DIGITS_APART.sub("", given), _DIGITS_APART.sub("", answer)).f1
    return f1 >= threshold and sorted(numbers_of(given)) == sorted(numbers_of(answer))


def shape_of(answer: str) -> str:
    """Return the kind of an answer: its text with `0` for each number: `128 bits` and `512 bits` are `0 bits`.

    An answer without a number has the number of its units, so that names are compared with names.
    """
    parts = parts_of(answer)
    if not any(part[0].isdecimal() for part in parts):
        return f"{'zh' if has_han(answer) else 'words'} {len(units(answer))}"
    return " ".join("0" if part[0].isdecimal() else part for part in parts)


def _check_alone(candidate: QuestionCandidate) -> None:
    question = candidate.question
    if found := _DEIXIS.search(question if not candidate.is_cloze else _without_frame(question)):
        raise _refuse("FT-KBA-002", f"“{found.group()}” means nothing without the passage")
    text = " ".join([candidate.heading, *candidate.texts])
    if not _content_words(question) & _content_words(text):
        raise _refuse("FT-KBA-002", "the question names nothing of its passage")
    if (pronoun := _PRONOUN.search(question)) and not candidate.is_cloze:
        named = {word for word, first in written_words(question) if _is_name(word, first)}
        if not named and not _content_words(question) & _content_words(candidate.heading):
            raise _refuse("FT-KBA-002", f"“{pronoun['word']}” refers to nothing in the question")


def _check_grounded(candidate: QuestionCandidate) -> None:
    answer = candidate.answer
    if lost := find_lost_number(answer):
        raise _refuse("FT-KBA-003", f"the answer begins with “{lost}”: it lost its number", "$.answer")
    if not holds(tokens_of(candidate.texts[0]), tokens_of(answer)):
        raise _refuse("FT-KBA-003", "the answer is not in the passage, as whole words and numbers", "$.answer")


def _check_secret(candidate: QuestionCandidate) -> None:
    asked, wanted = parts_of(candidate.question), parts_of(candidate.answer)
    if holds(asked, wanted) or (not has_han(candidate.answer) and set(wanted) <= set(asked)):
        raise _refuse("FT-KBA-004", "the question holds its answer")


def _check_names(candidate: QuestionCandidate) -> None:
    known = set(parts_of("\n".join((candidate.heading, *candidate.texts))))
    mixed = has_han(candidate.question)
    named = {word for word, first in written_words(candidate.question) if _is_name(word, first and not mixed)}
    asked = {*parts_of(" ".join(named)), *numbers_of(candidate.question)}
    if unknown := sorted(part for part in asked if part not in known and part.removesuffix("s") not in known):
        raise _refuse("FT-KBA-010", f"“{unknown[0]}” is neither in the passage nor in its heading")


def _check_several(candidate: QuestionCandidate) -> None:
    first = _content_words(candidate.heading) | _content_words(candidate.texts[0])
    others = _content_words("\n".join(candidate.texts[1:]))
    if not _content_words(candidate.question) & (others - first):
        raise _refuse("FT-KBA-012", "nothing in the question comes from the other passages")


def _is_name(word: str, first: bool) -> bool:
    """Return whether a word is a name or a number by its look; the first word of a sentence has a capital anyway."""
    if word[0].isdecimal() or (word.isascii() and any(letter.isdecimal() for letter in word)):
        return True
    capitals = sum(letter.isupper() for letter in word)
    return capitals > 1 or (capitals == 1 and not first)


def _content_words(text: str) -> set[str]:
    """Return the words that name something: longer or with a digit; of Chinese every pair of characters."""
    parts = parts_of(text)
    words = {part for part in parts if part not in _COMMON and (len(part) > 2 or part[0].isdecimal())}
    pairs = {a + b for a, b in pairwise(parts) if has_han(a) and has_han(b)}
    return {word for word in words if not has_han(word)} | pairs


def _without_frame(question: str) -> str:
    """Return the sentence of a gap question without the words around it."""
    return question[question.find("“") + 1 : question.rfind("”")] if GAP in question else question


def _refuse(code: str, reason: str, path: str = "$.question") -> RowError:
    return RowError(code, path, reason)
