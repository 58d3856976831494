"""Rows that are longer than `max_length`: dropped, or cut in their passages, and each of them listed."""

# tokenizers are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from expectations.rules.training import TokenisedRow
from ft_assets.adapters.rows.tokenise import Row, where

TOO_LONG_FILE = "too_long.jsonl"
Policy = Literal["drop", "raise", "truncate_prompt"]
Tokenise = Callable[[Sequence[Row]], list[list[TokenisedRow]]]


class TooLong(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one row of a split. Tokens are those of its longest answer with the prompt."""

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
    """The rows that are trained, as token ids, and those that were too long. `rows[n]` made `made[n]`."""

    rows: list[Row]
    made: list[list[TokenisedRow]]
    too_long: list[TooLong]


def fit(rows: Sequence[Row], tokenise: Tokenise, *, part: str, max_length: int, policy: Policy) -> Fitted:
    """Apply the policy. A row that cannot be cut far enough stays as it is, for the gate to refuse by name."""
    fitted = Fitted([], [], [])
    for row, made in zip(rows, tokenise(rows), strict=True):
        kept: tuple[Row, list[TokenisedRow]] | None = (row, made)
        if policy != "raise" and _longest(made) > max_length:
            kept = _cut(row, tokenise, max_length) or kept if policy == "truncate_prompt" else None
            if kept is None or kept[0] is not row:
                fitted.too_long.append(_describe(part, row, made, kept))
        if kept is not None:
            fitted.rows.append(kept[0])
            fitted.made.append(kept[1])
    return fitted


def _cut(row: Row, tokenise: Tokenise, max_length: int) -> tuple[Row, list[TokenisedRow]] | None:
    """The row with as much of its passages as fits, the last ones given up first; None if even none of them fits.

    Halving the characters kept until they differ by one: what is returned was tokenised and found to fit.
    """
    found: tuple[Row, list[TokenisedRow]] | None = None
    low, high = -1, sum(map(len, row["context"] or []))
    while high - low > 1:
        chars = (low + high) // 2
        shorter = {**row, "context": _first(row["context"], chars)}
        (made,) = tokenise([shorter])
        if _longest(made) <= max_length:
            found, low = (shorter, made), chars
        else:
            high = chars
    return found


def _first(passages: Sequence[str], chars: int) -> list[str]:
    """The passages as far as `chars` characters go."""
    kept: list[str] = []
    for passage in passages:
        if chars <= 0:
            break
        kept.append(passage[:chars])
        chars -= len(passage)
    return kept


def _longest(made: Sequence[TokenisedRow]) -> int:
    return max(len(row.ids) for row in made)


def _describe(
    part: str, row: Row, made: Sequence[TokenisedRow], kept: tuple[Row, list[TokenisedRow]] | None
) -> TooLong:
    return TooLong(
        part=part,
        record_id=row["record_id"],
        where=where(row),
        action="cut" if kept else "dropped",
        tokens=_longest(made),
        prompt_tokens=len(made[0].serving),
        tokens_kept=_longest(kept[1]) if kept else 0,
        passages=len(row["context"] or []),
        passages_kept=len(kept[0]["context"]) if kept else 0,
    )


def as_lines(rows: Sequence[TooLong]) -> bytes:
    """The content of too_long.jsonl."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
