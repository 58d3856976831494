"""The steps by which every format builds a record from a row: clean the texts, refuse what no record may hold, name it.

In a plain row (see `Place`) cleaning would change nothing, so the searches are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TypeVar, cast

import msgspec

from expectations.formats.dialect import Place, ReadPolicy, RowError, Turn
from expectations.text.cleaning import (
    LANGUAGES,
    LONGEST_NULL,
    NULLS,
    clean,
    find_bidi_control,
    find_control_character,
    find_media_placeholder,
    find_mojibake,
    find_object_print,
    find_role_label,
    find_special_token,
    find_template_residue,
    is_invisible,
    language_of,
)
from expectations.text.traditional import simplify

_encode = msgspec.json.Encoder().encode
_Texts = TypeVar("_Texts", str, list[str], list[Turn])
PathText = tuple[str, str]
"""(JSON path, cleaned text)"""


def tidy(text: str | None, path: str, place: Place) -> str:
    """Return a text as it is trained on, without white space around it; empty if nothing of it can be seen.

    RowError on what no text may hold: control characters, characters that were lost or read wrongly, a printed null.
    """
    if not text:
        return ""
    tidied = text.strip() if place.plain else _tidy_searched(text, path, place)
    if tidied in NULLS and path not in _NAMES:
        refuse("FT-TEXT-005", path, f"the whole text is {tidied!r}, the print of a missing value", place)
    return tidied


def refuse(code: str, path: str, reason: str, place: Place | None) -> None:
    """Refuse a text that breaks a rule (RowError `code`); where the policy allows the rule, note it instead."""
    notes = place and place.notes
    if not notes or code not in notes.allow:
        raise RowError(code, path, reason)
    notes.allowed.add(code)


# Texts that were found, not written for training: pages of the web have a word of mojibake here and there (2 of the 10
# rows of MS MARCO in FlagEmbedding's examples), and no model learns to write them.
_FOUND_TEXT = re.compile(r"\]$|^\$\.(?:context|text|content|passage|document|reference|pos|neg|retriev)\w*$")
_NAMES = frozenset({"$.group", "$.difficulty", "$.type"})
"""Fields that are names, not texts."""


def _tidy_searched(text: str, path: str, place: Place | None = None) -> str:
    cleaned = clean(text).strip()
    if not cleaned.isascii():
        if is_invisible(cleaned):
            return ""
        _refuse_wrong_characters(cleaned, path, place)
    if control := find_control_character(cleaned):
        raise RowError("FT-TEXT-001", path, f"found the control character {control}")
    return cleaned


def _refuse_wrong_characters(text: str, path: str, place: Place | None) -> None:
    """Refuse a text with characters that were lost, read wrongly, or turn the direction of writing (RowError)."""
    if "\ufffd" in text:
        around = text[max(0, text.index("\ufffd") - 10) :][:20]
        reason = f"found the replacement character U+FFFD {text.count(chr(0xFFFD))} times, first in {around!r}"
        raise RowError("FT-TEXT-006", path, reason)
    if bidi := find_bidi_control(text):
        refuse("FT-TEXT-008", path, f"found the invisible control {bidi} of the writing direction", place)
    if not _FOUND_TEXT.search(path) and (mojibake := find_mojibake(text)):
        word, meant = mojibake
        reason = f"found {word!r}, which is {meant!r} read in the wrong encoding (mojibake)"
        refuse("FT-TEXT-007", path, reason, place)


def find_wrong_characters(text: str) -> tuple[str, str] | None:
    """Return (code, reason) of the first character that a found text may not hold (FT-TEXT-001, 006, 008), or None."""
    try:
        _tidy_searched(text, "$.text")
    except RowError as error:
        return error.code, error.reason
    return None


def tidy_all(texts: Iterable[str], path: str, place: Place) -> list[str]:
    """Return `tidy` of each text, without those that are empty then."""
    if place.plain:
        texts = [*map(str.strip, texts)]
        if not texts or min(map(len, texts)) > LONGEST_NULL:
            return texts
    tidied = [tidy(text, path, place) for text in texts]
    return [text for text in tidied if text]


def tidy_each(texts: Sequence[str], paths: Sequence[str], place: Place) -> list[str]:
    """Return `tidy` of each text, named by the path of the same number."""
    if place.plain and min(map(len, tidied := [*map(str.strip, texts)])) > LONGEST_NULL:
        return tidied
    return [tidy(text, path, place) for text, path in zip(texts, paths, strict=True)]


def tidy_turns(turns: Sequence[Turn], paths: Sequence[tuple[str, str]], place: Place) -> list[Turn]:
    """Return earlier turns with `tidy` of their texts, named by the paths of the same number."""
    return [
        Turn(tidy(turn.question, asked_at, place), tidy(turn.answer, answered_at, place))
        for turn, (asked_at, answered_at) in zip(turns, paths, strict=True)
    ]


def tidy_required(code: str, text: str, path: str, place: Place) -> str:
    """Return `tidy` of a text; RowError (`code`) when it is empty then."""
    tidied = tidy(text, path, place)
    refuse_empty(code, path, tidied)
    return tidied


def refuse_empty(code: str, path: str, text: str) -> None:
    """Refuse a cleaned text with nothing to read in it (RowError)."""
    if not text or (not text[0].isalnum() and is_invisible(text)):
        raise RowError(code, path, "found an empty text")


def refuse_label(path: str, text: str, place: Place | None = None) -> None:
    """Refuse a cleaned text that begins or ends with a speaker's label (RowError FT-TEXT-002)."""
    if label := find_role_label(text):
        refuse("FT-TEXT-002", path, f"found the label {label!r} of a prompt template", place)


