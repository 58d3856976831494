"""What must hold before a step is trained (token ids in, broken rules out, each naming its row) and after the last.

A row here is what the model will see: the prompt's ids, the whole conversation's, and from where on they carry loss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from expectations.violations import Violation

IGNORED = -100
_SHOWN = 20
_STEPS = 24  # columns of the histogram of lengths

Thought = Literal["none", "full", "empty", "masked"]
"""What becomes of the reasoning in an answer: there is no place for any, it is trained, an empty one is trained, or an
empty one carries no loss."""


class TokenisedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt with one answer to it, as trained: an instruction row, or one side of a preference pair.

    `where` is file:line and id, `side` is answer, chosen or rejected, `serving` the prompt as serving renders it, `ids`
    the whole conversation, of which the tokens from `start` on carry loss.
    """

    where: str
    side: str
    serving: Sequence[int]
    ids: Sequence[int]
    start: int
    thought: Thought = "none"
    joined: bool = True
    """Whether prompt and answer were tokenised together; if a token would reach over the end of the prompt, they are
    not."""

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
    """Both parts must hold rows: without validation nothing says whether training helped."""
    return [
        Violation(
            code="FT-TRAIN-001", where=f"{where}/{part}", message="the split holds no rows.",
            field="rows", found=0, expected="at least 1", fix="add rows, or raise the share in datasets.split",
        )
        for part, count in (("train", train), ("validation", validation)) if count == 0
    ]  # fmt: skip


def check_left(before: Mapping[str, int], after: Mapping[str, int], where: str) -> list[Violation]:
    """Dropping rows that are too long must leave some, in each part."""
    return [
        Violation(
            code="FT-TRAIN-001", where=f"{where}/{part}", message="every row is longer than max_length: none is left.",
            field="rows", found=0, expected="at least 1", fix="raise max_length, or set too_long: truncate_prompt",
        )
        for part, count in after.items() if before[part] and not count
    ]  # fmt: skip


