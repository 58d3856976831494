"""Say in words why a text is not JSON, and what to do: the parser's own message names only a place."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from expectations.reading.rows import escape

_SHOWN = 24
_COMMENT = re.compile(r"\s*(?://|#|/\*|--|<!--)")
_PYTHON = re.compile(r"(?:None|True|False|undefined)\b")
_WORD = re.compile(r"[A-Za-z_$]\w*")
_KEY = re.compile(r'\s*"(?:[^"\\]|\\.)*"\s*:')
_PIECE = re.compile(r"\s*[}\]][}\],\s]*$")
NOT_LINES = "FT-ROW-016"
COMMA = "FT-ROW-017"
NOT_JSON = "FT-ROW-018"
OTHER = "FT-ROW-002"


class Hint(NamedTuple):
    """A rule code, and a reason with what to do."""

    code: str
    reason: str


def explain_json(text: str, error: json.JSONDecodeError) -> Hint:
    """Return why a text is not JSON. `error` is the parser's."""
    at = error.pos
    rest = text[at:].lstrip()
    before = text[:at].rstrip()
    if text.startswith("\ufeff") or rest.startswith("\ufeff"):
        reason = "a byte order mark (BOM, U+FEFF) is inside the file: files were joined with `cat`, each with its own"
        return Hint("FT-ROW-015", reason)
    if _COMMENT.match(rest) and not _is_in_string(text, at):
        return Hint(NOT_JSON, f"JSON has no comments, found {_show(rest)}: delete the comment")
    for explain in (_explain_commas, _explain_lines, _explain_python, _explain_texts):
        if hint := explain(text, error, before, rest):
            return hint
    return Hint(
        OTHER, f"{error.msg} at character {at + 1}, before {_show(rest)}" if rest else f"{error.msg} at the end"
    )


def _explain_commas(text: str, error: json.JSONDecodeError, before: str, rest: str) -> Hint | None:
    """Explain a comma that is too much, or is missing."""
    if error.msg == "Extra data" and rest.rstrip() == ",":
        return Hint(
            COMMA, "a comma follows the object: rows of JSONL have only a line end between them, delete the comma"
        )
    if before.endswith(",") and rest[:1] in ("}", "]"):
        return Hint(COMMA, f"a comma is before `{rest[0]}` at character {error.pos + 1}: delete this trailing comma")
    if error.msg.startswith("Expecting ',' delimiter") and rest[:1] in ('"', "{", "["):
        return Hint(OTHER, f"a comma is missing before {_show(rest)}, at character {error.pos + 1}")
    return None


def _explain_lines(text: str, error: json.JSONDecodeError, before: str, rest: str) -> Hint | None:
    """Explain rows that are not one to a line: objects over several lines, or several on one; a text that is cut."""
    if error.msg == "Extra data":
        return _explain_rest(text, before, rest)
    if error.msg.startswith("Unterminated string"):
        reason = (
            "the line ends inside a text: a line break within a text is written `\\n`, or a quotation mark is missing"
        )
        return Hint(NOT_LINES, reason)
    if error.msg.startswith("Invalid control character") and text[error.pos] in "\r\n":
        return Hint(NOT_LINES, f"a raw line break is in the text that ends with {_show(before[-_SHOWN:])}: write `\\n`")
    if (not rest and "\n" not in text) or _PIECE.fullmatch(text):
        reason = (
            "the line is a part of an object that is written over several lines (pretty-printed), or lacks a bracket"
        )
        return Hint(NOT_LINES, reason + ": one row a line, `jq -c . FILE > NEW.jsonl`")
    return None


def _explain_rest(text: str, before: str, rest: str) -> Hint:
    """Explain what follows a whole value."""
    after = rest.removeprefix(",").lstrip()
    if before[:1] in ("{", "[") and after[:1] in ("{", "["):
        if "\n" in text:
            line = text.count("\n", 0, len(text) - len(rest)) + 1
            reason = f"objects are written over several lines (pretty-printed), the second begins at line {line}"
            return Hint(NOT_LINES, reason + ": write one row a line, `jq -c . FILE > NEW.jsonl`")
        reason = f"two objects stand on one line, the second begins at {_show(rest)}: begin a new line there"
        return Hint(NOT_LINES, reason)
    if _KEY.match(text):
        reason = "the line is a part of an object that is written over several lines (pretty-printed): one row a line"
        return Hint(NOT_LINES, reason + ", `jq -c . FILE > NEW.jsonl`")
    if before[:1] in ("{", "["):
        return Hint(OTHER, f"text follows the row: {_show(rest)}")
    return _explain_strange(text)


def _explain_strange(text: str) -> Hint:
    reason = f"the line begins with no object, found {_show(text)}: it is no JSON, or it belongs to the line before"
    return Hint(OTHER, reason + ", whose text has a raw line break (write `\\n`)")


def _explain_python(_text: str, error: json.JSONDecodeError, _before: str, rest: str) -> Hint | None:
    """Explain what Python and JavaScript write and JSON does not know."""
    if rest.startswith("'"):
        reason = f"single quotes at character {error.pos + 1}: this is Python's print of a dict, JSON has double quotes"
        return Hint(NOT_JSON, reason + "; write it with `json.dumps(row, ensure_ascii=False)`")
    if word := _PYTHON.match(rest):
        meant = {"None": "null", "True": "true", "False": "false", "undefined": "null"}[word.group()]
        return Hint(NOT_JSON, f"`{word.group()}` is no JSON, there it is `{meant}`; write rows with `json.dumps`")
    if error.msg.startswith("Expecting property name") and (word := _WORD.match(rest)):
        return Hint(NOT_JSON, f"the key `{escape(word.group()[:_SHOWN])}` is without double quotes")
    return None


def _explain_texts(text: str, error: json.JSONDecodeError, before: str, rest: str) -> Hint | None:
    """Explain a text with a wrong escape, a raw control character, or a quotation mark in it."""
    if error.msg.startswith("Invalid \\escape") or error.msg.startswith("Invalid \\uXXXX"):
        at = text.find("\\", max(0, error.pos - 2))
        shown = escape(text[at : at + 2]) if at >= 0 else "\\"
        reason = (
            f"`{shown}` is no escape of JSON, near {_show(text[max(0, at - 8) : at + 12])}: write a backslash twice"
        )
        return Hint(OTHER, reason + " (`C:\\\\Users`, `\\\\frac`), best with `json.dumps`")
    if error.msg.startswith("Invalid control character"):
        shown = ascii(text[error.pos])[1:-1]
        return Hint(OTHER, f"a raw control character {shown} stands in a text, at character {error.pos + 1}: escape it")
    if error.msg.startswith("Expecting ',' delimiter") and before.endswith('"') and rest[:1].isalnum():
        return Hint(OTHER, f'a text is closed before {_show(rest)}: a quotation mark within a text is written `\\"`')
    if error.msg == "Expecting value" and error.pos == 0 and text[:1] not in "{[":
        return _explain_strange(text)
    return None


def _is_in_string(text: str, at: int) -> bool:
    """Return whether a place is inside a text: an odd number of quotation marks is before it."""
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', text[:at])) % 2 == 1


def _show(text: str) -> str:
    """Return the start of a text, escaped, in quotation marks."""
    return f"`{escape(text[:_SHOWN])}`"
