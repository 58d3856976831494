"""Files become rows: one streamed pass, bounded memory, strict. What cannot be read is rejected with place and reason.

Iteration is over bytes split at b"\\n" alone (str.splitlines would also split inside texts, at U+2028), decoding is
UTF-8 first and JSON after it, and nobody reads the raw file again after this.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import msgspec

from expectations.canonical import file_digest
from expectations.formats.codes import CODES
from expectations.violations import Refused, Violation

MAX_LINE_BYTES = 8 << 20
MAX_DEPTH = 64
RAW_CHARS = 200
FILE_CODES = frozenset({"FT-ROW-008", "FT-ROW-010", "FT-ROW-011", "FT-ROW-012"})
"""Codes that condemn a whole file: no row of it is used."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_CHUNK = 1 << 18
_MAX_RATIO = 400  # gzip reaches about 1000 on a bomb and stays under 50 on text
_RATIO_MATTERS_FROM = 64 << 20  # bytes
_NOT_READ = frozenset({".zst", ".xz", ".bz2", ".zip", ".7z", ".parquet", ".arrow", ".xlsx", ".pdf"})
_STRUCTURE = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')
_DEPTH_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]', re.DOTALL)


class Row(msgspec.Struct, frozen=True):
    """A row that was read. `line` counts from 1, `offset` in bytes (of the decompressed file) from 0.

    `value` is what JSON decodes to, or the list of cells of a TSV line; `raw` is the start of the text, escaped.
    """

    line: int
    offset: int
    value: Any
    raw: str


class Rejected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row that is not used, as one line of the quarantine. `path` is a JSON path; `offset` is -1 where unknown."""

    file: str
    file_sha256: str
    line: int
    offset: int
    code: str
    path: str
    reason: str
    raw: str
    suggestion: str
    question: str = ""
    """What an instruction row asks and answers, when it was read that far: it may contradict a row that is kept."""
    answer: str = ""


class Source:
    """A file on the reader's desk: its name and, once something is rejected, its hash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._sha256 = ""

    def reject(self, code: str, line: int, offset: int, reason: str, *, raw: str, path: str = "$") -> Rejected:
        self._sha256 = self._sha256 or file_digest(self.path)
        return Rejected(
            file=self.name,
            file_sha256=self._sha256,
            line=line,
            offset=offset,
            code=code,
            path=path,
            reason=reason,
            raw=raw,
            suggestion=CODES[code].mend,
        )


class _Unreadable(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def read_rows(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Row | Rejected]:
    """The rows of a JSONL file, a JSON array (whatever its name) or a TSV file, each optionally gzipped, in file order.

    A row of an array has the line its element starts on. Blank lines are no rows. A damaged compressed file gives one
    `Rejected` and no row. `max_line_bytes` bounds a row, and with it the memory. Refused when there is no such file.
    """
    source = Source(path)
    if not path.is_file():
        found = "not a file" if path.exists() else "no such file"
        raise Refused(
            str(path), [Violation(code="FT-ROW-012", where=str(path), message=found, mend=CODES["FT-ROW-012"].mend)]
        )
    try:
        _refuse_damage(path)
    except _Unreadable as error:
        yield source.reject(error.code, 0, 0, error.reason, raw="")
        return
    with _open(path) as stream:
        if _is_tsv(path):
            yield from _read_tsv(stream, source, max_line_bytes)
        elif _is_array(stream):
            yield from _ArrayReader(source, max_line_bytes).read(stream)
        else:
            yield from _read_lines(stream, source, max_line_bytes)


def escape(text: str) -> str:
    """The first 200 characters, printable ones as they are, others escaped, so that no log or terminal obeys them."""
    start = text[:RAW_CHARS]
    if start.isprintable():
        return start
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in start)


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return io.BufferedReader(cast(Any, gzip.GzipFile(path)), _CHUNK)
    return path.open("rb", buffering=_CHUNK)


