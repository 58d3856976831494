"""What every format shares: how a dialect is described, decoded into its typed row, and how a row is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from expectations.formats.versions import WrongVersion, migrate
from expectations.text.cleaning import (
    LANGUAGES,
    clean,
    find_control_character,
    find_object_print,
    find_role_label,
    find_special_token,
    find_template_residue,
    language_of,
)
from expectations.text.traditional import Traditional, simplify

Kind = Literal["instruction", "preference", "qa", "retrieval_pair", "query", "qrels", "passage"]
Thinking = Literal["require", "allow_empty", "mask_empty", "strip"]


_encode = msgspec.json.Encoder().encode


class RowError(Exception):
    """A row that does not hold: code, JSON path, and a reason that a person understands."""

    def __init__(self, code: str, path: str, reason: str, *, question: str = "", answer: str = "") -> None:
        super().__init__(f"{code} {path}: {reason}")
        self.code = code
        self.path = path
        self.reason = reason
        self.question = question
        self.answer = answer


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a row stands: the file's name and the line, from 1; `plain` when its texts need no cleaning."""

    source: str
    line: int
    plain: bool = False
    folder: str = ""
    """The name of the folder the file is in, which tells something in FlagEmbedding's data."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader of a data set decides."""

    thinking: Thinking = "allow_empty"
    min_margin: float = 0.0
    traditional: Traditional = "keep"
    """Whether traditional Chinese becomes simplified, and how: see traditional.py."""


DEFAULT_POLICY = Policy()


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One question and answer of a dialogue."""

    question: str
    answer: str


_TYPE_CODES: dict[Kind, str] = {
    "instruction": "FT-INST-001", "preference": "FT-PREF-001", "qa": "FT-QA-001", "retrieval_pair": "FT-PAIR-001",
    "query": "FT-QRY-001", "qrels": "FT-QREL-001", "passage": "FT-PSG-001",
}  # fmt: skip

Parts = Callable[[Any], Iterator[tuple[str, Any]]]
"""A raw row that holds several records -> (JSON path, raw value) of each."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One way people write a format. A row belongs to the dialect whose `marks` (keys) it has most of."""

    name: str
    kind: Kind
    marks: tuple[str, ...]
    row: Any
    """The typed row: a msgspec Struct, or a list type for TSV."""
    convert: Callable[[Any, Any, Place, Policy], Any]
    """(typed row, raw value, place, policy) → record; raises RowError. A row of the quick lane has no raw value: every
    key of it is a field of the typed row."""
    tells: tuple[str, ...] = ()
    """Optional keys that tell it from a dialect with the same marks."""
    parts: Parts | None = None
    """For a row that holds several records: (JSON path, raw value) of each; raises RowError."""
    suits: Callable[[Any], bool] | None = None
    """Where keys, or having columns, do not tell: whether the values look like it."""
    canonical: bool = False
    """Whether it is the format's own form, whose rows may state their version."""

    @property
    def type_code(self) -> str:
        """The code of a field that is missing or of another type."""
        return _TYPE_CODES[self.kind]

    def fit(self, value: Any) -> tuple[float, int]:
        """How well a raw value fits: the share of the marks it has, 0 to 1, then how many of marks and tells."""
        if self.suits and not self.suits(value):
            return 0.0, 0
        if isinstance(value, list):
            return float(not self.marks), int(self.suits is not None)
        if not isinstance(value, dict) or not self.marks:
            return 0.0, 0
        marks = sum(mark in value for mark in self.marks)
        return marks / len(self.marks), marks + sum(tell in value for tell in self.tells)

    def decode(self, value: Any, place: Place, policy: Policy) -> Any:
        """The record that a raw value becomes; RowError with the JSON path when it becomes none."""
        if self.canonical and "format_version" in value:
            try:
                value = migrate(self.kind, value)
            except WrongVersion as error:
                raise RowError("FT-VERSION-001", "$.format_version", str(error)) from error
        return self.convert(self.type(value), value, place, policy)

    def type(self, value: Any) -> Any:
        """The typed row of a raw value; RowError where a field is missing or of another type."""
        try:
            return msgspec.convert(value, self.row, strict=True)
        except msgspec.ValidationError as error:
            path, reason = explain(str(error))
            raise RowError(self.type_code, path, reason) from error


class Extras(msgspec.Struct, kw_only=True, gc=False):
    """Optional keys that any instruction, preference or qa row may carry."""

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


def tidy(text: str | None, path: str, place: Place) -> str:
    """A text as it is trained on, without white space around it; RowError on control characters."""
    if not text:
        return ""
    if place.plain:
        return text.strip()
    cleaned = clean(text).strip()
    if control := find_control_character(cleaned):
        raise RowError("FT-TEXT-001", path, f"found the control character {control}")
    return cleaned


def tidy_all(texts: Iterable[str], path: str, place: Place) -> list[str]:
    """`tidy` of each text, without those that are empty then."""
    tidied = map(str.strip, texts) if place.plain else (tidy(text, path, place) for text in texts)
    return [text for text in tidied if text]


def refuse_special_tokens(code: str, place: Place, **texts: str) -> None:
    """RowError when a text, named by its field, holds a marker of a chat template."""
    if place.plain:
        return
    for field, text in texts.items():
        if token := find_special_token(text):
            raise RowError(code, f"$.{field}", f"found the special token {token}")


def refuse_label(path: str, text: str) -> None:
    """RowError when a cleaned text begins or ends with a speaker's label."""
    if label := find_role_label(text):
        raise RowError("FT-TEXT-002", path, f"found the label {label!r} of a prompt template")


def refuse_residue(place: Place, **texts: str) -> None:
    """RowError when a text, named by its field, holds a template's unfilled slot or label, or an object's print."""
    if place.plain:
        return
    for field, text in texts.items():
        if residue := find_template_residue(text):
            raise RowError("FT-TEXT-002", f"$.{field}", f"found the template residue {residue[:60]!r}")
        if printed := find_object_print(text):
            raise RowError("FT-TEXT-003", f"$.{field}", f"found the print of an object, {printed[:60]!r}")


def simplified(text: str, policy: Policy) -> str:
    """A text with traditional Chinese as the policy wants it."""
    return simplify(text, policy.traditional)


def refuse_empty(code: str, path: str, text: str) -> None:
    """RowError when a cleaned text has nothing to read in it."""
    if not text:
        raise RowError(code, path, "found an empty text")


def content_id(*parts: str | list[str]) -> str:
    """An id made of the content alone, so that a row keeps it wherever it is moved (16 hex digits)."""
    return blake2b(_encode(parts), digest_size=8).hexdigest()


def choose_language(given: str | None, text: str) -> str:
    """The language of a text, by script. RowError when the row names another one (`zh-CN` is `zh`)."""
    found = language_of(text)
    if not given:
        return found
    stated = given.split("-")[0].lower()
    if stated not in LANGUAGES or stated == found:
        return found
    if _speaks_for_another(stated, found, text):
        raise RowError("FT-TEXT-004", "$.language", f"the row says `{stated}`, its text is `{found}`")
    return stated


def _speaks_for_another(stated: str, found: str, text: str) -> bool:
    """Whether a text is too long for its script to be chance: `SM2` says nothing, and Japanese may be all kanji."""
    if "other" in (stated, found) or (stated, found) == ("ja", "zh"):
        return False
    return len(text) >= _TELLING_CHARS[found]


_TELLING_CHARS = {"zh": 8, "ja": 8, "en": 40}


def stated_id(given: str | int | None, place: Place, path: str = "$.id") -> str:
    """The id the row states, as text; empty when it states none."""
    return "" if given is None else tidy(str(given), path, place)
