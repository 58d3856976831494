"""Violations: a broken rule with its place, both values and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import msgspec

from expectations.codes import CODES


class Violation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broken rule.

    `code` can be looked up in docs/rules.md; `where` names the asset or `file:line`; `found` and `expected` are the
    two values that disagree; `fix` is the command or the edit that solves it.
    """

    code: str
    where: str
    message: str
    field: str = ""
    found: Any = None
    expected: Any = None
    fix: str = ""

    def __str__(self) -> str:
        return f"[{self.code}] {self.where}: {self.text}"

    @property
    def text(self) -> str:
        """The message, both values and the fix."""
        text = self.message
        if self.field:
            text += f" ({self.field}: found {self.found!r}, expected {self.expected!r})"
        if not self.fix:
            return text
        return f"{text} Fix: {self.fix}" if text.endswith((".", "!", "?")) else f"{text}. Fix: {self.fix}"


def violation(
    code: str,
    *,
    where: str,
    message: str = "",
    field: str = "",
    found: Any = None,
    expected: Any = None,
    fix: str = "",
) -> Violation:
    """Return the violation of a rule in the rule book (KeyError if the code is not in it).

    `message` and `fix` are the rule's own title and fix where they are left out. Give them only where they name values
    that the rule book cannot know.
    """
    rule = CODES[code]
    return Violation(
        code=code,
        where=where,
        message=message or rule.title,
        field=field,
        found=found,
        expected=expected,
        fix=fix or rule.fix,
    )


class Refused(Exception):
    """Work was refused because rules are broken. Carries every violation, not only the first."""

    def __init__(self, subject: str, violations: Iterable[Violation]) -> None:
        self.subject = subject
        self.violations = list(violations)
        lines = "\n".join(f"  - {violation}" for violation in self.violations)
        super().__init__(f"{subject} refused:\n{lines}")

    def __reduce__(self) -> tuple[type[Self], tuple[str, list[Violation]]]:
        return type(self), (self.subject, self.violations)  # pickle would call it with the text alone
