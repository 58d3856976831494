"""How near an answer comes to the gold one, fair to Chinese and English: CJK by character, everything else by word.

Both texts are first put into one form (NFKC, case folded, punctuation dropped), so that "256 比特" equals "256比特".
The usual `rouge_score` keeps only [a-z0-9] and gives Chinese 0.0, or a false 1.0 on mixed text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import msgspec

from expectations.statistics import Interval
from expectations.violations import Violation

# Han with its extensions and compatibility forms, kana, hangul: scripts that do not put spaces between words
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


class Scores(msgspec.Struct, frozen=True):
    """Exact match (0 or 1), F1 over units and ROUGE-L F1 of one answer, each in [0, 1]."""

    exact_match: float
    f1: float
    rouge_l: float


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
            mend="train again with other settings or data, or raise answers.tolerance",
        )
    ]  # fmt: skip


def _f1(shared: int, given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))


def _longest_common_subsequence(given: Sequence[str], wanted: Sequence[str]) -> int:
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(given, wanted)
