"""Scores of an answer against the gold one, fair to Chinese and English: CJK by character, everything else by word.

Both texts are first normalised (NFKC, case folded, punctuation dropped), so that "256 比特" equals "256比特". The usual
`rouge_score` keeps only [a-z0-9]: it gives Chinese 0.0, or a false 1.0 on mixed text.

The reasoning (`<think> … </think>`) is not part of an answer: it is removed before anything is scored.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import msgspec

from expectations.rules.bootstrap import Interval
from expectations.violations import Violation, violation

# Han with its extensions and compatibility forms, kana, hangul: scripts that put no spaces between words
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
# not normalised before: NFKC makes 264 of 2⁶⁴
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*|[⁰¹²³⁴-⁹]+|[₀-₉]+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_OPEN, _CLOSE = "<think>", "</think>"


class AnswerScores(msgspec.Struct, frozen=True):
    """Exact match (0 or 1), F1 over units and ROUGE-L F1 of one answer, each in [0, 1]."""

    exact_match: float
    f1: float
    rouge_l: float


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply of a model. `thought` is its reasoning: None where none was opened. An open one has no `answer`."""

    answer: str
    thought: str | None = None
    closed: bool = True
    """False where the reasoning was opened and never closed."""
    tokens: int = 0
    """Generated tokens of reasoning and answer together, without the one that ends them."""
    cut: bool = False
    """True if max_new_tokens ended it."""


def read_reply(text: str, *, opens_thought: bool = False, tokens: int = 0, cut: bool = False) -> Reply:
    """Split a generated text into reasoning and answer. `opens_thought`: the prompt already ends with <think>."""
    before, close, after = text.rpartition(_CLOSE)
    if close:
        thought = before.strip().removeprefix(_OPEN).strip()
        return Reply(answer=after.strip(), thought=thought, tokens=tokens, cut=cut)
    if opens_thought or text.lstrip().startswith(_OPEN):
        thought = text.strip().removeprefix(_OPEN).strip()
        return Reply(answer="", thought=thought, closed=False, tokens=tokens, cut=cut)
    return Reply(answer=text.strip(), tokens=tokens, cut=cut)


def units(text: str) -> list[str]:
    """Return the text's units in order: each CJK character, and each run of other letters, digits and marks."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def numbers_of(text: str) -> list[str]:
    """Return the numbers of a text, sorted, by their value.

    >>> numbers_of("1,000.50 of ２５６ and 2⁶⁴")
    ['1000.5', '2', '256', '⁶⁴']
    """
    return sorted(_value(found) for found in _NUMBER.findall(text))


def _value(number: str) -> str:
    if number[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉":
        return number
    plain = "".join(character if character in ".," else str(int(character)) for character in number)
    if _THOUSANDS.fullmatch(plain):
        plain = plain.replace(",", "")
    if not re.fullmatch(r"\d+(?:\.\d+)?", plain):
        return plain  # a version or a date
    whole, _, fraction = plain.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


def score(answer: str, gold: str) -> AnswerScores:
    """Return all three scores of `answer` against `gold`."""
    given, wanted = units(answer), units(gold)
    return AnswerScores(
        exact_match=float(given == wanted),
        f1=_f1(sum((Counter(given) & Counter(wanted)).values()), given, wanted),
        rouge_l=_f1(_longest_common_subsequence(given, wanted), given, wanted),
    )


def check_not_worse(delta: Interval, tolerance: float, *, where: str, baseline: str) -> list[Violation]:
    """FT-ANS-001: the candidate did not lose to the baseline, by the paired interval of candidate - baseline.

    It lost when the mean falls by more than `tolerance` and the whole interval is below zero: a drop that chance
    explains does not block a release, and neither does a certain one that is too small to matter.
    """
    if not delta.is_loss(tolerance):
        return []
    return [
        violation(
            "FT-ANS-001",
            where=where,
            message=f"The candidate answers worse than {baseline} on {delta.n} questions",
            field="F1 difference",
            found=round(delta.mean, 4),
            expected=f"at least {-tolerance:g}",
        )
    ]


def check_thoughts_close(
    finished: float, most_unfinished: float, *, where: str, model: str, max_new_tokens: int
) -> list[Violation]:
    """FT-ANS-010: enough replies close their reasoning and answer. `finished`: the share of replies that do."""
    unfinished = 1 - finished
    if unfinished <= most_unfinished + 1e-9:
        return []
    return [
        violation(
            "FT-ANS-010",
            where=where,
            message=f"{unfinished:.0%} of the replies of {model} have no answer: their reasoning is never closed",
            field="unclosed reasoning",
            found=round(unfinished, 4),
            expected=f"at most {most_unfinished:g}",
            fix=f"Raise answers.max_new_tokens (now {max_new_tokens}), or train on rows that close their reasoning.",
        )
    ]


def _f1(shared: int, given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))


def _longest_common_subsequence(given: Sequence[str], wanted: Sequence[str]) -> int:
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(given, wanted)
