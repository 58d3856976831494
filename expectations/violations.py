"""One broken rule, with everything its reader needs: where, both values, and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


class Violation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that does not hold.

    `code` can be looked up in docs/rules.md; `where` names the asset or `file:line`; `found` and `expected` are the
    two values that disagree; `mend` is the command or the edit that puts it right.
    """

    code: str
    where: str
    message: str
    field: str = ""
    found: Any = None
    expected: Any = None
    mend: str = ""

    def __str__(self) -> str:
        text = f"[{self.code}] {self.where}: {self.message}"
        if self.field:
            text += f" ({self.field}: found {self.found!r}, expected {self.expected!r})"
        return f"{text} Mend: {self.mend}" if self.mend else text


class Refused(Exception):
    """Work was refused because rules do not hold. Carries every violation, not only the first."""

    def __init__(self, subject: str, violations: Iterable[Violation]) -> None:
        self.subject = subject
        self.violations = list(violations)
        lines = "\n".join(f"  - {violation}" for violation in self.violations)
        super().__init__(f"{subject} refused:\n{lines}")
