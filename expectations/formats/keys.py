"""Parts of the keys by which records are compared (see `Keys`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from expectations.formats.dialect import Turn
from expectations.text.cleaning import matching_key


def question_key(question: str, around: tuple[str, ...]) -> int:
    """Return the key of a question together with the texts given with it."""
    return hash((matching_key(question), around))


def history_texts(history: Sequence[Turn]) -> tuple[str, ...]:
    """Return the texts of earlier turns, in order."""
    if not history:  # most rows have none
        return ()
    return tuple(chain.from_iterable((turn.question, turn.answer) for turn in history))
