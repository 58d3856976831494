"""The steps by which every format builds a record from a row: clean the texts, refuse what no record may hold, name it.

In a plain row (see `Place`) cleaning would change nothing, so the searches are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TypeVar, cast

import msgspec

from expectations.formats.dialect import Place, ReadPolicy, RowError, Turn
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
from expectations.text.traditional import simplify

_encode = msgspec.json.Encoder().encode
_Texts = TypeVar("_Texts", str, list[str], list[Turn])
PathText = tuple[str, str]
"""(JSON path, cleaned text)"""


def tidy(text: str | None, path: str, place: Place) -> str:
    """Return a text as it is trained on, without white space around it; RowError on control characters."""
    if not text:
        return ""
    if place.plain:
        return text.strip()
    cleaned = clean(text).strip()
    if control := find_control_character(cleaned):
        raise RowError("FT-TEXT-001", path, f"found the control character {control}")
    return cleaned


def tidy_all(texts: Iterable[str], path: str, place: Place) -> list[str]:
    """Return `tidy` of each text, without those that are empty then."""
    tidied = map(str.strip, texts) if place.plain else (tidy(text, path, place) for text in texts)
    return [text for text in tidied if text]


def tidy_each(texts: Sequence[str], paths: Sequence[str], place: Place) -> list[str]:
    """Return `tidy` of each text, named by the path of the same number."""
    if place.plain:
        return [*map(str.strip, texts)]
    return [tidy(text, path, place) for text, path in zip(texts, paths, strict=True)]


def tidy_turns(turns: Sequence[Turn], path: str, place: Place) -> list[Turn]:
    """Return earlier turns with `tidy` of their texts."""
    return [Turn(tidy(turn.question, path, place), tidy(turn.answer, path, place)) for turn in turns]


def tidy_required(code: str, text: str, path: str, place: Place) -> str:
    """Return `tidy` of a text; RowError (`code`) when it is empty then."""
    tidied = tidy(text, path, place)
    refuse_empty(code, path, tidied)
    return tidied


def refuse_empty(code: str, path: str, text: str) -> None:
    """Refuse a cleaned text with nothing to read in it (RowError)."""
    if not text:
        raise RowError(code, path, "found an empty text")


def refuse_label(path: str, text: str) -> None:
    """Refuse a cleaned text that begins or ends with a speaker's label (RowError FT-TEXT-002)."""
    if label := find_role_label(text):
        raise RowError("FT-TEXT-002", path, f"found the label {label!r} of a prompt template")


def refuse_special_tokens(code: str, texts: Iterable[PathText]) -> None:
    """Refuse the first text that holds a special token of a chat template (RowError `code`)."""
    for path, text in texts:
        if token := find_special_token(text):
            raise RowError(code, path, f"found the special token {token}")


def refuse_residue(texts: Iterable[PathText]) -> None:
    """Refuse the first text that holds a template's unfilled slot or label, or an object's print (RowError)."""
    for path, text in texts:
        if residue := find_template_residue(text):
            raise RowError("FT-TEXT-002", path, f"found the template residue {residue[:60]!r}")
        if printed := find_object_print(text):
            raise RowError("FT-TEXT-003", path, f"found the print of an object, {printed[:60]!r}")


def numbered(path: str, texts: Sequence[str]) -> list[PathText]:
    """Return each text of a list with the path of its place in the list."""
    return [(f"{path}[{n}]", text) for n, text in enumerate(texts)]


def texts_around(context: Sequence[str], system: str, history: Sequence[Turn]) -> list[PathText]:
    """Return what is given along with a question, one text for each field."""
    past = "\n".join(f"{turn.question}\n{turn.answer}" for turn in history)
    return [("$.context", "\n".join(context)), ("$.system", system), ("$.history", past)]


def simplified(texts: _Texts, policy: ReadPolicy) -> _Texts:
    """Return a text, or a list of texts or turns, with traditional Chinese converted as the policy requires."""
    if policy.traditional == "keep":
        return texts
    how = policy.traditional
    if isinstance(texts, str):
        return simplify(texts, how)
    parts = [
        Turn(simplify(part.question, how), simplify(part.answer, how))
        if isinstance(part, Turn)
        else simplify(part, how)
        for part in texts
    ]
    return cast("_Texts", parts)


def history_json(history: Sequence[Turn]) -> list[str]:
    """Return the history as one part of a content id: none without turns, so that older ids stay as they are."""
    return [_encode(history).decode()] if history else []


def content_id(*parts: str | list[str]) -> str:
    """Return an id made of the content alone, so that a row keeps it wherever it is moved (16 hex digits)."""
    return blake2b(_encode(parts), digest_size=8).hexdigest()


def stated_id(given: str | int | None, place: Place, path: str = "$.id") -> str:
    """Return the id that the row states, as text; empty when it states none."""
    return "" if given is None else tidy(str(given), path, place)


def choose_language(stated: str | None, text: str) -> str:
    """Return the language of a text, by its script. RowError when the row names another one (`zh-CN` is `zh`)."""
    detected = language_of(text)
    if not stated:
        return detected
    named = stated.split("-")[0].lower()
    if named not in LANGUAGES or named == detected:
        return detected
    if _contradicts(named, detected, text):
        raise RowError("FT-TEXT-004", "$.language", f"the row names `{named}`, its text is `{detected}`")
    return named


def _contradicts(named: str, detected: str, text: str) -> bool:
    """True if a text is too long for its script to be chance: `SM2` may be any language, Japanese may be all kanji."""
    if "other" in (named, detected) or (named, detected) == ("ja", "zh"):
        return False
    return len(text) >= _SURE_CHARS[detected]


_SURE_CHARS = {"zh": 8, "ja": 8, "en": 40}
