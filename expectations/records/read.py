"""Read files as records: the dialect is recognised, every row decoded, cleaned and checked; what fails is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from expectations.formats.dialect import DEFAULT_POLICY, Dialect, Place, ReadPolicy, Record, RowError
from expectations.formats.recognise import SAMPLE, better_fit, recognise_rows, unknown
from expectations.formats.registry import FORMATS, Bridge, bridge_of
from expectations.formats.unread import KeyReader, Unread, UnreadKeys
from expectations.reading import MAX_LINE_BYTES, READ_BATCH, Lane, RawRow, Rejected, Source, read_raw_rows
from expectations.text.residue import Residues

__all__ = ["OpenedFile", "Record", "convert_rows", "in_batches", "read_records", "write_quarantine"]

Item = TypeVar("Item")


def read_records(
    path: Path,
    format: str,
    *,
    name: str = "",
    max_line_bytes: int = MAX_LINE_BYTES,
    policy: ReadPolicy = DEFAULT_POLICY,
    unread: UnreadKeys | None = None,
    seen: Callable[[RawRow | Rejected], None] | None = None,
) -> Iterator[Record | Rejected]:
    """Yield the records of one file, in file order, and a `Rejected` for every row that becomes none.

    `name` is the file's name in records and quarantine, its own name by default. `unread` counts keys that no field
    takes. `seen` is called with every row as it was read, in order, up to READ_BATCH rows before its record is yielded.
    Duplicates need the whole data set: see duplicates.py. Refused when the file cannot be opened.
    """
    opened = OpenedFile(path, name=name, max_line_bytes=max_line_bytes)
    recognition = recognise_rows(opened.read, name=path.name, formats=[format, *FORMATS[format].also_reads])
    dialect = recognition and recognition.dialect
    rows = opened.rows(dialect) if seen is None else _shown(opened.rows(dialect), seen)
    yield from convert_rows(path, rows, dialect, policy, to=format, name=name, unread=unread)


def _shown(rows: Iterable[RawRow | Rejected], seen: Callable[[RawRow | Rejected], None]) -> Iterator[RawRow | Rejected]:
    for row in rows:
        seen(row)
        yield row


class OpenedFile:
    """A file whose first rows were read, so that it can be recognised. Refused when it cannot be opened."""

    def __init__(self, path: Path, *, name: str = "", max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lane = Lane()
        self._rest = read_raw_rows(path, name=name, max_line_bytes=max_line_bytes, lane=self._lane)
        self.first = list(islice(self._rest, SAMPLE))
        self.read = [row for row in self.first if isinstance(row, RawRow)]

    def rows(self, dialect: Dialect[Any] | None) -> Iterator[RawRow | Rejected]:
        """Return all rows. Those after the first use the quick lane, if the first valid ones have one shape."""
        if dialect and not dialect.parts:
            fixed = {"format_version": dialect.format.version} if dialect.canonical else {}
            samples = [row.value for row in self.read if _has_types_of(dialect, row)]
            if not KeyReader(dialect).must_search(samples):
                self._lane.learn(dialect.row, samples, fixed)
        return chain(self.first, self._rest)


def _has_types_of(dialect: Dialect[Any], row: RawRow) -> bool:
    try:
        dialect.type(row.value)
    except RowError:
        return False
    return True


def convert_rows(
    path: Path,
    rows: Iterable[RawRow | Rejected],
    dialect: Dialect[Any] | None,
    policy: ReadPolicy,
    *,
    to: str | None = None,
    name: str = "",
    unread: UnreadKeys | None = None,
) -> Iterator[Record | Rejected]:
    """Yield the rows of one file as records. Without a dialect every row is rejected, with the dialects that are read.

    `to`: the format that the records must have, where the dialect's own format has a bridge to it.
    """
    source = Source(path, name)
    if dialect is None:
        yield from _reject_all(source, rows, [to] if to else [])
        return
    file, folder = source.name, path.absolute().parent.name
    keys = _KeyCheck(KeyReader(dialect), unread or UnreadKeys())
    bridge = bridge_of(dialect.format.name, to) if to else None
    residues = None if dialect.parts else Residues[RawRow]()
    for batch in in_batches(rows):
        records: list[Record | Rejected] = []
        for row in batch:
            if isinstance(row, Rejected):
                records.append(row)
                continue
            if row.line == 1 and row.value in dialect.headers:
                continue
            place = Place(file, row.line, row.plain, folder, residues)
            try:
                keys.check(row)
                if dialect.parts:
                    records += _convert_parts(source, row, dialect, place, policy, bridge)
                    continue
                if row.typed is not None:
                    record = dialect.convert(row.typed, None, place, policy)
                else:
                    record = dialect.decode(row.value, place, policy)
                records.append(bridge(record) if bridge else record)
            except RowError as error:
                records.append(_reject(source, row, error, dialect))
            if not row.plain and residues and residues.current:
                residues.end_row(len(records) - 1, row)
        if residues:
            _reject_repeated(source, records, residues)
        yield from records


def _reject_repeated(source: Source, records: list[Record | Rejected], residues: Residues[RawRow]) -> None:
    """Replace the records whose residue of a template other rows repeat by their rejection."""
    for number, row, at, reason in residues.take_repeated():
        if not isinstance(records[number], Rejected):
            records[number] = source.reject("FT-TEXT-002", row.line, row.offset, reason, raw=row.raw, path=at)


class _KeyCheck:
    """The check of every row of a file for keys that its dialect does not read."""

    def __init__(self, reader: KeyReader, unread: UnreadKeys) -> None:
        self._reader = reader
        self._unread = unread
        self._shape: type | None = None
        self._of_shape: list[Unread] = []

    def check(self, row: RawRow) -> None:
        """Count the keys of a row that are not read; RowError for one that changes what the row means."""
        if row.typed is not None:
            if type(row.typed) is not self._shape:  # all rows of the quick lane have one shape
                self._shape, self._of_shape = type(row.typed), self._reader.find(row.value)
            found = self._of_shape
        else:
            found = self._reader.find(row.value)
            self._reader.refuse(found)
        if found:
            self._unread.count(found, self._reader)


def _reject_all(source: Source, rows: Iterable[RawRow | Rejected], formats: Sequence[str]) -> Iterator[Rejected]:
    """Yield every row of a file that no dialect fits as rejected."""
    remaining = iter(rows)
    start = list(islice(remaining, SAMPLE))
    problem = unknown(source.name, [row for row in start if isinstance(row, RawRow)], formats)
    reason = f"{problem.message}; read are {problem.expected}" if problem.expected else problem.message
    for row in chain(start, remaining):
        if isinstance(row, Rejected):
            yield row
        else:
            yield source.reject(problem.code, row.line, row.offset, reason, raw=row.raw)


def in_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists of up to READ_BATCH."""
    remaining = iter(items)
    while batch := list(islice(remaining, READ_BATCH)):
        yield batch