def refuse_special_tokens(code: str, texts: Iterable[PathText]) -> None:
    """Refuse the first text that holds a special token of a chat template (RowError `code`)."""
    for path, text in texts:
        if token := find_special_token(text):
            raise RowError(code, path, f"found the special token {token}")


def refuse_residue(texts: Sequence[PathText], place: Place | None = None, *, may_repeat: bool = True) -> None:
    """Refuse the first text with a template's slot or label, an object's print, a file's placeholder (RowError).

    The first text is the question. Residue that counts only if other rows repeat it is noted in the place, if it
    `may_repeat` at all.
    """
    question = texts[0][1] if texts else ""
    for n, (path, text) in enumerate(texts):
        residue, repeating = find_template_residue(text, question if n else "")
        if residue:
            refuse("FT-TEXT-002", path, f"found the template residue {residue[:60]!r}", place)
        if repeating and may_repeat and place is not None and place.residues is not None:
            place.residues.note(path, repeating)
        if printed := find_object_print(text):
            refuse("FT-TEXT-003", path, f"found the print of an object, {printed[:60]!r}", place)
    refuse_media(texts, place)


def numbered(path: str, texts: Sequence[str]) -> list[PathText]:
    """Return each text of a list with the path of its place in the list."""
    return [(f"{path}[{n}]", text) for n, text in enumerate(texts)]


def paths_of(path: str, texts: Sequence[str]) -> list[PathText]:
    """Return each text with its JSON path; `path` ends with `[]` where the texts are the items of a list there."""
    return numbered(path[:-2], texts) if path.endswith("[]") else [(path, text) for text in texts]


def paths_of_turns(turns: Sequence[Turn], paths: Sequence[tuple[str, str]]) -> list[PathText]:
    """Return the question and the answer of each earlier turn with their JSON paths."""
    texts: list[PathText] = []
    for turn, (asked_at, answered_at) in zip(turns, paths, strict=True):
        texts += [(asked_at, turn.question), (answered_at, turn.answer)]
    return texts


def refuse_media(texts: Iterable[PathText], place: Place | None = None) -> None:
    """Refuse the first text with the placeholder of an image, a sound or a video (RowError FT-TEXT-009)."""
    for path, text in texts:
        if placeholder := find_media_placeholder(text):
            refuse("FT-TEXT-009", path, f"found the placeholder {placeholder} of a file that is not read here", place)


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
    if given is None:
        return ""
    return str(given).strip() if place.plain else _tidy_searched(str(given), path, place)


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