def check_filled(fields: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """Each (where, field, text) holds text: an empty answer would teach silence."""
    return _shorten(
        Violation(
            code="FT-TRAIN-016", where=where, message="the field is empty.", field=field, found=text,
            expected="text", fix="write it, or delete the row",
        )
        for where, field, text in fields if not text.strip()
    )  # fmt: skip


def check_reasoned(rows: Iterable[tuple[str, str]]) -> list[Violation]:
    """Under the policy `require` each (where, reasoning) holds reasoning."""
    return _shorten(
        Violation(
            code="FT-TRAIN-017", where=where, message="the row has no reasoning, and the policy is `require`.",
            field="reasoning", found=reasoning, expected="text",
            fix="add the reasoning, or change datasets.instruction.thinking",
        )
        for where, reasoning in rows if not reasoning.strip()
    )  # fmt: skip


def check_round_trip(
    rows: Sequence[TokenisedRow], *, stop_ids: Collection[int], opening: Sequence[int] = ()
) -> list[Violation]:
    """What is trained is what is served: the same prompt, token for token, an end to every answer, and no `opening`
    (the ids of <think>, where the prompt already holds it) among the tokens that carry loss."""
    return [*_prefix_differs(rows), *_stop_untrained(rows, stop_ids), *_opening_trained(rows, opening)]


def check_lengths(rows: Sequence[TokenisedRow], *, max_length: int, too_long: str) -> list[Violation]:
    """No row is longer than `max_length` once the policy `too_long` was applied, and each has a token to learn."""
    broken = _uncuttable if too_long == "truncate_prompt" else _too_long
    return [*broken([row for row in rows if len(row.ids) > max_length], max_length), *_nothing_trained(rows)]


def check_pairs(pairs: Sequence[TokenisedPair]) -> list[Violation]:
    """The two sides of a pair differ, in what is left of them."""
    return _shorten(
        Violation(
            code="FT-TRAIN-006", where=chosen.where,
            message="chosen and rejected are the same tokens: the gradient of the pair is zero.",
            field="chosen, rejected", found="equal", expected="different", fix="drop the pair",
        )
        for chosen, rejected in pairs if chosen.ids == rejected.ids
    )  # fmt: skip


def check_thinking(where: Iterable[str], *, share: float, allowed: float) -> list[Violation]:
    """A model that thinks must not be taught to skip it: `share` of the rows train an empty thought, those at `where`
    among them, and `allowed` is the share that may."""
    if share <= allowed:
        return []
    return _shorten(
        Violation(
            code="FT-TRAIN-020", where=at, message="a model that thinks would learn to close its thought at once.",
            field="share of such rows", found=share, expected=f"at most {allowed:g}",
            fix="add reasoning, set datasets.instruction.thinking: mask_empty, or raise max_empty_thinking_share",
        )
        for at in where
    )  # fmt: skip


def check_disk(needed: int, free: int, where: str) -> list[Violation]:
    """The checkpoints and what is published must fit on the disk (bytes)."""
    if needed <= free:
        return []
    return [
        Violation(
            code="FT-TRAIN-021", where=where, message="the disk has too little room for this training.",
            field="bytes free", found=free, expected=f"at least {needed}", fix="free space, or move FT_STATE_DIR",
        )
    ]  # fmt: skip


def check_memory(needed: int, free: int, where: str) -> list[Violation]:
    """With all that it may fall back on the training must fit into memory (bytes)."""
    if needed <= free:
        return []
    return [
        Violation(
            code="FT-TRAIN-022", where=where,
            message="the training does not fit into memory, even with all that it may fall back on.",
            field="bytes free", found=free, expected=f"at least {needed}",
            fix="set method: lora or qlora, lower max_length, or choose a smaller base_model (see ft estimate)",
        )
    ]  # fmt: skip


def check_learning_rate(*, method: str, learning_rate: float, usual_full: float, where: str) -> list[Violation]:
    """Every weight trained at ten times the usual rate or more forgets what the base knew."""
    if method != "full" or learning_rate < 10 * usual_full:
        return []
    return [
        Violation(
            code="FT-TRAIN-026", where=where, message="the rate is one for adapters, and every weight is trained.",
            field="learning_rate", found=learning_rate, expected=f"about {usual_full:g}",
            fix=f"set it to {usual_full:g}, or leave it out",
        )
    ]  # fmt: skip


def check_smoke(figures: Mapping[str, Any], where: str) -> list[Violation]:
    """Two trial steps: every loss and gradient norm finite, and the weights moved."""
    broken = [
        Violation(
            code="FT-TRAIN-010", where=where, message=f"trial step {step} is not finite.", field=name,
            found=str(value), expected="a finite number", fix="lower learning_rate, or look at the longest rows",
        )
        for name in ("losses", "grad_norms") for step, value in enumerate(figures[name], start=1)
        if not math.isfinite(value)
    ]  # fmt: skip
    if not broken and not figures["max_abs_adapter_delta"] > 0:
        broken.append(
            Violation(
                code="FT-TRAIN-023", where=where, message="two trial steps left the weights as they were.",
                field="max_abs_adapter_delta", found=figures["max_abs_adapter_delta"], expected="above 0",
                fix="raise learning_rate, or look at lora.targets",
            )
        )  # fmt: skip
    return broken


def measure_lengths(rows: Sequence[TokenisedRow]) -> dict[str, Any]:
    """Tokens of the rows: least, median, 95th percentile, most; how many carry loss; counts in equal steps from 0."""
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


def _too_long(rows: Sequence[TokenisedRow], max_length: int) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-002", where=_named(row), message="the row is longer than max_length and is never cut.",
            field="tokens", found=len(row.ids), expected=f"at most {max_length}",
            fix="raise max_length, shorten the row, or set too_long: drop or truncate_prompt",
        )
        for row in rows
    )  # fmt: skip


