"""Settings and versions of several artifacts next to each other: what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec


class ChangedValue(msgspec.Struct, frozen=True, kw_only=True):
    """A name with one value for each artifact; `None` where an artifact has no such value."""

    name: str
    values: list[str | None]


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return nested settings flat, as text: `{"lora": {"r": 8}}` -> `{"lora.r": "8"}`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast("Mapping[str, object]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return flat


def find_differences(columns: Sequence[Mapping[str, str]]) -> list[ChangedValue]:
    """Return every name whose values are not all equal, in the order in which the names come."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [ChangedValue(name=name, values=[column.get(name) for column in columns]) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]
