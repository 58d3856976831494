"""Two contracts compared field by field: every difference, with both values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import msgspec


class Difference(msgspec.Struct, frozen=True):
    """One field in which a stored contract is not what was expected."""

    field: str
    stored: Any
    expected: Any


def differences(stored: Any, expected: Any, *, ignore: Collection[str] = ()) -> list[Difference]:
    """Every leaf in which two Structs (or mappings) differ, by dotted name; `ignore` names whole branches to pass over.

    A field that only one side has counts as different, with None for the side that lacks it.
    """
    left, right = _leaves(stored, ignore), _leaves(expected, ignore)
    return [
        Difference(field, left.get(field), right.get(field))
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field)
    ]


def _leaves(value: Any, ignore: Collection[str], at: str = "") -> dict[str, Any]:
    plain: Any = msgspec.to_builtins(value)
    if not isinstance(plain, Mapping):
        return {at: plain}
    found: dict[str, Any] = {}
    for key, child in cast("Mapping[str, Any]", plain).items():
        name = f"{at}.{key}" if at else key
        if name in ignore:
            continue
        found |= _leaves(child, ignore, name) if isinstance(child, Mapping) else {name: child}
    return found
