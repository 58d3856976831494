"""Refusals of the training worker."""

from __future__ import annotations

from typing import NoReturn

from expectations.violations import Refused, Violation

SUBJECT = "adapter training"
"""The `where` of a violation that is about the training and not about a row or a file."""


def refuse(violation: Violation) -> NoReturn:
    """Refuse the training. Raises Refused."""
    raise Refused(SUBJECT, [violation])


def refuse_if(subject: str, violations: list[Violation]) -> None:
    """Raise Refused if there are violations."""
    if violations:
        raise Refused(subject, violations)