def _uncuttable(rows: Sequence[TokenisedRow], max_length: int) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-019", where=_named(row),
            message="the row is longer than max_length even without its passages; question and answer are never cut.",
            field="tokens", found=len(row.ids), expected=f"at most {max_length}",
            fix="raise max_length, shorten the row, or set too_long: drop",
        )
        for row in rows
    )  # fmt: skip


def _prefix_differs(rows: Sequence[TokenisedRow]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-003", where=_named(row),
            message="the chat template renders the prompt differently in training and in serving.",
            field="prompt token ids", found=_rest(row.ids, row.serving), expected=_rest(row.serving, row.ids),
            fix="use a chat template whose generation prompt begins every assistant turn",
        )
        for row in rows if row.ids[: len(row.serving)] != row.serving
    )  # fmt: skip


def _stop_untrained(rows: Sequence[TokenisedRow], stop_ids: Collection[int]) -> list[Violation]:
    stops = set(stop_ids)
    return _shorten(
        Violation(
            code="FT-TRAIN-004", where=_named(row),
            message="no stop token carries loss: the model would not learn to end its answer.",
            field="last trained ids", found=row.trained[-4:], expected=f"one of {sorted(stops)}",
            fix="use a chat template that ends the assistant turn with the tokenizer's eos token",
        )
        for row in rows if stops.isdisjoint(row.trained)
    )  # fmt: skip


def _opening_trained(rows: Sequence[TokenisedRow], opening: Sequence[int]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-018", where=_named(row),
            message="the tag that opens a thought carries loss, but at serving it stands in the prompt already.",
            field="trained ids", found=row.trained[:8], expected=f"without {list(opening)}",
            fix="leave <think> out of the answer: the chat template opens it",
        )
        for row in rows if opening and find_ids(row.trained, opening) is not None
    )  # fmt: skip


def _nothing_trained(rows: Sequence[TokenisedRow]) -> list[Violation]:
    return _shorten(
        Violation(
            code="FT-TRAIN-005", where=_named(row), message="no token of the row carries loss.",
            field="trained tokens", found=0, expected="at least 1", fix="give the row an answer, or drop it",
        )
        for row in rows if row.start >= len(row.ids)
    )  # fmt: skip


def find_ids(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where the tokens `wanted` begin in `ids`, or None."""
    width = len(wanted)
    found = (n for n, token in enumerate(ids) if token == wanted[0] and list(ids[n : n + width]) == list(wanted))
    return next(found, None)


def _named(row: TokenisedRow) -> str:
    """Where the row stands and, in a pair, which side it is."""
    return row.where if row.side == "answer" else f"{row.where} {row.side}"


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
    first = violations[0]
    return [*violations[:_SHOWN], Violation(code=first.code, where=f"{rest} more rows", message=first.message)]


def check_training(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """A finished training: every loss finite, and the weights moved."""
    losses = {name: float(value) for name, value in summary.items() if "loss" in name}
    broken = [
        Violation(
            code="FT-TRAIN-011", where=where, message="a loss is not finite.", field=name, found=str(value),
            expected="a finite number", fix="lower the learning rate and train again",
        )
        for name, value in losses.items() if not math.isfinite(value)
    ]  # fmt: skip
    delta = float(summary["max_abs_adapter_delta"])
    if not delta > 0:
        broken.append(
            Violation(
                code="FT-TRAIN-012", where=where, message="training left the weights as they were.",
                field="max_abs_adapter_delta", found=delta, expected="above 0", fix="raise learning_rate or max_steps",
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
            fix="lower the learning rate, train less, or look at the data",
        )
    ]  # fmt: skip


def check_rewards(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """DPO must report what it is for: how often the chosen answer is preferred, and by how much."""
    return [
        Violation(
            code="FT-TRAIN-014", where=where, message="the figure is missing or not finite.", field=name,
            found=str(summary.get(name)), expected="a finite number", fix="lower the learning rate and train again",
        )
        for name in ("reward_accuracy_after", "reward_margin_after")
        if not math.isfinite(float(summary.get(name, math.nan)))
    ]  # fmt: skip
