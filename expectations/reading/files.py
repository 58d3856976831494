"""Recognise the kind of a file by its bytes and its shape, and read its rows with the reader for that kind."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from expectations.reading.columns import is_dataset_folder, read_folder, read_parquet
from expectations.reading.decode import decode_row
from expectations.reading.encodings import name_wide_encoding
from expectations.reading.lane import Lane
from expectations.reading.lines import ArrayReader, read_lines, read_tsv
from expectations.reading.rows import BLANK, BOM, RawRow, Rejected, Source, Unreadable, show_name
from expectations.reading.streams import CHUNK, open_stream, packing_of
from expectations.violations import Refused, violation

MAX_LINE_BYTES = 8 << 20
_MAX_DOCUMENT_BYTES = 64 << 20


def is_readable(path: Path) -> bool:
    """Return whether there is a file, or a folder of the `datasets` library, at this path."""
    return path.is_file() or is_dataset_folder(path)


def read_raw_rows(
    path: Path, *, name: str = "", max_line_bytes: int = MAX_LINE_BYTES, lane: Lane | None = None
) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a file, in file order.

    Supported are JSONL, a JSON array (whatever its name), one pretty-printed JSON object, TSV; these compressed with
    gzip or zstd; Parquet; a folder that `datasets` saved. A row of an array has the line on which its element starts.
    Blank lines are no rows. A damaged compressed or binary file gives one `Rejected` and no row. `max_line_bytes`
    limits a row, and so the memory. `lane` may be opened while the rows are read: see lane.py. Refused (FT-ROW-012)
    when there is no such file.
    """
    if not is_readable(path):
        problem = "not a file" if path.exists() else "no such file"
        raise Refused(str(path), [violation("FT-ROW-012", where=str(path), message=problem)])
    source = Source(path, name)
    try:
        yield from _read(source, max_line_bytes, lane)
    except Unreadable as error:
        yield source.reject(error.code, 0, 0, error.reason, raw="")


def _read(source: Source, max_line_bytes: int, lane: Lane | None) -> Iterator[RawRow | Rejected]:
    path = source.path
    if path.is_dir():
        yield from read_folder(source)
        return
    packing = packing_of(path)
    if packing == "parquet":
        yield from read_parquet(source)
        return
    with open_stream(path, packing) as stream:
        start = cast(io.BufferedReader, stream).peek(CHUNK)
        if wide := name_wide_encoding(start):
            raise Unreadable("FT-ROW-014", f"the file is {wide}: `iconv -f {wide} -t UTF-8 {show_name(path)} > NEW`")
        start = start.removeprefix(BOM).lstrip(BLANK)
        if start[:1] not in (b"{", b"[") and _is_tsv(path, start):
            yield from read_tsv(stream, source, max_line_bytes)
        elif _is_array(start):
            yield from ArrayReader(source, max_line_bytes).read(stream)
        elif start.split(b"\n", 1)[0].strip(BLANK) == b"{":
            yield from _read_object(stream, source)
        else:
            yield from read_lines(stream, source, max_line_bytes, lane)


def holds_rows(path: Path) -> bool:
    """Return whether a plain text file has the shape of a table (`train.query.txt` with tabs), and is no document."""
    with path.open("rb") as stream:
        return _is_tsv(path, stream.read(CHUNK).removeprefix(BOM).lstrip(BLANK))


def _read_object(stream: BinaryIO, source: Source) -> Iterator[RawRow | Rejected]:
    """Yield one object written over many lines. JSONL never begins with a line that is only a brace."""
    data = stream.read(_MAX_DOCUMENT_BYTES + 1)
    if len(data) > _MAX_DOCUMENT_BYTES:
        yield source.reject("FT-ROW-006", 1, 0, f"one object of more than {_MAX_DOCUMENT_BYTES} bytes", raw="{")
        return
    body = data.removeprefix(BOM)
    blank = len(data) - len(body.lstrip(BLANK))
    yield decode_row(source, 1 + data.count(b"\n", 0, blank), blank, body.strip(BLANK), whole=False)


def _is_tsv(path: Path, start: bytes) -> bool:
    """Return whether a file is TSV: by its name, or when each of its first lines has the same number of tabs."""
    if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".tsv"):
        return True
    lines = [line for line in start.split(b"\n")[:20] if line.strip(BLANK)]
    if len(start) >= CHUNK and len(lines) > 1:
        lines.pop()
    tabs = {line.count(b"\t") for line in lines}
    return len(tabs) == 1 and tabs.pop() in (1, 2, 3)


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
