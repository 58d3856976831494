"""Cut text into rows: lines, cells, and the elements of a JSON array.

Bytes are split only at b"\\n": str.splitlines would also split inside texts, at U+2028.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from typing import BinaryIO

from expectations.reading.decode import decode_row, decode_utf8
from expectations.reading.lane import Lane
from expectations.reading.rows import BLANK, BOM, READ_BATCH, RawRow, Rejected, Source, Unreadable, escape_bytes
from expectations.reading.streams import CHUNK

_STRUCTURE = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')


_Line = tuple[int, int, bytes, bool, bool]
"""Its number, its offset, its bytes without the line end (cut when it is too long), whether it is too long, and whether
a line end followed."""


def _blocks(stream: BinaryIO, max_line_bytes: int) -> Iterator[list[_Line]]:
    """Yield the lines that are not blank, those of one read together."""
    number = offset = 0
    rest = b""
    dropped = 0  # bytes of a line that is too long, beyond what is shown of it
    while chunk := stream.read(CHUNK):
        pieces = BytesIO(chunk).readlines()  # a third of the time of `split`; each keeps its line end
        pieces[0] = rest + pieces[0]
        rest = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        lines: list[_Line] = []
        for piece in pieces:
            size = len(piece) - 1 + dropped
            number += 1
            data = piece.removeprefix(BOM) if number == 1 else piece
            if data[0] not in BLANK or data.strip(BLANK):
                lines.append((number, offset, data.rstrip(b"\r\n"), size > max_line_bytes, True))
            offset += size + 1
            dropped = 0
        yield lines
        if len(rest) > max_line_bytes:
            dropped += len(rest) - max_line_bytes - 1
            rest = rest[: max_line_bytes + 1]
    data = rest.removeprefix(BOM) if number == 0 else rest
    if data.strip(BLANK):
        yield [(number + 1, offset, data.rstrip(b"\r"), len(rest) + dropped > max_line_bytes, False)]


def read_lines(stream: BinaryIO, source: Source, max_line_bytes: int, lane: Lane | None) -> Iterator[RawRow | Rejected]:
    """Yield JSON rows, one a line."""
    for block in _blocks(stream, max_line_bytes):
        for start in range(0, len(block), READ_BATCH):
            yield from [
                _reject_long(source, number, offset, data, max_line_bytes)
                if too_long
                else decode_row(source, number, offset, data, whole=ended, lane=lane)
                for number, offset, data, too_long, ended in block[start : start + READ_BATCH]
            ]


def read_tsv(stream: BinaryIO, source: Source, max_line_bytes: int) -> Iterator[RawRow | Rejected]:
    """Yield rows of tab-separated cells, one a line."""
    for number, offset, data, too_long, _ in chain.from_iterable(_blocks(stream, max_line_bytes)):
        if too_long:
            yield _reject_long(source, number, offset, data, max_line_bytes)
            continue
        try:
            text = decode_utf8(data)
        except Unreadable as error:
            yield source.reject(error.code, number, offset, error.reason, raw=escape_bytes(data))
        else:
            yield RawRow(number, offset, text.split("\t"), data)


class ArrayReader:
    """Cuts a JSON array into its elements while it is read, and decodes each on its own."""

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

    def read(self, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
        while chunk := stream.read(CHUNK):
            yield from self._scan(chunk)
        if self._state == "after":
            if self._text.strip(BLANK):
                yield self._reject("FT-ROW-013", "text follows the end of the array")
        elif self._text.strip(BLANK):
            yield self._reject("FT-ROW-007", "the file ends inside this element")
        else:
            yield self._reject("FT-ROW-007", "the file ends before the array is closed by `]`")

    def _scan(self, chunk: bytes) -> Iterator[RawRow | Rejected]:
        begin = position = 0
        while self._state != "after":
            if self._in_string:
                position = self._skip_string(chunk, position)
                if self._in_string:
                    break
            match = _STRUCTURE.search(chunk, position)
            if not match:
                break
            position = match.end()
            token = match.group()
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

    def _skip_string(self, chunk: bytes, position: int) -> int:
        """Return the place behind the string that is open; it stays open when the chunk ends first."""
        if self._escaped:
            self._escaped = False
            position += 1
        while match := _IN_STRING.search(chunk, position):
            position = match.end()
            if match.group() == b'"':
                self._in_string = False
                break
            self._escaped = position == len(chunk)
            position += not self._escaped
        return position

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
        """Return line, offset and text of the current element without the white space around it."""
        text = bytes(self._text)
        blank = len(text) - len(text.lstrip(BLANK))
        return self._line + text.count(b"\n", 0, blank), self._offset + blank, text.strip(BLANK)

    def _finish(self, *, last: bool) -> Iterator[RawRow | Rejected]:
        line, offset, text = self._place()
        self._elements += 1
        if self._size > self._max:
            yield _reject_long(self._source, line, offset, text, self._max)
        elif text:
            yield decode_row(self._source, line, offset, text)
        elif not (last and self._elements == 1):
            missing = (
                "a comma follows the last element, delete it" if last else "an element is missing next to this comma"
            )
            yield self._reject("FT-ROW-013", missing)

    def _reject(self, code: str, reason: str) -> Rejected:
        line, offset, text = self._place()
        return self._source.reject(code, line, offset, reason, raw=escape_bytes(text))


def _reject_long(source: Source, line: int, offset: int, data: bytes, max_bytes: int) -> Rejected:
    return source.reject("FT-ROW-006", line, offset, f"longer than {max_bytes} bytes", raw=escape_bytes(data))
