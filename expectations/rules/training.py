"""Rules on the rows before a training starts, on its trial steps, and on a finished training.

A row is what the model will see: the prompt's ids, the ids of the whole conversation, and where the loss begins. A
violation names its row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from expectations.violations import Violation, violation

IGNORED = -100
VERDICTS = ("desirable", "undesirable")
"""The sides of a row of KTO."""
_SHOWN = 20
_STEPS = 24  # columns of the histogram of lengths

Thought = Literal["none", "full", "empty", "masked"]
"""How the reasoning of an answer is trained: the template has no place for it (none), it is trained (full), an empty
one is trained (empty), or an empty one carries no loss (masked)."""


class TokenisedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt with one answer, as trained: an instruction row, or one side of a preference pair.

    `where` is file:line and id. `side` is answer, chosen or rejected, desirable or undesirable. `serving` is the prompt
    as serving renders it. `ids` is the whole conversation; its tokens from `start` on carry loss.
    """

    where: str
    side: str
    serving: Sequence[int]
    ids: Sequence[int]
    start: int
    thought: Thought = "none"
    joined: bool = True
    """True if prompt and answer were tokenised together. They are not where a token would cross the prompt's end."""

    @property
    def trained(self) -> list[int]:
        """The tokens that carry loss."""
        return list(self.ids[self.start :])

    @property
    def labels(self) -> list[int]:
        """As long as `ids`, with -100 where no loss falls."""
        return [IGNORED] * self.start + self.trained


TokenisedPair = tuple[TokenisedRow, TokenisedRow]
"""The chosen and the rejected side of one preference pair."""


def check_counts(train: int, validation: int, where: str) -> list[Violation]:
    """FT-TRAIN-001: both parts hold rows. Without validation rows nobody knows whether training helped."""
    counts = {"train": train, "validation": validation}
    return [
        violation("FT-TRAIN-001", where=f"{where}/{part}", field="rows", found=0, expected="at least 1")
        for part, count in counts.items()
        if count == 0
    ]


def check_left(before: Mapping[str, int], after: Mapping[str, int], where: str) -> list[Violation]:
    """FT-TRAIN-027: after rows that are too long were dropped, each part still holds some."""
    return [
        violation("FT-TRAIN-027", where=f"{where}/{part}", field="rows", found=0, expected="at least 1")
        for part, count in after.items()
        if before[part] and not count
    ]


