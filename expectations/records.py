"""Rows become records: the dialect is recognised, every row decoded, cleaned and judged; what fails is rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import msgspec

from expectations.formats.dialect import Dialect, Kind, Place, Policy, RowError, Thinking
from expectations.formats.instruction import InstructionRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.recognise import SAMPLE, describe_dialects, recognise_rows
from expectations.formats.retrieval import QRELS_HEADER, QrelRecord, QueryRecord
from expectations.reading import MAX_LINE_BYTES, Rejected, Row, Source, read_rows

Record = InstructionRecord | PreferenceRecord | QueryRecord | QrelRecord | PassageRecord


def read_records(
    path: Path,
    kind: Kind,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    thinking: Thinking = "allow_empty",
    min_margin: float = 0.0,
) -> Iterator[Record | Rejected]:
    """The records of one file, in file order, with what was rejected in between; nothing is dropped without a word.

    Duplicates need the whole data set: see duplicates.py. Refused when the file cannot be opened.
    """
    rows = read_rows(path, max_line_bytes=max_line_bytes)
    first = list(islice(rows, SAMPLE))
    found = recognise_rows([row.value for row in first if isinstance(row, Row)], name=path.name, kind=kind)
    policy = Policy(thinking=thinking, min_margin=min_margin)
    yield from convert_rows(path, chain(first, rows), found and found.dialect, policy, kind=kind)


def convert_rows(
    path: Path, rows: Iterable[Row | Rejected], dialect: Dialect | None, policy: Policy, *, kind: str | None = None
) -> Iterator[Record | Rejected]:
    """Rows of one file as records of one dialect; with no dialect every row is rejected with what would be read."""
    source = Source(path)
    for row in rows:
        if isinstance(row, Rejected):
            yield row
        elif dialect is None:
            reason = f"no dialect fits; read are {describe_dialects(kind)}"
            yield source.reject("FT-DIALECT-001", row.line, row.offset, reason, raw=row.raw)
        elif not (row.line == 1 and row.value == QRELS_HEADER):
            try:
                yield dialect.decode(row.value, Place(source.name, row.line), policy)
            except RowError as error:
                rejected = source.reject(error.code, row.line, row.offset, error.reason, raw=row.raw, path=error.path)
                yield msgspec.structs.replace(rejected, question=error.question, answer=error.answer)


def write_quarantine(path: Path, rejected: Iterable[Rejected]) -> int:
    """Writes rejected rows as JSONL, one object a row; returns how many."""
    count = 0
    with path.open("wb") as stream:
        for row in rejected:
            stream.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count