def _convert_parts(  # noqa: PLR0917 - what reads a row
    source: Source, row: RawRow, dialect: Dialect[Any], place: Place, policy: ReadPolicy, bridge: Bridge | None
) -> Iterator[Record | Rejected]:
    """Yield the records of a row that holds several: each is kept or rejected on its own."""
    try:
        values = list(dialect.parts(row.value)) if dialect.parts else []
    except RowError as error:
        yield _reject(source, row, error, dialect)
        return
    for path, value in values:
        try:
            record = dialect.decode(value, place, policy)
            yield bridge(record) if bridge else record
        except RowError as error:
            yield _reject(source, row, error, dialect, within=path)


def _reject(source: Source, row: RawRow, error: RowError, dialect: Dialect[Any], *, within: str = "$") -> Rejected:
    code, reason, path = error.code, error.reason, within + error.path.removeprefix("$")
    if code == dialect.format.wrong_type and within == "$" and (other := better_fit(row.value, dialect)):
        code, reason = "FT-DIALECT-002", f"the row is `{other.name}`, the file is `{dialect.name}`"
    rejected = source.reject(code, row.line, row.offset, reason, raw=row.raw, path=path)
    if error.question:
        return msgspec.structs.replace(rejected, question=error.question, answer=error.answer)
    return rejected


def write_quarantine(path: Path, rejected: Iterable[Rejected]) -> int:
    """Write rejected rows as JSONL, one object a row; return their number."""
    count = 0
    with path.open("wb") as stream:
        for row in rejected:
            stream.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count
