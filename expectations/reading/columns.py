"""Rows of Parquet files and of folders that the `datasets` library wrote, through pyarrow (extra `parquet`)."""
# pyright: basic
# pyarrow has no type information.

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from expectations.reading.rows import RawRow, Rejected, Source, Unreadable, escape
from expectations.reading.streams import require_arrow

FORMAT_KEY, VERSION_KEY = b"ft_assets.format", b"ft_assets.version"
"""Metadata of a Parquet file: the record format of its rows, and its version."""

_BATCH = 1000
_BATCH_BYTES = 128 << 20
"""Rows are read in batches of at most about so many bytes, whatever the file says."""
_MAX_COLUMNS = 2000
_MAX_RATIO = 400  # of a file's bytes to those in its pages: see streams.py
_MAX_ROW_BYTES = 128 << 20
_DECODED_MATTERS_FROM = 1 << 30
_MAX_DECODED_RATIO = 5000  # a text that every row repeats is stored once
_RATIO_MATTERS_FROM = 64 << 20  # bytes
_ROWS_A_BYTE = 100  # a column of nulls or of one value takes next to nothing
_ROWS_MATTER_FROM = 4_000_000
_FOLDER_SIGNS = ("dataset_info.json", "dataset_dict.json")


def is_dataset_folder(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the `datasets` library."""
    return path.is_dir() and any((path / sign).is_file() for sign in _FOLDER_SIGNS)


def read_parquet(source: Source, max_row_bytes: int) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a Parquet file; `line` is the row's number from 1. It is first decoded once to find damage.

    Before that, its metadata tells whether it is a bomb: a file of 30 kB may hold gigabytes.
    """
    pa = require_arrow("a Parquet file")
    import pyarrow.parquet as pq

    columns = _FilledColumns()
    size, decoded = source.path.stat().st_size, 0
    try:
        with pq.ParquetFile(source.path) as file:
            rows = _refuse_bomb(file.metadata, source.path)
            for batch in file.iter_batches(batch_size=rows):
                columns.add(batch)
                decoded += _decoded_bytes(batch)
                if decoded > max(_DECODED_MATTERS_FROM, size * _MAX_DECODED_RATIO):
                    raise Unreadable("FT-ROW-010", f"{size} bytes unpack to more than {decoded}")
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("FT-ROW-008", f"the Parquet file is not complete: {_short(error)}") from error
    columns.refuse_bytes()
    with pq.ParquetFile(source.path) as file:
        metadata = file.schema_arrow.metadata or {}
        version = metadata.get(VERSION_KEY, b"").decode("utf-8", "replace")
        stamp = {"format_version": int(version)} if version.isdecimal() and len(version) < 10 else {}
        batches = file.iter_batches(batch_size=rows)
        yield from _rows(source, file.schema_arrow, batches, columns.empty() | stamp, max_row_bytes)


def _refuse_bomb(metadata: Any, path: Path) -> int:
    """Return the number of rows to read at a time; Unreadable (FT-ROW-010) for a file that grows out of proportion."""
    size = path.stat().st_size
    if metadata.num_columns > _MAX_COLUMNS:
        raise Unreadable("FT-ROW-010", f"it has {metadata.num_columns} columns, more than {_MAX_COLUMNS} are not read")
    if metadata.num_rows > max(_ROWS_MATTER_FROM, size * _ROWS_A_BYTE):
        raise Unreadable("FT-ROW-010", f"{size} bytes say that they are {metadata.num_rows} rows")
    unpacked = written_out = 0
    longest_row = 0.0
    with path.open("rb") as stream:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            row = 0.0
            for place in range(group.num_columns):
                chunk = group.column(place)
                unpacked += chunk.total_uncompressed_size
                if words := _read_dictionary_size(stream, chunk):
                    written_out += chunk.num_values * words.mean
                    row += chunk.num_values / max(1, group.num_rows) * words.longest
            longest_row = max(longest_row, row)
    limits = ((unpacked, _RATIO_MATTERS_FROM, _MAX_RATIO), (written_out, _DECODED_MATTERS_FROM, _MAX_DECODED_RATIO))
    for amount, from_bytes, ratio in limits:
        if amount > max(from_bytes, size * ratio):
            raise Unreadable("FT-ROW-010", f"{size} bytes unpack to {amount:.0f}")
    if longest_row > _MAX_ROW_BYTES:
        raise Unreadable("FT-ROW-010", f"one row of it may have {longest_row:.0f} bytes, the file has {size}")
    return max(1, min(_BATCH, int(_BATCH_BYTES / max(1, longest_row))))


class _Dictionary(NamedTuple):
    """The texts that the rows of a column refer to, in bytes: one that every row repeats is stored once."""

    mean: float
    longest: float
    """At most 64 times the mean: a few long texts among many short ones are not what most rows repeat."""


def _read_dictionary_size(stream: BinaryIO, chunk: Any) -> _Dictionary | None:
    """Return the size of the texts in a column's dictionary page; None without one.

    It is in the page's header, and not in the file's metadata. The header is written in Thrift's compact protocol:
    type of the page, its size unpacked and packed, perhaps a checksum, and a struct that begins with the number of
    texts.
    """
    if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page or chunk.dictionary_page_offset is None:
        return None
    stream.seek(chunk.dictionary_page_offset)
    header = _PAGE_HEADER.match(stream.read(48))
    if header is None:  # no writer that is known here: assume the worst
        return _Dictionary(chunk.total_uncompressed_size, chunk.total_uncompressed_size)
    size, count = _zigzag(header["size"]), max(1, _zigzag(header["count"]))
    return _Dictionary(size / count, min(size, 64 * size / count))


_PAGE_HEADER = re.compile(
    rb"\x15.\x15(?P<size>[\x80-\xff]*[\x00-\x7f])\x15[\x80-\xff]*[\x00-\x7f]"
    rb"(?:\x15[\x80-\xff]*[\x00-\x7f]\x3c|\x4c)\x15(?P<count>[\x80-\xff]*[\x00-\x7f])",
    re.DOTALL,
)


def _zigzag(data: bytes) -> int:
    """Return the positive number of a variable-length integer."""
    return sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(data)) >> 1


