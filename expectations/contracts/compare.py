"""The comparison of two contracts: every difference with both values, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import cast

import msgspec

from expectations.codes import CODES
from expectations.violations import Violation, violation


class Level(StrEnum):
    """The cost of the differences between a stored contract and the wanted one."""

    IDENTICAL = "IDENTICAL"
    """They agree in everything that counts."""
    REWEIGHT = "REWEIGHT"
    """Only the fusion differs: evaluate and release again, encode nothing."""
    REINDEX = "REINDEX"
    """Stored vectors do not fit: build a new collection next to this one."""
    RETRAIN = "RETRAIN"
    """An adapter runs, but with another prompt or reasoning policy than it was trained for: train again."""
    BROKEN = "BROKEN"
    """An adapter cannot run on this base; or vectors differ although all fields agree."""


class Difference(msgspec.Struct, frozen=True):
    """One field in which a stored contract is not what was expected."""

    field: str
    stored: object
    expected: object
    code: str = ""
    """The rule that this difference breaks, where fields belong to different rules."""


class Comparison(msgspec.Struct, frozen=True):
    """The level of a comparison, every difference that led to it, the rule they break, and the fix."""

    level: Level
    differences: Sequence[Difference]
    code: str
    fix: str = ""

    def violations(self, where: str, code: str = "") -> list[Violation]:
        """Return one violation for each difference; `code`: the rule they break, instead of the contract's own."""
        return [
            violation(
                rule := code or difference.code or self.code,
                where=where,
                message=f"{self.level}: {CODES[rule].title}",
                field=difference.field,
                found=difference.stored,
                expected=difference.expected,
                fix=self.fix,
            )
            for difference in self.differences
        ]


def differences(stored: object, expected: object, *, ignore: Collection[str] = ()) -> list[Difference]:
    """Return every leaf in which two Structs (or mappings) differ, by dotted name; `ignore` names branches to skip.

    A field that only one side has counts as different, with None for the side that lacks it.
    """
    left, right = _leaves(stored, ignore), _leaves(expected, ignore)
    return [
        Difference(field, left.get(field), right.get(field))
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field)
    ]


def _leaves(value: object, ignore: Collection[str], at: str = "") -> dict[str, object]:
    """Return the values below `value` by dotted name."""
    plain: object = msgspec.to_builtins(value)
    if not isinstance(plain, Mapping):
        return {at: plain}
    leaves: dict[str, object] = {}
    for key, child in cast("Mapping[str, object]", plain).items():
        name = f"{at}.{key}" if at else key
        if name not in ignore:
            leaves |= _leaves(child, ignore, name)
    return leaves
