"""How the training worker refuses: one violation, or none."""

from __future__ import annotations

from typing import Any, NoReturn

from expectations.violations import Refused, Violation


def refuse(code: str, message: str, *, field: str, found: Any, expected: Any, fix: str) -> NoReturn:
    violation = Violation(
        code=code, where="adapter training", field=field, message=message, found=found, expected=expected, fix=fix
    )
    raise Refused("adapter training", [violation])


def refuse_if(subject: str, broken: list[Violation]) -> None:
    if broken:
        raise Refused(subject, broken)