def read_folder(source: Source, max_row_bytes: int) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a saved Dataset, or of every split of a saved DatasetDict, numbered from 1 across all."""
    pa = require_arrow("a folder of the datasets library")
    files = list(_arrow_files(source.path))
    columns = _FilledColumns()
    try:
        for file in files:
            with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
                for batch in reader:
                    columns.add(batch)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("FT-ROW-008", f"{file.name} is damaged: {_short(error)}") from error
    columns.refuse_bytes()
    line = 0
    for file in files:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
            for row in _rows(source, reader.schema, _sliced(reader), columns.empty(), max_row_bytes, first=line):
                line = row.line
                yield row


class _FilledColumns:
    """The columns that hold a value in some row. There, a null is a key that the row does not have: a table fills up
    rows of several shapes. A column of only nulls is a key of every row, as `null` is in JSON: it is a mark of the
    file's dialect."""

    def __init__(self) -> None:
        self._columns: dict[str, bool] = {}
        self._bytes: dict[str, str] = {}

    def add(self, batch: Any) -> None:
        """Note which columns of a batch hold a value; ArrowException when it is damaged."""
        batch.validate(full=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._columns[name] = self._columns.get(name, False) or column.null_count < len(column)
            if name not in self._bytes and _holds_bytes(column):
                self._bytes[name] = str(column.type)[:80]

    def refuse_bytes(self) -> None:
        """Refuse columns with images or other bytes in them (Unreadable FT-ROW-020): no record has a place for them."""
        if self._bytes:
            names = ", ".join(f"`{escape(name)}` ({kind})" for name, kind in self._bytes.items())
            raise Unreadable("FT-ROW-020", f"found bytes or images in {names}, and no text")

    def empty(self) -> dict[str, None]:
        """Return the columns of only nulls, as keys of every row."""
        return {name: None for name, held in self._columns.items() if not held}


def _holds_bytes(column: Any) -> bool:
    """Return whether a column has bytes in some row, or files as `datasets` stores images: bytes, or a path to them."""
    from pyarrow import types

    kind = column.type
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return column.null_count < len(column)
    if types.is_dictionary(kind):
        return _holds_bytes(column.dictionary)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _holds_bytes(column.flatten())
    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        if names == {"bytes", "path"}:
            return any(part.null_count < len(part) for part in column.flatten())
        return any(_holds_bytes(part) for part in column.flatten())
    return False


def _arrow_files(folder: Path) -> Iterator[Path]:
    """Yield the data files of a saved Dataset or DatasetDict, as its state.json lists them."""
    splits = folder / "dataset_dict.json"
    try:
        if splits.is_file():
            for split in json.loads(splits.read_text("utf-8"))["splits"]:
                yield from _arrow_files(folder / split)
            return
        for entry in json.loads((folder / "state.json").read_text("utf-8"))["_data_files"]:
            yield folder / entry["filename"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable("FT-ROW-008", f"the dataset folder is not complete: {_short(error)}") from error


def _sliced(reader: Any) -> Iterator[Any]:
    for batch in reader:
        for start in range(0, batch.num_rows, _BATCH):
            yield batch.slice(start, _BATCH)


def _rows(
    source: Source, schema: Any, batches: Any, everywhere: dict[str, Any], max_row_bytes: int, *, first: int = 0
) -> Iterator[RawRow | Rejected]:
    has_floats = any("float" in str(field.type) or "double" in str(field.type) for field in schema)
    line = first
    for cells in chain.from_iterable(_short_rows(batch, max_row_bytes) for batch in batches):
        line += 1
        if cells is None:
            yield source.reject("FT-ROW-006", line, -1, f"longer than {max_row_bytes} bytes", raw="")
            continue
        value = {key: cell for key, cell in cells.items() if cell is not None} | everywhere
        row = RawRow(line, -1, value)
        if has_floats and (path := _find_nan(value, "$")):
            yield source.reject("FT-ROW-004", line, -1, f"found NaN or infinity at {path}", raw=row.raw, path=path)
        else:
            yield row


def _decoded_bytes(batch: Any) -> int:
    """Return the size of a batch in which every text of a dictionary is written out where it is repeated."""
    from pyarrow import compute, types

    size = 0
    for column in batch.columns:
        if types.is_dictionary(column.type) and types.is_string(column.type.value_type):
            lengths = compute.take(compute.call_function("binary_length", [column.dictionary]), column.indices)
            size += compute.call_function("sum", [lengths]).as_py() or 0
        else:
            size += column.nbytes
    return size


def _short_rows(batch: Any, max_row_bytes: int) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a batch; None for one that is longer than allowed."""
    if _decoded_bytes(batch) <= max_row_bytes:
        yield from batch.to_pylist()
        return
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        yield None if _decoded_bytes(row) > max_row_bytes else row.to_pylist()[0]


def _find_nan(value: Any, path: str) -> str:
    """Return the JSON path of the first NaN or infinite number; empty without one."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else path
    if isinstance(value, dict):
        inner = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{n}]", item) for n, item in enumerate(value))
    else:
        return ""
    return next((found for name, item in inner if (found := _find_nan(item, name))), "")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
