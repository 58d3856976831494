"""What must hold before a step is trained (token ids in, broken rules out, each naming its row) and after the last.

A row here is what the model will see: the prompt's ids, the completions' ids and which of those carry loss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from expectations.violations import Violation

IGNORED = -100
_SHOWN = 20


class TokenisedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction row. `where` is file:line, `serving` the prompt as serving renders it, `labels` as long as `ids`
    with -100 where no loss falls."""

    where: str
    serving: list[int]
    ids: list[int]
    labels: list[int]


class TokenisedPair(msgspec.Struct, frozen=True, kw_only=True):
    """One preference row: both `ids_*` are whole conversations that begin with the prompt, `serving`."""

    where: str
    serving: list[int]
    ids_chosen: list[int]
    ids_rejected: list[int]


def check_rows(rows: Sequence[TokenisedRow], *, max_length: int, stop_ids: Collection[int]) -> list[Violation]:
    """Every rule on instruction rows."""
    return [
        *_too_long([(row.where, len(row.ids)) for row in rows], max_length),
        *_prefix_differs([(row.where, row.serving, row.ids) for row in rows]),
        *_nothing_trained([(row.where, row.labels) for row in rows]),
        *_stop_untrained([(row.where, row.labels) for row in rows], stop_ids),
    ]


def check_pairs(rows: Sequence[TokenisedPair], *, max_length: int, stop_ids: Collection[int]) -> list[Violation]:
    """Every rule on preference rows."""
    whole = [
        (f"{row.where} ({side})", row.serving, ids)
        for row in rows
        for side, ids in (("chosen", row.ids_chosen), ("rejected", row.ids_rejected))
    ]
    completions = [(where, ids[len(serving) :]) for where, serving, ids in whole]
    return [
        *_too_long([(where, len(ids)) for where, _, ids in whole], max_length),
        *_prefix_differs(whole),
        *_nothing_trained(completions),
        *_stop_untrained(completions, stop_ids),
        *_pairs_equal(rows),
    ]


def check_counts(train: int, validation: int, where: str) -> list[Violation]:
    """Both parts must hold rows: without validation nothing says whether training helped."""
    return [
        Violation(
            code="FT-TRAIN-001", where=f"{where}/{part}", message="the split holds no rows.",
            field="rows", found=0, expected="at least 1", mend="add rows, or raise the share in datasets.split",
        )
        for part, count in (("train", train), ("validation", validation)) if count == 0
    ]  # fmt: skip


def _too_long(lengths: Sequence[tuple[str, int]], max_length: int) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-002", where=where, message="the row is longer than max_length and is never cut.",
            field="tokens", found=length, expected=f"at most {max_length}",
            mend="raise max_length, or shorten or drop the row",
        )
        for where, length in lengths if length > max_length
    )  # fmt: skip


def _prefix_differs(rows: Sequence[tuple[str, list[int], list[int]]]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-003", where=where,
            message="the chat template renders the prompt differently in training and in serving.",
            field="prompt token ids", found=_rest(ids, serving), expected=_rest(serving, ids),
            mend="use a chat template whose generation prompt begins every assistant turn",
        )
        for where, serving, ids in rows if ids[: len(serving)] != serving
    )  # fmt: skip


def _stop_untrained(rows: Sequence[tuple[str, list[int]]], stop_ids: Collection[int]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-004", where=where,
            message="no stop token carries loss: the model would not learn to end its answer.",
            field="last trained ids", found=labels[-4:], expected=f"one of {sorted(stop_ids)}",
            mend="use a chat template that ends the assistant turn with the tokenizer's eos token",
        )
        for where, labels in rows if not set(stop_ids) & set(labels)
    )  # fmt: skip


def _nothing_trained(rows: Sequence[tuple[str, list[int]]]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-005", where=where, message="no token of the row carries loss.",
            field="trained tokens", found=0, expected="at least 1", mend="give the row an answer, or drop it",
        )
        for where, labels in rows if all(label == IGNORED for label in labels)
    )  # fmt: skip


def _pairs_equal(rows: Sequence[TokenisedPair]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-006", where=row.where,
            message="chosen and rejected are the same tokens: the gradient of the pair is zero.",
            field="chosen, rejected", found="equal", expected="different", mend="drop the pair",
        )
        for row in rows if row.ids_chosen == row.ids_rejected
    )  # fmt: skip


def _rest(ids: Sequence[int], other: Sequence[int]) -> list[int]:
    """The first few of `ids` from where it parts from `other`."""
    parts = next((n for n, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), min(len(ids), len(other)))
    return list(ids[parts : parts + 8])


def _shorten(found: Iterable[Violation]) -> list[Violation]:
    """The first violations, and one that counts the rest: a whole broken file must stay readable."""
    violations = list(found)
    rest = len(violations) - _SHOWN
    if rest <= 0:
        return violations
    last = violations[0]
    return [*violations[:_SHOWN], Violation(code=last.code, where=f"{rest} more rows", message=last.message)]


def check_training(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """A finished training: every loss finite, the adapter's weights moved, the validation loss fell."""
    losses = {name: float(value) for name, value in summary.items() if "loss" in name}
    broken = [
        Violation(
            code="FT-TRAIN-011", where=where, message="a loss is not finite.", field=name, found=str(value),
            expected="a finite number", mend="lower the learning rate and train again",
        )
        for name, value in losses.items() if not math.isfinite(value)
    ]  # fmt: skip
    delta = float(summary["max_abs_adapter_delta"])
    if not delta > 0:
        broken.append(
            Violation(
                code="FT-TRAIN-012", where=where, message="training left the adapter as it was.",
                field="max_abs_adapter_delta", found=delta, expected="above 0", mend="raise learning_rate or max_steps",
            )
        )  # fmt: skip
    return broken


def check_eval_loss(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """The loss on rows that were not trained on must end below where it started."""
    before, after = float(summary["eval_loss_before"]), float(summary["eval_loss_after"])
    if after < before:
        return []
    return [
        Violation(
            code="FT-TRAIN-013", where=where, message="the validation loss did not fall: the training did not help.",
            field="eval_loss_after", found=after, expected=f"below {before}",
            mend="lower the learning rate, train less, or look at the data",
        )
    ]  # fmt: skip


def check_rewards(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """DPO must report what it is for: how often the chosen answer is preferred, and by how much."""
    return [
        Violation(
            code="FT-TRAIN-014", where=where, message="the figure is missing or not finite.", field=name,
            found=str(summary.get(name)), expected="a finite number", mend=f"ft run --asset {where}",
        )
        for name in ("reward_accuracy_after", "reward_margin_after")
        if not math.isfinite(float(summary.get(name, math.nan)))
    ]  # fmt: skip
