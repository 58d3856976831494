"""Recognise the kind of a file by its bytes and its shape, and read its rows with the reader for that kind."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from expectations.reading.columns import is_dataset_folder, read_folder, read_parquet
from expectations.reading.decode import decode_row
from expectations.reading.encodings import name_wide_encoding
from expectations.reading.lane import Lane
from expectations.reading.lines import ArrayReader, read_lines
from expectations.reading.rows import BLANK, BOM, RawRow, Rejected, Source, Unreadable, show_name
from expectations.reading.streams import CHUNK, markup_of, not_read, open_stream, packing_of
from expectations.reading.tables import NO_COLUMNS, Mapped, read_table, shape_of
from expectations.violations import Refused, violation

MAX_LINE_BYTES = 8 << 20
_MAX_DOCUMENT_BYTES = 64 << 20


def is_readable(path: Path) -> bool:
    """Return whether there is a file, or a folder of the `datasets` library, at this path."""
    return path.is_file() or is_dataset_folder(path)


def glob_files(pattern: str) -> list[Path]:
    """Return the files, and the folders of the `datasets` library, that a glob matches (`**` goes through folders)."""
    names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return [path for path in map(Path, names) if is_readable(path)]


def read_raw_rows(
    path: Path,
    *,
    name: str = "",
    max_line_bytes: int = MAX_LINE_BYTES,
    lane: Lane | None = None,
    mapped: Mapped = NO_COLUMNS,
) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a file, in file order.

    Supported are JSONL, a JSON array (whatever its name), one pretty-printed JSON object, CSV, TSV and TREC's tables;
    these compressed with gzip or zstd; Parquet; a folder that `datasets` saved. A row of an array has the line on which
    its element starts. Blank lines are no rows. A damaged compressed or binary file gives one `Rejected` and no row.
    `max_line_bytes` limits a row, and so the memory. `lane` may be opened while the rows are read: see lane.py. The
    columns of a table that are `mapped` have the values of the keys that they are read as. Refused (FT-ROW-012) when
    there is no such file.
    """
    if not is_readable(path):
        problem = "not a file" if path.exists() else "no such file"
        raise Refused(str(path), [violation("FT-ROW-012", where=str(path), message=problem)])
    source = Source(path, name)
    try:
        yield from _read(source, max_line_bytes, lane, mapped)
    except Unreadable as error:
        yield source.reject(error.code, 0, 0, error.reason, raw="")


def _read(source: Source, max_line_bytes: int, lane: Lane | None, mapped: Mapped) -> Iterator[RawRow | Rejected]:
    path = source.path
    if path.is_dir():
        yield from read_folder(source, max_line_bytes)
        return
    packing = packing_of(path)
    if packing == "parquet":
        yield from read_parquet(source, max_line_bytes)
        return
    with open_stream(path, packing) as stream:
        peeked = cast(io.BufferedReader, stream).peek(CHUNK)
        if wide := name_wide_encoding(peeked):
            raise Unreadable("FT-ROW-014", f"the file is {wide}: `iconv -f {wide} -t UTF-8 {show_name(path)} > NEW`")
        peeked = peeked.removeprefix(BOM)
        start = peeked.lstrip(BLANK)
        if markup := markup_of(start):
            raise not_read(markup)
        if shape := shape_of(path.name, peeked, mapped):
            yield from read_table(stream, source, shape, max_line_bytes, mapped)
        elif _is_array(start):
            yield from ArrayReader(source, max_line_bytes).read(stream)
        elif start.split(b"\n", 1)[0].strip(BLANK) == b"{":
            yield from _read_object(stream, source)
        else:
            yield from read_lines(stream, source, max_line_bytes, lane)


def holds_rows(path: Path) -> bool:
    """Return whether a plain text file is a table (`train.query.txt` with tabs, TREC's judgements), and no document."""
    with path.open("rb") as stream:
        return shape_of(path.name, stream.read(CHUNK).removeprefix(BOM)) is not None


def _read_object(stream: BinaryIO, source: Source) -> Iterator[RawRow | Rejected]:
    """Yield one object written over many lines. JSONL never begins with a line that is only a brace."""
    data = stream.read(_MAX_DOCUMENT_BYTES + 1)
    if len(data) > _MAX_DOCUMENT_BYTES:
        yield source.reject("FT-ROW-006", 1, 0, f"one object of more than {_MAX_DOCUMENT_BYTES} bytes", raw="{")
        return
    body = data.removeprefix(BOM)
    blank = len(data) - len(body.lstrip(BLANK))
    yield decode_row(source, 1 + data.count(b"\n", 0, blank), blank, body.strip(BLANK), whole=False)


def _is_array(start: bytes) -> bool:
    """Return whether the file is one JSON array, and not JSONL whose first row happens to be an array."""
    if not start.startswith(b"["):
        return False
    first, newline, rest = start.partition(b"\n")
    if newline and rest.strip(BLANK):
        try:
            msgspec.json.decode(first)
        except (ValueError, RecursionError):
            return True
        return False
    return True
