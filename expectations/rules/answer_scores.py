"""How near an answer comes to the gold one, fair to Chinese and English: CJK by character, everything else by word.

Both texts are first put into one form (NFKC, case folded, punctuation dropped), so that "256 比特" equals "256比特".
The usual `rouge_score` keeps only [a-z0-9] and gives Chinese 0.0, or a false 1.0 on mixed text.

A thought (`<think> … </think>`) is no part of an answer: it is split off before anything is scored.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import msgspec

from expectations.rules.bootstrap import Interval
from expectations.violations import Violation

# Han with its extensions and compatibility forms, kana, hangul: scripts that do not put spaces between words
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


_OPEN, _CLOSE = "<think>", "</think>"


class Scores(msgspec.Struct, frozen=True):
    """Exact match (0 or 1), F1 over units and ROUGE-L F1 of one answer, each in [0, 1]."""

    exact_match: float
    f1: float
    rouge_l: float


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a model said. `thought` is None where none was opened; an open one has no `answer` behind it."""

    answer: str
    thought: str | None = None
    closed: bool = True
    """False where a thought was opened and never closed."""
    tokens: int = 0
    """Generated tokens, thought and answer together, without the one that ends them."""
    cut: bool = False
    """Whether max_new_tokens ended it."""


def read_reply(text: str, *, opens_thought: bool = False, tokens: int = 0, cut: bool = False) -> Reply:
    """Split what a model generated into thought and answer. `opens_thought`: the prompt already ends with <think>."""
    before, close, after = text.rpartition(_CLOSE)
    if close:
        thought = before.strip().removeprefix(_OPEN).strip()
        return Reply(answer=after.strip(), thought=thought, tokens=tokens, cut=cut)
    if opens_thought or text.lstrip().startswith(_OPEN):
        thought = text.strip().removeprefix(_OPEN).strip()
        return Reply(answer="", thought=thought, closed=False, tokens=tokens, cut=cut)
    return Reply(answer=text.strip(), tokens=tokens, cut=cut)


def units(text: str) -> list[str]:
    """The text's units in order: one a CJK character, one a run of other letters, digits and marks."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def score(answer: str, gold: str) -> Scores:
    """All three scores of `answer` against `gold`."""
    given, wanted = units(answer), units(gold)
    return Scores(
        exact_match=float(given == wanted),
        f1=_f1(sum((Counter(given) & Counter(wanted)).values()), given, wanted),
        rouge_l=_f1(_longest_common_subsequence(given, wanted), given, wanted),
    )


def check_not_worse(delta: Interval, tolerance: float, *, where: str, baseline: str) -> list[Violation]:
    """Whether a candidate lost to a baseline, by the paired interval of candidate - baseline.

    It lost when the mean falls by more than `tolerance` and the interval lies below zero: a drop that chance explains
    does not block a release, and neither does a certain one that is too small to matter.
    """
    if delta.mean >= -tolerance or delta.high >= 0:
        return []
    return [
        Violation(
            code="FT-ANS-001", where=where,
            message=f"the candidate answers worse than {baseline} on {delta.n} questions.",
            field="F1 difference", found=round(delta.mean, 4), expected=f"at least {-tolerance:g}",
            fix="train again with other settings or data, or raise answers.tolerance",
        )
    ]  # fmt: skip


def check_thoughts_close(
    finished: float, most_unfinished: float, *, where: str, model: str, max_new_tokens: int
) -> list[Violation]:
    """Whether enough replies of a thinking model close their thought and answer. `finished`: the share that does."""
    if 1 - finished <= most_unfinished + 1e-9:
        return []
    return [
        Violation(
            code="FT-ANS-010", where=where,
            message=f"{model} never gets to an answer in {1 - finished:.0%} of its replies: the thought stays open.",
            field="unclosed thoughts", found=round(1 - finished, 4), expected=f"at most {most_unfinished:g}",
            fix=f"raise answers.max_new_tokens (now {max_new_tokens}), or train on rows that close their thought",
        )
    ]  # fmt: skip


def _f1(shared: int, given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))


def _longest_common_subsequence(given: Sequence[str], wanted: Sequence[str]) -> int:
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(given, wanted)
