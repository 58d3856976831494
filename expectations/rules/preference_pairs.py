"""From the scored answers of a model to one question, to a pair for DPO or to the reason why there is none.

A pair needs a chosen answer that is right, not only better than the others: half of the best answers of a small model
are wrong, and such a pair would train a false number. The rejected answer is the wrong one that the model gives most
often, not the strangest one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

import msgspec

from expectations.rules.answer_scores import numbers_of, units
from expectations.violations import Violation, violation

_SHOWN = 20
SHORTEST, LONGEST = 0.5, 2.0
"""The median length of chosen answers, as multiples of that of the right answers, between which they count as alike."""


class SampledAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model to a question."""

    key: str
    """Unique among the candidates of a question: the key of the call that made it."""
    answer: str
    """Without reasoning; this is scored."""
    text: str
    """With reasoning in <think> tags where the model reasons; this is trained."""
    with_passages: bool
    temperature: float
    reward: float
    fault: str = ""
    """Code of the rule that keeps it out of pairs; empty for a candidate that may be in one."""


class PairRules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decide a pair. See `ddr` in config.yaml."""

    min_margin: float
    min_chosen: float
    rejected: Literal["frequent", "lowest"]
    prefer: Literal["none", "evidence", "memory"]


class CandidatePair(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen and the rejected answer of a question."""

    chosen: SampledAnswer
    rejected: SampledAnswer

    @property
    def margin(self) -> float:
        """The reward of the chosen answer minus that of the rejected one."""
        return _difference(self.chosen.reward, self.rejected.reward)


class NoPair(msgspec.Struct, frozen=True, kw_only=True):
    """The rule that leaves a question without a pair, with its values."""

    code: str
    reason: str


class PairFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a published pair that the gates judge."""

    where: str
    gold: str
    chosen_answer: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


def find_pair(candidates: Sequence[SampledAnswer], gold: str, rules: PairRules) -> CandidatePair | NoPair:
    """Return the pair of a question, or why there is none: FT-DDR-001 … 004, 006, 007. The order of the candidates
    does not matter."""
    usable = sorted((one for one in candidates if not one.fault), key=lambda one: one.key)
    refusal = _find_refusal(usable, len(candidates), rules)
    if refusal:
        return refusal
    frequency = Counter(_form(one) for one in usable)
    good = [one for one in usable if one.reward >= rules.min_chosen]
    if not good:
        best = max(usable, key=lambda one: one.reward)
        reason = f"the best answer is scored {best.reward:.3g}, below min_chosen {rules.min_chosen:g}: {best.answer}"
        return NoPair(code="FT-DDR-004", reason=reason)
    wanted = numbers_of(gold)
    right = [one for one in good if numbers_of(one.answer) == wanted]
    if not right:
        best = max(good, key=lambda one: one.reward)
        reason = f"{best.answer!r} has the numbers {numbers_of(best.answer)}, the right answer has {wanted}"
        return NoPair(code="FT-DDR-007", reason=reason)
    chosen = min(right, key=lambda one: (-one.reward, _is_avoided(one, rules), -frequency[_form(one)], *_order(one)))
    wrong = [one for one in usable if _is_far(chosen.reward - one.reward, rules.min_margin)]
    if not wrong:
        worst = min(one.reward for one in usable)
        return _too_close(chosen.reward, worst, rules.min_margin)
    return CandidatePair(chosen=chosen, rejected=_choose_rejected(wrong, rules))


def _find_refusal(usable: Sequence[SampledAnswer], asked: int, rules: PairRules) -> NoPair | None:
    """Return why these answers cannot show a preference, whatever the right answer is."""
    if not usable:
        return NoPair(code="FT-DDR-006", reason=f"none of {asked} answers can be used")
    if len({_form(one) for one in usable}) == 1:
        reason = f"{len(usable)} answers are the same: {usable[0].answer}"
        return NoPair(code="FT-DDR-001", reason=reason)
    best, worst = max(one.reward for one in usable), min(one.reward for one in usable)
    if best == worst:
        return NoPair(code="FT-DDR-002", reason=f"{len(usable)} answers are all scored {best:.3g}")
    if not _is_far(best - worst, rules.min_margin):
        return _too_close(best, worst, rules.min_margin)
    return None


def _choose_rejected(wrong: Sequence[SampledAnswer], rules: PairRules) -> SampledAnswer:
    frequency = Counter(_form(one) for one in wrong)
    if rules.rejected == "lowest":
        return min(wrong, key=lambda one: (one.reward, not one.with_passages, -frequency[_form(one)], *_order(one)))
    # answers without passages are off topic and easy to tell apart: they only fill in
    pool = [one for one in wrong if one.with_passages] or wrong
    frequency = Counter(_form(one) for one in pool)
    return min(pool, key=lambda one: (-frequency[_form(one)], *_order(one), one.reward))


def _is_avoided(candidate: SampledAnswer, rules: PairRules) -> bool:
    return rules.prefer == ("memory" if candidate.with_passages else "evidence")


def _order(candidate: SampledAnswer) -> tuple[float, str]:
    """Return the order of answers that are otherwise equal: what the model says at a low temperature is likelier."""
    return candidate.temperature, candidate.text


def _form(candidate: SampledAnswer) -> tuple[str, ...]:
    """Return the form by which answers are equal: that of the scores."""
    return tuple(units(candidate.answer))


def _difference(left: float, right: float) -> float:
    return round(left - right, 9)  # scores come in binary: 0.8 - 0.7 must count as 0.1


def _is_far(difference: float, least: float) -> bool:
    return round(difference, 9) >= max(least, 1e-9)


def _too_close(best: float, worst: float, least: float) -> NoPair:
    reason = f"the scores {best:.3g} and {worst:.3g} differ by less than min_margin {least:g}"
    return NoPair(code="FT-DDR-003", reason=reason)


def pairs_are_right(where: str, pairs: Iterable[PairFacts], rules: PairRules) -> list[Violation]:
    """FT-DDR-010: every chosen answer is right, has the numbers of the right one, and is better by the margin."""
    violations: list[Violation] = []
    for pair in pairs:
        faults = {
            f"a margin of {rules.min_margin:g}": _is_far(pair.chosen_score - pair.rejected_score, rules.min_margin),
            f"a chosen score of {rules.min_chosen:g}": pair.chosen_score >= rules.min_chosen,
            "two answers": units(pair.chosen) != units(pair.rejected),
            "the numbers of the right answer": numbers_of(pair.chosen_answer) == numbers_of(pair.gold),
        }
        violations += [
            violation(
                "FT-DDR-010",
                where=f"{where}, {pair.where}",
                field="pair",
                found=f"{pair.chosen!r} ({pair.chosen_score:.3g}) over {pair.rejected!r} ({pair.rejected_score:.3g})",
                expected=f"{expected}; right is {pair.gold!r}",
            )
            for expected, holds in faults.items()
            if not holds
        ]
    return violations[:_SHOWN]


def nothing_is_held_out(where: str, found: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-DDR-011: no training pair is made of a held-out question or passage. `found`: (pair, field, its name)."""
    return [
        violation("FT-DDR-011", where=f"{where}, {pair}", field=field, found=name, expected="a part of training")
        for pair, field, name in found
    ][:_SHOWN]


def lengths_are_alike(where: str, chosen: Sequence[int], gold: Sequence[int]) -> list[Violation]:
    """FT-DDR-012: the median length of the chosen answers is near that of the right answers (in units)."""
    if not chosen:
        return []
    ratio = median(chosen) / max(median(gold), 1)
    if SHORTEST <= ratio <= LONGEST:
        return []
    expected = f"{SHORTEST:g} to {LONGEST:g}"
    return [violation("FT-DDR-012", where=where, field="median length", found=round(ratio, 3), expected=expected)]
