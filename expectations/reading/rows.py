"""A row of a file, and a row that was rejected."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest, folder_digest
from expectations.codes import CODES

BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
RAW_CHARS = 200
READ_BATCH = 64
"""Rows that pass through a step together. This is a fifth faster than one row through every step, since the processor's
caches hold the code of one step."""
FILE_CODES = frozenset(
    {"FT-ROW-008", "FT-ROW-010", "FT-ROW-011", "FT-ROW-012", "FT-ROW-014", "FT-ROW-020", "FT-TAB-004"}
)
"""Codes by which a whole file is rejected: no row of it is used."""


class RawRow(msgspec.Struct, frozen=True, gc=False):
    """A row that was read. `line` counts from 1; `offset` is in bytes of the unpacked file, -1 in Parquet."""

    line: int
    offset: int
    untyped: Any
    """`value`, unless the row came by the quick lane (see lane.py)."""
    data: bytes = b""
    """The bytes of the row in the file; empty for a row of a table."""
    plain: bool = False
    """True if its texts need no cleaning and hold nothing suspicious (see decode.py): one search of the line saves
    several searches of every field. False means that the fields must be searched."""
    typed: Any = None
    """The dialect's own Struct, where the row came by the quick lane."""
    named: bool = False
    """True for a row of a table with a header: its keys are the names of the columns."""

    @property
    def value(self) -> Any:
        """The decoded JSON, the list of cells of a TSV line, or a row of a table."""
        return msgspec.json.decode(self.data) if self.typed is not None else self.untyped

    @property
    def raw(self) -> str:
        """The start of the row's text, escaped."""
        if self.data:
            return escape_bytes(self.data)
        try:
            return escape(msgspec.json.encode(self.value).decode())
        except (TypeError, ValueError):  # a table may hold what JSON does not
            return escape(repr(self.value))


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
    """The question and the answer of an instruction row, if they could be read: it may contradict another row."""
    answer: str = ""


class Source:
    """A file that is being read: its name and, after the first rejected row, its hash."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name or path.name
        self._sha256 = ""
        self.encoding: Any = None
        """What decode.py found out about the encoding of rows that are not UTF-8; None before."""

    def reject(self, code: str, line: int, offset: int, reason: str, *, raw: str, path: str = "$") -> Rejected:
        if not self._sha256:
            self._sha256 = folder_digest(self.path) if self.path.is_dir() else file_digest(self.path)
        return Rejected(
            file=self.name,
            file_sha256=self._sha256,
            line=line,
            offset=offset,
            code=code,
            path=path,
            reason=reason,
            raw=raw,
            suggestion=CODES[code].fix,
        )


class Unreadable(Exception):
    """A row, or a file, that cannot be read: its code and a reason that a person understands."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def escape(text: str) -> str:
    """Return the first 200 characters, those that are not printable escaped, so that no log or terminal obeys them."""
    start = text[:RAW_CHARS]
    if start.isprintable():
        return start
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in start)


def show_name(path: Path) -> str:
    """Return a file's name as a shell and a log take it."""
    return shlex.quote(escape(path.name))


def escape_bytes(data: bytes) -> str:
    """Return `escape` of bytes that may not be UTF-8."""
    return escape(data[: RAW_CHARS * 4].decode("utf-8", "backslashreplace"))
