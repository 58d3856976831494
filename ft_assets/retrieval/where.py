"""Conditions on payload fields as people write them: `tenant=a`, `year>=2020`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from expectations.text.cleaning import clean
from expectations.violations import Refused, violation
from resources.engines.protocol import RANGES, Condition, OpenJson, PayloadType

FIELDS = "payload"
"""Key of a collection's metadata: payload field -> its type."""
_CONDITION = re.compile(r"\s*(?P<field>[\w-]+)\s*(?P<sign>>=|<=|=|>|<)\s*(?P<value>.*?)\s*", re.DOTALL)
_BOOLS = {"true": True, "false": False}


def payload_fields(metadata: OpenJson) -> dict[str, PayloadType]:
    """Return the payload fields of a collection and their types, from its metadata."""
    return dict(metadata.get(FIELDS) or {})


def read_conditions(texts: Sequence[str], fields: Mapping[str, PayloadType], where: str) -> list[Condition]:
    """Return the conditions on a collection (`where`) with these fields. Raises Refused (FT-RET-009) with all faults.

    A condition that no point can meet for its form alone finds nothing, and a misspelt field would look like that.
    """
    conditions: list[Condition] = []
    faults: list[tuple[str, str]] = []
    for text in texts:
        try:
            conditions.append(_read(text, fields))
        except ValueError as error:
            faults.append((text, str(error)))
    if faults:
        known = ", ".join(f"{name} ({kind})" for name, kind in fields.items()) or "nothing: corpus.payload is empty"
        violations = [
            violation("FT-RET-009", where=where, message=reason, field="where", found=text, expected=known)
            for text, reason in faults
        ]
        raise Refused(f"searching {where}", violations)
    return conditions


def _read(text: str, fields: Mapping[str, PayloadType]) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is no condition: write FIELD=VALUE, or FIELD>=NUMBER")
    field, sign, value = match["field"], match["sign"], match["value"]
    kind = fields.get(field)
    if kind is None:
        raise ValueError(f"the collection has no payload field `{field}`")
    if sign in RANGES and kind not in {"whole", "number"}:
        raise ValueError(f"`{field}` is no number: only `=` compares it")
    if kind == "bool":
        if value not in _BOOLS:
            raise ValueError(f"`{field}` is true or false, not `{value}`")
        return Condition(field, sign, _BOOLS[value])
    if kind in {"text", "texts"}:
        return Condition(field, sign, clean(value))
    return Condition(field, sign, _number(field, value, whole=kind == "whole" and sign == "="))


def _number(field: str, text: str, *, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{field}` is a {'whole ' if whole else ''}number, `{text}` is none")
    return number