def _refuse_damage(path: Path) -> None:
    """Reads a compressed file to its checksum before any row is used: gzip notices damage only at the end."""
    if path.suffix in _NOT_READ:
        raise _Unreadable("FT-ROW-011", f"a {path.suffix} file is not read here")
    if path.suffix != ".gz":
        return
    packed, unpacked = path.stat().st_size, 0
    try:
        with gzip.open(path) as stream:
            while block := stream.read(_CHUNK):
                unpacked += len(block)
                if unpacked > max(_RATIO_MATTERS_FROM, packed * _MAX_RATIO):
                    raise _Unreadable("FT-ROW-010", f"{packed} bytes unpack to more than {unpacked}")
    except EOFError as error:
        raise _Unreadable("FT-ROW-008", f"it ends too early, after {unpacked} unpacked bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _Unreadable("FT-ROW-008", f"after {unpacked} unpacked bytes: {error}") from error


def _is_tsv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".tsv")


def _is_array(stream: BinaryIO) -> bool:
    """Whether the file is one JSON array, and not JSONL whose first row happens to be an array."""
    start = cast(io.BufferedReader, stream).peek(_CHUNK).removeprefix(_BOM).lstrip(_BLANK)
    if not start.startswith(b"["):
        return False
    first, newline, rest = start.partition(b"\n")
    if newline and rest.strip(_BLANK):
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            return True
        return False
    return True


class _Line(msgspec.Struct):
    number: int
    offset: int
    data: bytes
    """Without the line end; cut when too long."""
    too_long: bool
    ended: bool
    """Whether a line end followed."""


def _lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[_Line]:
    number = offset = 0
    while data := stream.readline(max_line_bytes + 1):
        number += 1
        size = len(data)
        piece = data
        while not piece.endswith(b"\n") and size > max_line_bytes:  # drain what is left of the line
            piece = stream.readline(_CHUNK)
            size += len(piece)
            if not piece:
                break
        ended = piece.endswith(b"\n")
        if number == 1:
            data = data.removeprefix(_BOM)
        if data.strip(_BLANK):
            yield _Line(number, offset, data.rstrip(b"\r\n"), size - ended > max_line_bytes, ended)
        offset += size


def _read_lines(stream: BinaryIO, source: Source, max_line_bytes: int) -> Iterator[Row | Rejected]:
    for line in _lines(stream, max_line_bytes):
        if line.too_long:
            yield _reject_long(source, line.number, line.offset, line.data, max_line_bytes)
        else:
            yield _decode(source, line.number, line.offset, line.data, whole=line.ended)


def _read_tsv(stream: BinaryIO, source: Source, max_line_bytes: int) -> Iterator[Row | Rejected]:
    for line in _lines(stream, max_line_bytes):
        if line.too_long:
            yield _reject_long(source, line.number, line.offset, line.data, max_line_bytes)
            continue
        try:
            text = _decode_utf8(line.data)
        except _Unreadable as error:
            yield source.reject(error.code, line.number, line.offset, error.reason, raw=_escape_bytes(line.data))
        else:
            yield Row(line.number, line.offset, text.split("\t"), escape(text))


