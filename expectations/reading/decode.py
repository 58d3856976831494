"""Decode one row's JSON strictly: no duplicate key, no NaN, no lone surrogate, no endless depth.

No parser refuses all of that, and the one with hooks for it is slow. So msgspec reads the row, and the
number of keys in its result is compared with the number of keys in the text. Where they differ, or msgspec refuses,
the standard library's parser reads the row again with its hooks and gives the reason.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, NoReturn, cast

import msgspec

from expectations.reading.lane import Lane
from expectations.reading.rows import RawRow, Rejected, Source, Unreadable, escape, escape_bytes

MAX_DEPTH = 64

_FAST = msgspec.json.Decoder()
_DEPTH_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]', re.DOTALL)
_SPACED_COLON = re.compile(rb"\s:")
_HIDING_ESCAPE = re.compile(rb"\\[ubfr]")
_LESS, _EQUALS, _DELETE, _BACKSLASH, _HASH, _I, _B, _OPENING = b"<=\x7f\\#IB("
_LATIN_1 = 0xC2  # begins U+0080 to U+00BF: control characters, the no-break space
# U+F000 to U+FFFF, the full-width forms among them, but for Chinese punctuation: that stays as it is
_WIDE = re.compile(b"\xef(?!" + b"|".join(sign.encode()[1:] for sign in "，？：；！（）～") + b")")

# The usual Chinese characters: NFC and folding change none of these, so one search replaces three
_USUAL = re.compile("[\x00-\x7f\u2010-\u2027\u3001-\u301f\u3400-\u4dbf\u4e00-\u9fff，？：；！（）～]*")


def decode_row(
    source: Source, line: int, offset: int, data: bytes, *, whole: bool = True, lane: Lane | None = None
) -> RawRow | Rejected:
    """Return the row of one JSON text. `whole`: a line end followed, so that the end of the file did not cut it."""
    if lane and lane.decoder and (row := _decode_quickly(lane, lane.decoder, line, offset, data)):
        return row
    try:
        text = decode_utf8(data)
        value, plain = decode_json(text, data, whole=whole)
        return RawRow(line, offset, value, data, plain)
    except Unreadable as error:
        return source.reject(error.code, line, offset, error.reason, raw=escape_bytes(data))


def _decode_quickly(
    lane: Lane, decoder: msgspec.json.Decoder[Any], line: int, offset: int, data: bytes
) -> RawRow | None:
    """Return the row if it has the shape of its file; None where the general way must decide."""
    try:
        text = data.decode("utf-8")
        typed = decoder.decode(data)
    except (ValueError, RecursionError):
        return None
    # As many colons as keys: no key is there twice. Texts may hold more colons; a key ends with a quote.
    if text.count(":") != lane.keys and (text.count('":') != lane.keys or _SPACED_COLON.search(data)):
        return None
    return RawRow(line, offset, None, data, _is_plain(text, data, lane.objects), typed)


def decode_utf8(data: bytes) -> str:
    """Decode strict UTF-8; Unreadable names the encoding that it may be instead."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} of the row (0x{data[error.start]:02x}) is not UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in data[:4]:
            reason += "; the file looks like UTF-16"
        elif _decodes_as_gb18030(data):
            reason += "; the row reads as GB18030"
        raise Unreadable("FT-ROW-001", reason) from error


def _is_plain(text: str, data: bytes, objects: int) -> bool:  # noqa: PLR0911 - a list of reasons
    """Return whether no text of a row can hold anything that cleaning changes or a rule refuses.

    The search is for single bytes (as numbers: `b"<" in data` takes ten times as long). So a row with a tag, a formula
    or a call is not plain, although it may be clean: its fields are then searched one by one.
    """
    if _LESS in data or _EQUALS in data or _DELETE in data or _LATIN_1 in data:
        return False
    if text.count("{") != objects:
        return False
    if _BACKSLASH in data and _HIDING_ESCAPE.search(data):
        return False
    if _HASH in data and "###" in text:
        return False
    if _I in data and "INST]" in text:
        return False
    if _B in data and "Below is an" in text:
        return False
    if _OPENING in data and text.count("(") != text.count(" ("):
        return False
    if data.isascii() or _USUAL.fullmatch(text):
        return True
    return not _WIDE.search(data) and "\u3000" not in text and unicodedata.is_normalized("NFC", text)


def _decodes_as_gb18030(data: bytes) -> bool:
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return True


def decode_json(text: str, data: bytes, *, whole: bool) -> tuple[Any, bool]:
    """Return (value, whether the row is plain: see `RawRow`); Unreadable with the reason."""
    opened = data.count(b"{")
    if opened + data.count(b"[") > MAX_DEPTH:
        _refuse_depth(text)
    try:
        value = _FAST.decode(data)
    except (ValueError, RecursionError):  # msgspec's own error is a ValueError
        return _decode_slowly(text, whole=whole), False
    keys, objects = _shape(value)
    # Every key is followed by `":`, and a text may be: equal counts mean that no key is there twice. A key with white
    # space before its colon is not counted so; then every colon must follow a quote directly.
    shown = data.count(b'":')
    if shown != keys or (data.count(b":") != shown and _SPACED_COLON.search(data)):
        value = _decode_slowly(text, whole=whole)
    return value, _is_plain(text, data, objects)


def _shape(value: Any) -> tuple[int, int]:
    """Return the numbers of (keys, objects) in a value, at any depth."""
    keys = objects = 0
    waiting: list[Any] = [value]
    while waiting:
        outer = waiting.pop()
        inside: Iterable[Any] = outer
        if type(outer) is dict:
            fields = cast("dict[str, Any]", outer)
            objects += 1
            keys += len(fields)
            inside = fields.values()
        elif type(outer) is not list:
            continue
        for inner in inside:
            if type(inner) is dict or type(inner) is list:
                waiting.append(inner)
    return keys, objects


def _decode_slowly(text: str, *, whole: bool) -> Any:
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        if at_end and not whole:
            raise Unreadable("FT-ROW-007", "the file ends inside this row") from error
        raise Unreadable("FT-ROW-002", f"{error.msg} at character {error.pos + 1}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable("FT-ROW-002", str(error).partition(";")[0]) from error
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in _DEPTH_TOKENS.finditer(text):
        if token.group(1):
            depth += 1
        elif token.group() in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise Unreadable("FT-ROW-005", f"nested more than {MAX_DEPTH} deep")


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(error.object[error.start]):04x}"
        raise Unreadable("FT-ROW-009", f"{surrogate} is there without its other half") from error


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise Unreadable("FT-ROW-003", f"the key `{escape(twin)}` appears {keys.count(twin)} times in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable("FT-ROW-004", f"found {name}")


def _read_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Unreadable("FT-ROW-004", f"{digits[:20]} is too large for a number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant, parse_float=_read_float)
