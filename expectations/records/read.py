"""Read files as records: the dialect is recognised, every row decoded, cleaned and checked; what fails is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from expectations.formats.column_map import NO_MAP, ColumnMap, columns_of, missing_columns
from expectations.formats.dialect import DEFAULT_POLICY, Dialect, Place, ReadPolicy, Record, RowError, RowNotes
from expectations.formats.recognise import SAMPLE, Recognition, better_fit, recognise_rows, unknown
from expectations.formats.registry import FORMATS, Bridge, bridge_of
from expectations.formats.unread import KeyReader, ShapeKey, Unread, UnreadKeys
from expectations.reading import MAX_LINE_BYTES, READ_BATCH, Lane, RawRow, Rejected, Source, read_raw_rows
from expectations.text.residue import Residues

__all__ = ["OpenedFile", "Record", "convert_rows", "in_batches", "read_records", "write_quarantine"]

Item = TypeVar("Item")
_RESIDUE = "FT-TEXT-002"
_Outcome = Record | Rejected | list[Record]
"""Of a row: its record, the reason why it has none, or a record for each answer of its dialogue."""


def read_records(
    path: Path,
    format: str,
    *,
    name: str = "",
    max_line_bytes: int = MAX_LINE_BYTES,
    policy: ReadPolicy = DEFAULT_POLICY,
    mapping: ColumnMap = NO_MAP,
    unread: UnreadKeys | None = None,
    notes: RowNotes | None = None,
    seen: Callable[[RawRow | Rejected], None] | None = None,
) -> Iterator[Record | Rejected]:
    """Yield the records of one file, in file order, and a `Rejected` for every row that becomes none.

    `name` is the file's name in records and quarantine, its own name by default. `unread` counts keys that no field
    takes, `notes` (of the same policy) what else a caller may report. `seen` is called with every row as it was read,
    in order, up to READ_BATCH rows before its record is yielded. Duplicates need the whole data set: see duplicates.py.
    Refused when the file cannot be opened, or when `mapping` does not fit it.
    """
    opened = OpenedFile(path, name=name, max_line_bytes=max_line_bytes, mapping=mapping)
    recognition = opened.recognise([format, *FORMATS[format].also_reads])
    dialect = recognition and recognition.dialect
    rows = opened.rows(dialect) if seen is None else _shown(opened.rows(dialect), seen)
    yield from convert_rows(path, rows, dialect, policy, to=format, name=name, unread=unread, notes=notes)


def _shown(rows: Iterable[RawRow | Rejected], seen: Callable[[RawRow | Rejected], None]) -> Iterator[RawRow | Rejected]:
    for row in rows:
        seen(row)
        yield row


class OpenedFile:
    """A file whose first rows were read, so that it can be recognised. Refused when it cannot be opened."""

    def __init__(
        self, path: Path, *, name: str = "", max_line_bytes: int = MAX_LINE_BYTES, mapping: ColumnMap = NO_MAP
    ) -> None:
        self._lane = Lane()
        self._path, self._name, self.mapping = path, name or str(path), mapping
        mapped = mapping.by_column()
        self._rest = read_raw_rows(path, name=name, max_line_bytes=max_line_bytes, lane=self._lane, mapped=mapped)
        self.first = list(islice(self._rest, SAMPLE))
        self.read = [row for row in self.first if isinstance(row, RawRow)]
        self._missing = mapped.keys() - set(chain.from_iterable(map(columns_of, self.read))) if mapped else set[str]()

    def recognise(self, formats: Sequence[str] = ()) -> Recognition | None:
        """Return the dialect of the file, among the formats; None when none fits. Refused for a map that does not."""
        name = self._path.name
        recognition = recognise_rows(self.read, name=name, formats=formats, mapping=self.mapping)
        if self._missing and self.read and (recognition is None or len(self.first) < SAMPLE):
            raise missing_columns(sorted(self._missing), self.mapping, self.read, self._name)
        return recognition

    def rows(self, dialect: Dialect[Any] | None) -> Iterator[RawRow | Rejected]:
        """Return all rows. Those after the first use the quick lane, if the first valid ones have one shape."""
        if dialect and not dialect.parts:
            fixed = {"format_version": dialect.format.version} if dialect.canonical else {}
            samples = [row.value for row in self.read if _has_types_of(dialect, row)]
            if not KeyReader(dialect).must_search(samples):
                self._lane.learn(dialect.row, samples, fixed)
        rows = chain(self.first, self._rest)
        return self._search_columns(rows) if self._missing else rows

    def _search_columns(self, rows: Iterable[RawRow | Rejected]) -> Iterator[RawRow | Rejected]:
        """Pass rows on; refuse the file at its end where no row had a column of the map."""
        missing = set(self._missing)
        for row in rows:
            if missing and isinstance(row, RawRow) and row.typed is None:  # the quick lane knows the first rows' keys
                missing.difference_update(columns_of(row))
            yield row
        if missing:
            raise missing_columns(sorted(missing), self.mapping, self.read, self._name)


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
    notes: RowNotes | None = None,
) -> Iterator[Record | Rejected]:
    """Yield the rows of one file as records. Without a dialect every row is rejected, with the dialects that are read.

    `to`: the format that the records must have, where the dialect's own format has a bridge to it. `notes`: of the
    same policy, for a caller that reports them.
    """
    source = Source(path, name)
    if dialect is None:
        yield from _reject_all(source, rows, [to] if to else [])
        return
    file, folder = source.name, path.absolute().parent.name
    notes = (notes or RowNotes(policy)) if policy.needs_notes else None
    if notes:
        notes.their_path = dialect.their_path
    keys = _KeyCheck(KeyReader(dialect), unread or UnreadKeys(), notes)
    bridge = bridge_of(dialect.format.name, to) if to else None
    residues = None if dialect.parts else Residues[RawRow]()
    for batch in in_batches(rows):
        records: list[_Outcome] = []
        for row in batch:
            if isinstance(row, Rejected):
                records.append(row)
                continue
            if row.line == 1 and row.value in dialect.headers:
                continue
            place = Place(file, row.line, row.plain, folder, residues, notes)
            try:
                keys.check(row)
                if dialect.parts:
                    records += _convert_parts(source, row, dialect, place, policy, bridge)
                    continue
                records.append(_convert_row(row, dialect, place, policy, bridge))
            except RowError as error:
                records.append(_reject(source, row, error, dialect))
            if not row.plain and residues and residues.current:
                residues.end_row(len(records) - 1, row, counted=notes is not None and _RESIDUE in notes.allowed)
        if residues:
            _reject_repeated(source, records, residues, dialect, notes)
        yield from _flat(records) if notes else cast("list[Record | Rejected]", records)


def _convert_row(
    row: RawRow, dialect: Dialect[Any], place: Place, policy: ReadPolicy, bridge: Bridge | None
) -> Record | list[Record]:
    """Return the record of a row, or one for each answer of its dialogue; RowError when it breaks a rule."""
    if row.typed is not None:
        record = dialect.convert(row.typed, None, place, policy)
    else:
        record = dialect.decode(row.value, place, policy)
    if bridge:
        record = bridge(record)
    if place.notes is None:
        return record
    place.notes.end_row()
    return [*place.notes.earlier, record] if place.notes.earlier else record


def _flat(records: Iterable[_Outcome]) -> Iterator[Record | Rejected]:
    for record in records:
        if isinstance(record, list):
            yield from record
        else:
            yield record


def _reject_repeated(
    source: Source,
    records: list[_Outcome],
    residues: Residues[RawRow],
    dialect: Dialect[Any],
    notes: RowNotes | None,
) -> None:
    """Replace the records whose residue of a template other rows repeat by their rejection; count them if allowed."""
    allowed = set[int]()
    for number, row, path, reason in residues.take_repeated():
        if isinstance(records[number], Rejected):
            continue
        if notes and _RESIDUE in notes.allow:
            allowed.add(number)
            continue
        at = dialect.their_path(path) if dialect.their_path else path
        records[number] = source.reject(_RESIDUE, row.line, row.offset, reason, raw=row.raw, path=at)
    if notes and allowed:
        notes.allowed_rows[_RESIDUE] += len(allowed)


class _KeyCheck:
    """The check of every row of a file for keys that its dialect does not read."""

    def __init__(self, reader: KeyReader, unread: UnreadKeys, notes: RowNotes | None) -> None:
        self._reader = reader
        self._unread = unread
        self._notes = notes
        """They take the marks of single answers, which are used where every answer is learned."""
        self._shape: type | None = None
        self._of_shape: list[ShapeKey] = []

    def check(self, row: RawRow) -> None:
        """Count the keys of a row that are not read; RowError for one that changes what the row means."""
        if self._notes:
            self._notes.begin_row()
        if row.typed is not None:
            self._check_typed(row.typed)
            return
        found = self._reader.find(row.value)
        if self._notes and self._notes.every_turn and self._reader.has_turns:
            found = self._reader.take_marks(found, self._notes.unlearned)
        self._reader.refuse(found)
        if found:
            self._unread.count(found, self._reader)

    def _check_typed(self, typed: msgspec.Struct) -> None:
        """Check a row of the quick lane: all of them have the same keys, and some of the values may be null."""
        shape: type[msgspec.Struct] = type(typed)
        if shape is not self._shape:
            self._shape, self._of_shape = shape, self._reader.find_in_shape(shape)
        for key in self._of_shape:
            value = key.get(typed)
            if value is None:
                continue
            if key.matters:
                self._reader.refuse([Unread(key.path, key.key, value, last=True)])
            self._unread.count_name(key.name, self._reader)


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


def _convert_parts(  # noqa: PLR0917 - as `_convert_row`
    source: Source,
    row: RawRow,
    dialect: Dialect[Any],
    place: Place,
    policy: ReadPolicy,
    bridge: Bridge | None,
) -> Iterator[Record | Rejected]:
    """Yield the records of a row that holds several: each is kept or rejected on its own."""
    try:
        values = list(dialect.parts(row.value)) if dialect.parts else []
    except RowError as error:
        yield _reject(source, row, error, dialect)
        return
    if not values:
        yield source.reject("FT-ROW-021", row.line, row.offset, "the row holds no record", raw=row.raw, path="$")
    for path, value in values:
        if place.notes:
            place.notes.begin_row()
        try:
            record = dialect.decode(value, place, policy)
            yield bridge(record) if bridge else record
            if place.notes:
                place.notes.end_row()
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