class _ArrayReader:
    """Cuts a JSON array into its elements while it streams by, and decodes each on its own."""

    def __init__(self, source: Source, max_bytes: int) -> None:
        self._source = source
        self._max = max_bytes
        self._line, self._offset = 1, 0  # where the current element's text begins, white space included
        self._text = bytearray()
        self._size = self._newlines = 0
        self._depth = 0
        self._in_string = self._escaped = False
        self._state = "before"  # … then "elements", then "after"
        self._elements = 0

    def read(self, stream: BinaryIO) -> Iterator[Row | Rejected]:
        while chunk := stream.read(_CHUNK):
            yield from self._scan(chunk)
        if self._state == "after":
            if self._text.strip(_BLANK):
                yield self._reject("FT-ROW-013", "text follows the end of the array")
        elif self._text.strip(_BLANK):
            yield self._reject("FT-ROW-007", "the file ends inside this element")
        else:
            yield self._reject("FT-ROW-007", "the file ends before the array is closed by `]`")

    def _scan(self, chunk: bytes) -> Iterator[Row | Rejected]:  # noqa: PLR0912 - one state machine, read as one
        begin = position = 0
        while self._state != "after":
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                    position += 1
                found = _IN_STRING.search(chunk, position)
                if not found:
                    break
                position = found.end()
                if found.group() == b"\\":
                    self._escaped = position == len(chunk)
                    position += not self._escaped
                else:
                    self._in_string = False
                continue
            found = _STRUCTURE.search(chunk, position)
            if not found:
                break
            position = found.end()
            token = found.group()
            if self._state == "before":  # the first token is the array's own bracket
                self._take(chunk[begin:position])
                begin = position
                self._begin_next()
                self._state = "elements"
            elif token == b'"':
                self._in_string = True
            elif self._depth == 0 and token in b",]":
                self._take(chunk[begin : position - 1])
                yield from self._finish(last=token == b"]")
                self._take(token)
                begin = position
                self._begin_next()
                if token == b"]":
                    self._state = "after"
            elif token in b"[{":
                self._depth += 1
            elif token in b"]}":
                self._depth = max(0, self._depth - 1)
        self._take(chunk[begin:])

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        self._newlines += piece.count(b"\n")
        self._text += piece[: max(0, self._max + 1 - len(self._text))]

    def _begin_next(self) -> None:
        self._line += self._newlines
        self._offset += self._size
        self._text.clear()
        self._size = self._newlines = 0

    def _place(self) -> tuple[int, int, bytes]:
        """Line, offset and text of the current element without the white space around it."""
        text = bytes(self._text)
        blank = len(text) - len(text.lstrip(_BLANK))
        return self._line + text.count(b"\n", 0, blank), self._offset + blank, text.strip(_BLANK)

    def _finish(self, *, last: bool) -> Iterator[Row | Rejected]:
        line, offset, text = self._place()
        self._elements += 1
        if self._size > self._max:
            yield _reject_long(self._source, line, offset, text, self._max)
        elif text:
            yield _decode(self._source, line, offset, text)
        elif not (last and self._elements == 1):
            yield self._reject("FT-ROW-013", "an element is missing beside this comma")

    def _reject(self, code: str, reason: str) -> Rejected:
        line, offset, text = self._place()
        return self._source.reject(code, line, offset, reason, raw=_escape_bytes(text))


def _decode(source: Source, line: int, offset: int, data: bytes, *, whole: bool = True) -> Row | Rejected:
    try:
        text = _decode_utf8(data)
        return Row(line, offset, _decode_json(text, whole=whole), escape(text))
    except _Unreadable as error:
        return source.reject(error.code, line, offset, error.reason, raw=_escape_bytes(data))


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} of the row (0x{data[error.start]:02x}) is not UTF-8"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in data[:4]:
            reason += "; the file looks like UTF-16"
        elif _decodes_as_gb18030(data):
            reason += "; the row reads as GB18030"
        raise _Unreadable("FT-ROW-001", reason) from error


def _decodes_as_gb18030(data: bytes) -> bool:
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return True


def _decode_json(text: str, *, whole: bool) -> Any:
    _refuse_depth(text)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        if at_end and not whole:
            raise _Unreadable("FT-ROW-007", "the file ends inside this row") from error
        raise _Unreadable("FT-ROW-002", f"{error.msg} at character {error.pos + 1}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise _Unreadable("FT-ROW-002", str(error).partition(";")[0]) from error
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def _refuse_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _DEPTH_TOKENS.finditer(text):
        if token.group(1):
            depth += 1
        elif token.group() in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise _Unreadable("FT-ROW-005", f"nested more than {MAX_DEPTH} deep")


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(error.object[error.start]):04x}"
        raise _Unreadable("FT-ROW-009", f"{surrogate} stands without its other half") from error


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise _Unreadable("FT-ROW-003", f"the key `{escape(twin)}` appears {keys.count(twin)} times in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _Unreadable("FT-ROW-004", f"found {name}")


def _read_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Unreadable("FT-ROW-004", f"{digits[:20]} is too large for a number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant, parse_float=_read_float)


def _reject_long(source: Source, line: int, offset: int, data: bytes, max_bytes: int) -> Rejected:
    return source.reject("FT-ROW-006", line, offset, f"longer than {max_bytes} bytes", raw=_escape_bytes(data))


def _escape_bytes(data: bytes) -> str:
    return escape(data[: RAW_CHARS * 4].decode("utf-8", "backslashreplace"))
