"""Calls that a group will make, before it makes them."""

from __future__ import annotations

import msgspec


class PlannedCalls(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one step, with the tokens of each. Calls that were answered before cost nothing."""

    step: str
    asset: str
    """The asset that makes them."""
    expected: int
    most: int
    prompt_tokens: float
    tokens: float
    """Tokens of an answer."""


def answer_tokens(max_new_tokens: int) -> float:
    """Return the tokens that an answer has, as a guess: half of what it may have."""
    return max_new_tokens / 2
