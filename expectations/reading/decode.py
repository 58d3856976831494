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

from expectations.reading.encodings import Encoding, is_damaged_utf8, name_encoding, not_utf8_lines
from expectations.reading.hints import explain_json
from expectations.reading.lane import Lane
from expectations.reading.rows import RawRow, Rejected, Source, Unreadable, escape, escape_bytes, show_name
from expectations.reading.streams import CHUNK, open_stream, packing_of

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
# What a rule refuses beyond that: characters that show nothing, and UTF-8 that was read as CP1252 (see cleaning.py)
_HIDDEN = re.compile(
    "[\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\U000e0000-\U000e0fff]"
    "|[\u00c2-\u00c5\u00ce-\u00d1\u00e0-\u00f0][^\x00-\x7f]"
)


def decode_row(
    source: Source, line: int, offset: int, data: bytes, *, whole: bool = True, lane: Lane | None = None
) -> RawRow | Rejected:
    """Return the row of one JSON text. `whole`: a line end followed, so that the end of the file did not cut it."""
    if lane and lane.decoder and (row := _decode_quickly(lane, lane.decoder, line, offset, data)):
        return row
    try:
        text = decode_utf8(data, source)
        value, plain = decode_json(text, data, whole=whole)
        return RawRow(line, offset, value, data, plain)
    except Unreadable as error:
        return source.reject(error.code, line, offset, error.reason, raw=escape_bytes(data))


def _decode_quickly(
    lane: Lane, decoder: msgspec.json.Decoder[Any], line: int, offset: int, data: bytes
) -> RawRow | None:
    """Return the row if it has the shape of its file; None where the general way must decide."""
    try:
        typed = decoder.decode(data)  # refuses what is not UTF-8 as well
    except (ValueError, RecursionError):
        return None
    # As many colons as keys: no key is there twice. Texts may hold more colons; a key ends with a quote.
    if _count(data, b":") != lane.keys and (data.count(b'":') != lane.keys or _SPACED_COLON.search(data)):
        return None
    return RawRow(line, offset, None, data, _is_plain(data, lane.objects), typed)


def decode_utf8(data: bytes, source: Source | None = None) -> str:
    """Decode strict UTF-8; Unreadable names the encoding that the row, or the file it is in, clearly has instead."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} of the row (0x{data[error.start]:02x}) is not UTF-8; "
        raise Unreadable("FT-ROW-001", reason + explain_encoding(data, source)) from error


def explain_encoding(data: bytes, source: Source | None = None) -> str:
    """Return what is known of the encoding of bytes that are not UTF-8, with the command that converts the file."""
    if is_damaged_utf8(data):
        return "all around it is UTF-8: a character was cut, or a byte is damaged"
    encoding, mixed = name_of_source(source) if source else (None, False)
    if encoding is None or not _decodes_as(encoding.name, data):
        encoding = name_encoding([data])
    if encoding is None:
        return "its encoding cannot be told"
    if mixed:
        return (
            f"the row reads as {encoding.name} ({encoding.language}), other rows are UTF-8: files were joined; "
            f"convert the part before joining, `iconv -f {encoding.name} -t UTF-8 PART`"
        )
    return (
        f"it reads as {encoding.name} ({encoding.language}): "
        f"`iconv -f {encoding.name} -t UTF-8 {show_name(source.path) if source else 'FILE'} > NEW`"
    )


def name_of_source(source: Source) -> tuple[Encoding | None, bool]:
    """Return (the encoding of a file's rows that are not UTF-8, whether other rows are UTF-8), read once a file."""
    if source.encoding is None:
        source.encoding = (None, False)
        try:
            with open_stream(source.path, packing_of(source.path)) as stream:
                lines, mixed = not_utf8_lines(stream.read(CHUNK))
            source.encoding = (name_encoding(lines), mixed)
        except (OSError, Unreadable):  # a folder, or a file that changed: the row alone is judged
            pass
    return source.encoding


def _decodes_as(name: str, data: bytes) -> bool:
    try:
        data.decode(name)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _count(data: bytes, byte: bytes) -> int:
    """Return `data.count(byte)`; to replace a rare byte takes half of the time of counting it."""
    return len(data) - len(data.replace(byte, b""))


def _is_plain(data: bytes, objects: int) -> bool:
    """Return whether no text of a row can hold anything that cleaning changes or a rule refuses.

    The search is for single bytes (as numbers: `b"<" in data` takes ten times as long). So a row with a tag, a formula
    or a call is not plain, although it may be clean: its fields are then searched one by one.
    """
    if _LESS in data or _EQUALS in data or _DELETE in data or _LATIN_1 in data or _count(data, b"{") != objects:
        return False
    if _BACKSLASH in data and _HIDING_ESCAPE.search(data):
        return False
    if _HASH in data and b"###" in data:
        return False
    if (_I in data and b"INST]" in data) or (_B in data and b"Below is an" in data):
        return False
    if _OPENING in data and data.count(b"(") != data.count(b" ("):
        return False
    return data.isascii() or _is_folded(data.decode("utf-8"), data)


def _is_folded(text: str, data: bytes) -> bool:
    """Return whether a row that is not ASCII holds no character that cleaning changes, and none that a rule refuses."""
    if _USUAL.fullmatch(text):
        return True
    if _WIDE.search(data) or "\u3000" in text or _HIDDEN.search(text):
        return False
    return unicodedata.is_normalized("NFC", text)


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
    return value, _is_plain(data, objects)


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
        hint = explain_json(text, error)
        raise Unreadable(hint.code, hint.reason) from error
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
