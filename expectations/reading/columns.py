"""Rows of Parquet files and of folders that the `datasets` library wrote, through pyarrow (extra `parquet`)."""
# pyright: basic
# pyarrow has no type information.

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expectations.reading.rows import RawRow, Rejected, Source, Unreadable
from expectations.reading.streams import require_arrow

FORMAT_KEY, VERSION_KEY = b"ft_assets.format", b"ft_assets.version"
"""Metadata of a Parquet file: the record format of its rows, and its version."""

_BATCH = 1000
_FOLDER_SIGNS = ("dataset_info.json", "dataset_dict.json")


def is_dataset_folder(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the `datasets` library."""
    return path.is_dir() and any((path / sign).is_file() for sign in _FOLDER_SIGNS)


def read_parquet(source: Source) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a Parquet file; `line` is the row's number from 1. It is first decoded once to find damage."""
    pa = require_arrow("a Parquet file")
    import pyarrow.parquet as pq

    columns = _FilledColumns()
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                columns.add(batch)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable("FT-ROW-008", f"the Parquet file is not complete: {_short(error)}") from error
    with pq.ParquetFile(source.path) as file:
        metadata = file.schema_arrow.metadata or {}
        version = metadata.get(VERSION_KEY, b"").decode()
        stamp = {"format_version": int(version)} if version.isdigit() else {}
        yield from _rows(source, file.schema_arrow, file.iter_batches(batch_size=_BATCH), columns.empty() | stamp)


def read_folder(source: Source) -> Iterator[RawRow | Rejected]:
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
    line = 0
    for file in files:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
            for row in _rows(source, reader.schema, _sliced(reader), columns.empty(), first=line):
                line = row.line
                yield row


class _FilledColumns:
    """The columns that hold a value in some row. There, a null is a key that the row does not have: a table fills up
    rows of several shapes. A column of only nulls is a key of every row, as `null` is in JSON: it is a mark of the
    file's dialect."""

    def __init__(self) -> None:
        self._columns: dict[str, bool] = {}

    def add(self, batch: Any) -> None:
        """Note which columns of a batch hold a value; ArrowException when it is damaged."""
        batch.validate(full=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._columns[name] = self._columns.get(name, False) or column.null_count < len(column)

    def empty(self) -> dict[str, None]:
        """Return the columns of only nulls, as keys of every row."""
        return {name: None for name, held in self._columns.items() if not held}


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
    source: Source, schema: Any, batches: Any, everywhere: dict[str, Any], *, first: int = 0
) -> Iterator[RawRow | Rejected]:
    has_floats = any("float" in str(field.type) or "double" in str(field.type) for field in schema)
    line = first
    for batch in batches:
        for cells in batch.to_pylist():
            line += 1
            value = {key: cell for key, cell in cells.items() if cell is not None} | everywhere
            row = RawRow(line, -1, value)
            if has_floats and (path := _find_nan(value, "$")):
                yield source.reject("FT-ROW-004", line, -1, f"found NaN or infinity at {path}", raw=row.raw, path=path)
            else:
                yield row


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
