"""What every format shares: how a dialect is described, decoded into its typed row, and how a row is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from expectations.text import LANGUAGES, clean, find_control_character, find_special_token, language_of

Kind = Literal["instruction", "preference", "query", "qrels", "passage"]
Thinking = Literal["require", "allow_empty", "mask_empty", "strip"]


class RowError(Exception):
    """A row that does not hold: code, JSON path, and a reason that a person understands."""

    def __init__(self, code: str, path: str, reason: str, *, question: str = "", answer: str = "") -> None:
        super().__init__(f"{code} {path}: {reason}")
        self.code = code
        self.path = path
        self.reason = reason
        self.question = question
        self.answer = answer


class Place(msgspec.Struct, frozen=True):
    """Where a row stands: the file's name and the line, from 1."""

    source: str
    line: int


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of a data set decides."""

    thinking: Thinking = "allow_empty"
    min_margin: float = 0.0


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One way people write a format. A row belongs to the dialect whose `marks` (keys) it has most of."""

    name: str
    kind: Kind
    marks: tuple[str, ...]
    row: Any
    """The typed row: a msgspec Struct, or a list type for TSV."""
    convert: Callable[[Any, Any, Place, Policy], Any]
    """(typed row, raw value, place, policy) → record; raises RowError."""
    type_code: str
    """The code of a field that is missing or of another type."""
    tells: tuple[str, ...] = ()
    """Optional keys that tell it from a dialect with the same marks."""

    def fit(self, value: Any) -> tuple[float, int]:
        """How well a raw value fits: the share of the marks it has, 0 to 1, then how many of the tells."""
        if isinstance(value, list):
            return float(not self.marks), 0
        if not isinstance(value, dict) or not self.marks:
            return 0.0, 0
        return sum(mark in value for mark in self.marks) / len(self.marks), sum(tell in value for tell in self.tells)

    def decode(self, value: Any, place: Place, policy: Policy) -> Any:
        """The record that a raw value becomes; RowError with the JSON path when it becomes none."""
        try:
            typed = msgspec.convert(value, self.row, strict=True)
        except msgspec.ValidationError as error:
            path, reason = explain(str(error))
            raise RowError(self.type_code, path, reason) from error
        return self.convert(typed, value, place, policy)


class Extras(msgspec.Struct, kw_only=True):
    """Optional keys that any instruction or preference row may carry."""

    id: str | int | None = None
    evidence: list[str] | None = None
    group: str | None = None
    language: str | None = None


_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`(?: - at `(?P<path>[^`]*)`)?$")
_TYPE = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<found>[^`]*)`(?: - at `(?P<path>[^`]*)`)?$")
_AT = re.compile(r" - at `(?P<path>[^`]*)`$")


def explain(message: str) -> tuple[str, str]:
    """A msgspec message as (JSON path, reason): ("$.chosen.text", "found null, expected text")."""
    if missing := _MISSING.match(message):
        return f"{missing['path'] or '$'}.{missing['field']}", f"the field `{missing['field']}` is missing"
    if wrong := _TYPE.match(message):
        expected = " or ".join(_WORDS.get(part.strip(), part.strip()) for part in wrong["expected"].split("|"))
        return wrong["path"] or "$", f"found {_WORDS.get(wrong['found'], wrong['found'])}, expected {expected}"
    at = _AT.search(message)
    reason = _AT.sub("", message)
    return (at["path"] if at else "$"), reason[:1].lower() + reason[1:]


def tidy(text: str | None, path: str) -> str:
    """A text as it is trained on, without white space around it; RowError on control characters."""
    cleaned = clean(text or "").strip()
    if control := find_control_character(cleaned):
        raise RowError("FT-TEXT-001", path, f"found the control character {control}")
    return cleaned


def refuse_special_tokens(code: str, **texts: str) -> None:
    """RowError when a text, named by its field, holds a marker of a chat template."""
    for field, text in texts.items():
        if token := find_special_token(text):
            raise RowError(code, f"$.{field}", f"found the special token {token}")


def refuse_empty(code: str, path: str, text: str) -> None:
    """RowError when a cleaned text has nothing to read in it."""
    if not text:
        raise RowError(code, path, "found an empty text")


def content_id(*parts: str | list[str]) -> str:
    """An id made of the content alone, so that a row keeps it wherever it is moved (16 hex digits)."""
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


def choose_language(given: str | None, text: str) -> str:
    """The language the row names, if it is one we know (`zh-CN` is `zh`); else the text's, by script."""
    short = (given or "").split("-")[0].lower()
    return short if short in LANGUAGES else language_of(text)


def stated_id(given: str | int | None, path: str = "$.id") -> str:
    """The id the row states, as text; empty when it states none."""
    return "" if given is None else tidy(str(given), path)