def check_filled(fields: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-TRAIN-016: each (where, field, text) holds text. An empty answer would teach silence."""
    return _shorten(
        violation("FT-TRAIN-016", where=where, field=field, found=text, expected="text")
        for where, field, text in fields
        if not text.strip()
    )


def check_reasoned(rows: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-TRAIN-017: under the policy `require` each (where, reasoning) holds reasoning."""
    return _shorten(
        violation("FT-TRAIN-017", where=where, field="reasoning", found=reasoning, expected="text")
        for where, reasoning in rows
        if not reasoning.strip()
    )


def check_round_trip(
    rows: Sequence[TokenisedRow], *, stop_ids: Collection[int], opening: Sequence[int] = ()
) -> list[Violation]:
    """FT-TRAIN-003, FT-TRAIN-004, FT-TRAIN-018: a row is trained as it is served.

    The prompt is the same, token for token; every answer ends with a stop token that carries loss; and `opening` (the
    ids of <think>, where the prompt already holds it) is not among the tokens that carry loss.
    """
    return [*_prefix_differs(rows), *_stop_untrained(rows, stop_ids), *_opening_trained(rows, opening)]


def check_lengths(rows: Sequence[TokenisedRow], *, max_length: int, too_long: str) -> list[Violation]:
    """FT-TRAIN-002, FT-TRAIN-019, FT-TRAIN-005: after the policy `too_long` no row is longer than `max_length`, and
    each has a token that carries loss."""
    long = [row for row in rows if len(row.ids) > max_length]
    judge = _uncuttable if too_long == "truncate_prompt" else _too_long
    return [*judge(long, max_length), *_nothing_trained(rows)]


def check_limits(rows: Sequence[TokenisedRow], *, positions: int | None, vocabulary: int) -> list[Violation]:
    """FT-TRAIN-062, FT-TRAIN-063: the model has a position for every token of a row, and an embedding for its id."""
    long = [row for row in rows if positions is not None and len(row.ids) > positions]
    unknown = [(row, most) for row in rows if row.ids and (most := max(row.ids)) >= vocabulary]
    return [
        *_shorten(
            violation(
                "FT-TRAIN-062", where=_name(row), field="tokens", found=len(row.ids), expected=f"at most {positions}"
            )
            for row in long
        ),
        *_shorten(
            violation(
                "FT-TRAIN-063", where=_name(row), field="token id", found=most, expected=f"at most {vocabulary - 1}"
            )
            for row, most in unknown
        ),
    ]


def check_steps(steps: int, warmup: int, where: str) -> list[Violation]:
    """FT-TRAIN-064: the rate is above 0 in some step. A warm-up begins at 0."""
    if steps > 1 or not warmup:
        return []
    return [
        violation(
            "FT-TRAIN-064", where=where, field="steps", found=steps, expected=f"more than the {warmup} of the warm-up"
        )
    ]


def check_pairs(pairs: Sequence[TokenisedPair]) -> list[Violation]:
    """FT-TRAIN-006: the two sides of a pair still differ after rows were cut."""
    return _shorten(
        violation("FT-TRAIN-006", where=chosen.where, field="chosen, rejected", found="equal", expected="different")
        for chosen, rejected in pairs
        if chosen.ids == rejected.ids
    )


def check_verdicts(parts: Mapping[str, Sequence[TokenisedRow]], where: str) -> list[Violation]:
    """FT-TRAIN-056, FT-TRAIN-057: for KTO each part has both verdicts, and rows with different prompts."""
    violations: list[Violation] = []
    for part, rows in parts.items():
        at, found = f"{where}/{part}", sorted({row.side for row in rows})
        if rows and len(found) < len(VERDICTS):
            violations.append(
                violation("FT-TRAIN-056", where=at, field="verdicts", found=found, expected=list(VERDICTS))
            )
        if rows and all(row.serving == rows[0].serving for row in rows):
            violations.append(violation("FT-TRAIN-057", where=at, field="prompts", found=1, expected="at least 2"))
    return violations


def check_thinking(where: Iterable[str], *, share: float, allowed: float) -> list[Violation]:
    """FT-TRAIN-020: a reasoning model is not taught to skip its reasoning.

    `share` of the rows train an empty reasoning (`where` names them); `allowed` is the largest share that may.
    """
    if share <= allowed:
        return []
    return _shorten(
        violation("FT-TRAIN-020", where=at, field="share of such rows", found=share, expected=f"at most {allowed:g}")
        for at in where
    )


def check_disk(needed: int, free: int, where: str) -> list[Violation]:
    """FT-TRAIN-021: the checkpoints and the published files fit on the disk (bytes)."""
    if needed <= free:
        return []
    return [violation("FT-TRAIN-021", where=where, field="bytes free", found=free, expected=f"at least {needed}")]


def check_memory(needed: int, free: int, where: str) -> list[Violation]:
    """FT-TRAIN-022: the training fits into memory (bytes) with every step of its fallback on memory errors."""
    if needed <= free:
        return []
    return [violation("FT-TRAIN-022", where=where, field="bytes free", found=free, expected=f"at least {needed}")]


def check_learning_rate(*, method: str, learning_rate: float, usual_full: float, where: str) -> list[Violation]:
    """FT-TRAIN-026: a full training has no `learning_rate` that suits LoRA.

    At ten times the usual rate or more, a model whose weights are all trained loses what the base knew.
    """
    if method != "full" or learning_rate < 10 * usual_full:
        return []
    return [
        violation(
            "FT-TRAIN-026",
            where=where,
            field="learning_rate",
            found=learning_rate,
            expected=f"about {usual_full:g}",
            fix=f"Set it to {usual_full:g}, or leave it out.",
        )
    ]


def check_smoke(figures: Mapping[str, Any], where: str) -> list[Violation]:
    """FT-TRAIN-010, FT-TRAIN-023: in two trial steps every loss and gradient norm is finite, and the weights change."""
    violations: list[Violation] = []
    for name in ("losses", "grad_norms"):
        for step, value in enumerate(figures[name], start=1):
            if not math.isfinite(value):
                violations.append(_trial_not_finite(where, name, step, value))
    delta = figures["max_abs_adapter_delta"]
    if not violations and not delta > 0:
        violations.append(
            violation("FT-TRAIN-023", where=where, field="max_abs_adapter_delta", found=delta, expected="above 0")
        )
    return violations


def check_training(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """FT-TRAIN-011, FT-TRAIN-012: in a finished training every loss is finite, and the weights have changed."""
    losses = {name: float(value) for name, value in summary.items() if "loss" in name}
    violations = [
        violation("FT-TRAIN-011", where=where, field=name, found=str(value), expected="a finite number")
        for name, value in losses.items()
        if not math.isfinite(value)
    ]
    delta = float(summary["max_abs_adapter_delta"])
    if not delta > 0:
        violations.append(
            violation("FT-TRAIN-012", where=where, field="max_abs_adapter_delta", found=delta, expected="above 0")
        )
    return violations


def check_eval_loss(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """FT-TRAIN-013: the loss on rows that were not trained on ends below where it started."""
    before, after = float(summary["eval_loss_before"]), float(summary["eval_loss_after"])
    if after < before:
        return []
    return [violation("FT-TRAIN-013", where=where, field="eval_loss_after", found=after, expected=f"below {before}")]


def check_answers(before: float, after: float, measure: str, where: str) -> list[Violation]:
    """FT-TRAIN-077: weights that were chosen by their answers answer the same questions no worse than those before."""
    if after >= before:
        return []
    return [
        violation("FT-TRAIN-077", where=where, field=f"{measure}_after", found=after, expected=f"at least {before}")
    ]


def check_rewards(summary: Mapping[str, Any], where: str, *, kto: bool = False) -> list[Violation]:
    """FT-TRAIN-014: DPO reports how often, and by how much, the chosen answer is preferred; KTO, by how much desirable
    answers are preferred to undesirable ones."""
    names = ("reward_margin_after",) if kto else ("reward_accuracy_after", "reward_margin_after")
    figures = {name: float(summary.get(name, math.nan)) for name in names}
    return [
        violation("FT-TRAIN-014", where=where, field=name, found=str(summary.get(name)), expected="a finite number")
        for name, value in figures.items()
        if not math.isfinite(value)
    ]


def check_preference(margin: float | None, accuracy: float | None, where: str) -> list[Violation]:
    """FT-TRAIN-060, FT-TRAIN-061: on pairs that were not trained on, the chosen answer gained more than the rejected
    one, on average and in at least half of the pairs (a tie counts half). KTO has no accuracy.

    The loss alone does not show it: a loss may fall while every rejected answer gains.
    """
    violations: list[Violation] = []
    if margin is None or not margin > 0:
        violations.append(
            violation("FT-TRAIN-060", where=where, field="reward_margin_after", found=margin, expected="above 0")
        )
    if accuracy is not None and not accuracy >= 0.5:
        violations.append(
            violation(
                "FT-TRAIN-061", where=where, field="reward_accuracy_after", found=accuracy, expected="at least 0.5"
            )
        )
    return violations


def measure_lengths(rows: Sequence[TokenisedRow]) -> dict[str, Any]:
    """Return the tokens of the rows: least, median, 95th percentile, most; how many carry loss; a histogram from 0."""
    lengths = sorted(len(row.ids) for row in rows)
    supervised, total = sum(len(row.ids) - row.start for row in rows), sum(lengths)
    counts = [0] * _STEPS
    for length in lengths:
        counts[min(length * _STEPS // max(lengths[-1], 1), _STEPS - 1)] += 1
    return {
        "tokens": total,
        "tokens_min": lengths[0],
        "tokens_median": lengths[len(lengths) // 2],
        "tokens_p95": lengths[min(len(lengths) * 95 // 100, len(lengths) - 1)],
        "tokens_max": lengths[-1],
        "supervised_tokens": supervised,
        "supervised_share": round(supervised / max(total, 1), 4),
        "histogram": counts,
    }


def find_ids(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Return the place in `ids` at which the tokens `wanted` begin, or None."""
    width = len(wanted)
    places = (n for n, token in enumerate(ids) if token == wanted[0] and list(ids[n : n + width]) == list(wanted))
    return next(places, None)


def _too_long(rows: Sequence[TokenisedRow], max_length: int) -> list[Violation]:
    return _shorten(
        violation(
            "FT-TRAIN-002", where=_name(row), field="tokens", found=len(row.ids), expected=f"at most {max_length}"
        )
        for row in rows
    )


def _uncuttable(rows: Sequence[TokenisedRow], max_length: int) -> list[Violation]:
    return _shorten(
        violation(
            "FT-TRAIN-019", where=_name(row), field="tokens", found=len(row.ids), expected=f"at most {max_length}"
        )
        for row in rows
    )


def _prefix_differs(rows: Sequence[TokenisedRow]) -> list[Violation]:
    return _shorten(
        violation(
            "FT-TRAIN-003",
            where=_name(row),
            field="prompt token ids",
            found=_first_different(row.ids, row.serving),
            expected=_first_different(row.serving, row.ids),
        )
        for row in rows
        if row.ids[: len(row.serving)] != row.serving
    )


def _stop_untrained(rows: Sequence[TokenisedRow], stop_ids: Collection[int]) -> list[Violation]:
    stops = set(stop_ids)
    return _shorten(
        violation(
            "FT-TRAIN-004",
            where=_name(row),
            field="last trained ids",
            found=row.trained[-4:],
            expected=f"one of {sorted(stops)}",
        )
        for row in rows
        if stops.isdisjoint(row.trained)
    )


def _opening_trained(rows: Sequence[TokenisedRow], opening: Sequence[int]) -> list[Violation]:
    return _shorten(
        violation(
            "FT-TRAIN-018",
            where=_name(row),
            field="trained ids",
            found=row.trained[:8],
            expected=f"without {list(opening)}",
        )
        for row in rows
        if opening and find_ids(row.trained, opening) is not None
    )


def _nothing_trained(rows: Sequence[TokenisedRow]) -> list[Violation]:
    return _shorten(
        violation("FT-TRAIN-005", where=_name(row), field="trained tokens", found=0, expected="at least 1")
        for row in rows
        if row.start >= len(row.ids)
    )


def _trial_not_finite(where: str, name: str, step: int, value: float) -> Violation:
    return violation(
        "FT-TRAIN-010",
        where=where,
        message=f"Trial step {step} is not finite",
        field=name,
        found=str(value),
        expected="a finite number",
        fix="Lower `learning_rate`, or look at the longest rows.",
    )


def _name(row: TokenisedRow) -> str:
    """Return the row's place and, in a pair, its side."""
    return row.where if row.side == "answer" else f"{row.where} {row.side}"


def _first_different(ids: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return up to 8 of `ids`, from the first that is not the same in `other`."""
    pairs = enumerate(zip(ids, other, strict=False))
    start = next((n for n, (left, right) in pairs if left != right), min(len(ids), len(other)))
    return list(ids[start : start + 8])


def _shorten(every: Iterable[Violation]) -> list[Violation]:
    """Return the first 20 violations, and one that counts the rest: a file in which every row fails stays readable."""
    violations = list(every)
    rest = len(violations) - _SHOWN
    if rest <= 0:
        return violations
    first = violations[0]
    summary = violation(first.code, where=f"{rest} more rows", message=first.message, fix=first.fix)
    return [*violations[:_SHOWN], summary]


def check_generated_share(origins: Mapping[str, int], by_hand: str, most: float, asset: str) -> list[Violation]:
    """FT-JOIN-001: at most the share `most` (0 to 1) of the trained rows is generated. `origins`: origin -> rows."""
    total = sum(origins.values())
    share = 1 - origins.get(by_hand, 0) / total if total else 0.0
    if share <= most + 1e-9:
        return []
    return [
        violation(
            "FT-JOIN-001",
            where=asset,
            field="share of generated rows",
            found=round(share, 4),
            expected=f"at most {most:g}",
        )
    ]
