"""Rows longer than `max_length`: drop them or cut their passages, and list each of them."""

# tokenizers are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from expectations.rules.training import TokenisedRow
from ft_assets.adapters.rows.tokenise import Row, where

TOO_LONG_FILE = "too_long.jsonl"
Policy = Literal["drop", "raise", "truncate_prompt"]
Tokenise = Callable[[Sequence[Row]], list[list[TokenisedRow]]]


class TooLong(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a split that was too long. Tokens are those of the prompt with its longest answer."""

    part: str
    record_id: str
    where: str
    action: Literal["dropped", "cut"]
    tokens: int
    prompt_tokens: int
    tokens_kept: int
    passages: int
    passages_kept: int


class Fitted(msgspec.Struct, frozen=True):
    """The rows to train, their token ids (`tokenised[n]` belongs to `rows[n]`), and the rows that were too long."""

    rows: list[Row]
    tokenised: list[list[TokenisedRow]]
    too_long: list[TooLong]


class _Kept(NamedTuple):
    """A row to train and its answers as token ids."""

    row: Row
    answers: list[TokenisedRow]


def fit(rows: Sequence[Row], tokenise: Tokenise, *, part: str, max_length: int, policy: Policy) -> Fitted:
    """Apply the policy. A row that cannot be cut far enough is kept as it is, so that the gate can name it."""
    fitted = Fitted([], [], [])
    for row, answers in zip(rows, tokenise(rows), strict=True):
        kept: _Kept | None = _Kept(row, answers)
        if policy != "raise" and _longest(answers) > max_length:
            kept = _cut(row, tokenise, max_length) or kept if policy == "truncate_prompt" else None
            if kept is None or kept.row is not row:
                fitted.too_long.append(_describe(part, row, answers, kept))
        if kept is not None:
            fitted.rows.append(kept.row)
            fitted.tokenised.append(kept.answers)
    return fitted


def _cut(row: Row, tokenise: Tokenise, max_length: int) -> _Kept | None:
    """Return the row with as many characters of its passages as fit, cut from the end; None if not even none fits.

    A binary search over the number of characters. The returned row was tokenised and did fit.
    """
    best: _Kept | None = None
    low, high = -1, sum(map(len, row["context"] or []))
    while high - low > 1:
        chars = (low + high) // 2
        shorter = {**row, "context": _first(row["context"], chars)}
        (answers,) = tokenise([shorter])
        if _longest(answers) <= max_length:
            best, low = _Kept(shorter, answers), chars
        else:
            high = chars
    return best


def _first(passages: Sequence[str], chars: int) -> list[str]:
    """Return the first `chars` characters of the passages."""
    kept: list[str] = []
    for passage in passages:
        if chars <= 0:
            break
        kept.append(passage[:chars])
        chars -= len(passage)
    return kept


def _longest(answers: Sequence[TokenisedRow]) -> int:
    return max(len(answer.ids) for answer in answers)


def _describe(part: str, row: Row, answers: Sequence[TokenisedRow], kept: _Kept | None) -> TooLong:
    return TooLong(
        part=part,
        record_id=row["record_id"],
        where=where(row),
        action="cut" if kept else "dropped",
        tokens=_longest(answers),
        prompt_tokens=len(answers[0].serving),
        tokens_kept=_longest(kept.answers) if kept else 0,
        passages=len(row["context"] or []),
        passages_kept=len(kept.row["context"]) if kept else 0,
    )


def as_lines(rows: Sequence[TooLong]) -> bytes:
    """Return the content of too_long.jsonl."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
