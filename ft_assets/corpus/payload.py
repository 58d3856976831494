"""Extra fields of documents that travel with their passages: one type a field in the whole corpus.

A filter such as `year>=2020` finds nothing where the years of some rows are texts. So a value of another type than the
earlier ones is refused, not stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Any, cast

import msgspec

from expectations.text.cleaning import clean
from resources.engines.protocol import PayloadType

_SAME_FAMILY: dict[frozenset[PayloadType], PayloadType] = {
    frozenset(("whole", "number")): "number",
    frozenset(("text", "texts")): "texts",
}
_WORDS = {"text": "text", "texts": "a list of texts", "whole": "a whole number", "number": "a number", "bool": "a bool"}


class PayloadFields:
    """The fields that `corpus.payload` names, and the type of each, which its first value decides."""

    def __init__(self) -> None:
        self.types: dict[str, PayloadType] = {}

    def encode(self, values: Mapping[str, object]) -> str:
        """Return the values as JSON. Raises ValueError, with nothing remembered, for one that a filter cannot use."""
        plain = {name: _plain(name, value) for name, value in values.items()}
        types = dict(self.types)
        for name, value in plain.items():
            if value is None:
                continue
            kind = _type_of(name, value)
            known = types.setdefault(name, kind)
            if known != kind:
                both = _SAME_FAMILY.get(frozenset((known, kind)))
                if both is None:
                    raise ValueError(f"`{name}` is {_WORDS[kind]} here, and {_WORDS[known]} in earlier documents")
                types[name] = both
        self.types = types
        return msgspec.json.encode(plain).decode()


def read_payload(text: str) -> dict[str, Any]:
    """Return the values of a passage, from their JSON in the table."""
    return msgspec.json.decode(text)


def _plain(name: str, value: object) -> object:
    """Return a value as JSON holds it: texts cleaned, dates as text, an empty text or list as null."""
    if isinstance(value, date):  # of YAML; a moment is one too
        return value.isoformat()
    if isinstance(value, str):
        return clean(value).strip() or None
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_plain(name, item) for item in items] or None
    return value


def _type_of(name: str, value: object) -> PayloadType:
    match value:
        case bool():
            return "bool"
        case int() if -(2**63) <= value < 2**63:
            return "whole"
        case float() if math.isfinite(value):
            return "number"
        case str():
            return "text"
        case list() if all(isinstance(item, str) for item in cast("list[object]", value)):
            return "texts"
        case _:
            raise ValueError(f"`{name}` is none of text, a number, a bool and a list of texts")
