"""Rows become records: the dialect is recognised, every row decoded, cleaned and judged; what fails is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from expectations.formats.bridges import find_bridge, sources_of
from expectations.formats.dialect import DEFAULT_POLICY, Dialect, Kind, Parts, Place, Policy, RowError
from expectations.formats.instruction import InstructionRecord
from expectations.formats.pairs import RetrievalPairRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.qa import QaRecord
from expectations.formats.recognise import SAMPLE, better_fit, describe_dialects, recognise_rows
from expectations.formats.retrieval import HEADERS, QrelRecord, QueryRecord
from expectations.formats.versions import VERSIONS
from expectations.reading import BATCH, MAX_LINE_BYTES, Lane, Rejected, Row, Source, read_rows

Record = (
    InstructionRecord | PreferenceRecord | QaRecord | RetrievalPairRecord | QueryRecord | QrelRecord | PassageRecord
)

Item = TypeVar("Item")


def read_records(
    path: Path, kind: Kind, *, name: str = "", max_line_bytes: int = MAX_LINE_BYTES, policy: Policy = DEFAULT_POLICY
) -> Iterator[Record | Rejected]:
    """The records of one file, in file order, with what was rejected in between; nothing is dropped without a word.

    `name` is what the file is called in records and quarantine, its own name by default. Duplicates need the whole
    data set: see duplicates.py. Refused when the file cannot be opened.
    """
    opened = OpenedFile(path, name=name, max_line_bytes=max_line_bytes)
    found = recognise_rows(opened.read, name=path.name, kinds=[kind, *sources_of(kind)])
    dialect = found and found.dialect
    yield from convert_rows(path, opened.rows(dialect), dialect, policy, kind=kind, name=name)


class OpenedFile:
    """A file whose first rows were read, to be recognised by them. Refused when it cannot be opened."""

    def __init__(self, path: Path, *, name: str = "", max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lane = Lane()
        self._rest = read_rows(path, name=name, max_line_bytes=max_line_bytes, lane=self._lane)
        self.first = list(islice(self._rest, SAMPLE))
        self.read = [row for row in self.first if isinstance(row, Row)]

    def rows(self, dialect: Dialect | None) -> Iterator[Row | Rejected]:
        """All rows. Those behind the first come by the quick lane, if the first that hold have one shape."""
        if dialect and not dialect.parts:
            fixed = {"format_version": VERSIONS[dialect.kind]} if dialect.canonical else {}
            self._lane.learn(dialect.row, [row.value for row in self.read if _has_types_of(dialect, row)], fixed)
        return chain(self.first, self._rest)


def _has_types_of(dialect: Dialect, row: Row) -> bool:
    try:
        dialect.type(row.value)
    except RowError:
        return False
    return True


def convert_rows(
    path: Path,
    rows: Iterable[Row | Rejected],
    dialect: Dialect | None,
    policy: Policy,
    *,
    kind: Kind | None = None,
    name: str = "",
) -> Iterator[Record | Rejected]:
    """Rows of one file as records of one dialect; with no dialect every row is rejected with what would be read.

    Records of another kind than the one asked for become it, where bridges.py knows how.
    """
    source, folder = Source(path, name), path.absolute().parent.name
    bridge = find_bridge(dialect.kind, kind) if dialect and kind and kind != dialect.kind else None
    for batch in in_batches(rows):
        made: list[Record | Rejected] = []
        for row in batch:
            if isinstance(row, Rejected):
                made.append(row)
                continue
            if dialect is None:
                reason = f"no dialect fits; read are {describe_dialects([kind] if kind else ())}"
                made.append(source.reject("FT-DIALECT-001", row.line, row.offset, reason, raw=row.raw))
                continue
            if row.line == 1 and row.value in HEADERS:
                continue
            place = Place(source.name, row.line, row.plain, folder)
            if dialect.parts:

                def decode(value: Any, dialect: Dialect = dialect, place: Place = place) -> Record:
                    record = dialect.decode(value, place, policy)
                    return bridge(record) if bridge else record

                made += _convert_parts(source, row, dialect, dialect.parts, decode)
                continue
            try:
                if row.typed is not None:
                    record = dialect.convert(row.typed, None, place, policy)
                else:
                    record = dialect.decode(row.value, place, policy)
                made.append(bridge(record) if bridge else record)
            except RowError as error:
                made.append(_reject(source, row, error, dialect))
        yield from made


def in_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of up to BATCH."""
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _convert_parts(
    source: Source, row: Row, dialect: Dialect, parts: Parts, decode: Callable[[Any], Record]
) -> Iterator[Record | Rejected]:
    """A row that holds several records: each is kept or rejected on its own."""
    try:
        found = list(parts(row.value))
    except RowError as error:
        yield _reject(source, row, error, dialect)
        return
    for path, value in found:
        try:
            yield decode(value)
        except RowError as error:
            yield _reject(source, row, error, dialect, within=path)


def _reject(source: Source, row: Row, error: RowError, dialect: Dialect, *, within: str = "$") -> Rejected:
    code, reason, path = error.code, error.reason, within + error.path.removeprefix("$")
    if code == dialect.type_code and within == "$" and (other := better_fit(row.value, dialect)):
        code, reason = "FT-DIALECT-002", f"the row is `{other.name}`, the file is `{dialect.name}`"
    rejected = source.reject(code, row.line, row.offset, reason, raw=row.raw, path=path)
    if error.question:
        return msgspec.structs.replace(rejected, question=error.question, answer=error.answer)
    return rejected


def write_quarantine(path: Path, rejected: Iterable[Rejected]) -> int:
    """Writes rejected rows as JSONL, one object a row; returns how many."""
    count = 0
    with path.open("wb") as stream:
        for row in rejected:
            stream.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count
