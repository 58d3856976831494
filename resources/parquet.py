"""Streams of rows into and out of Parquet: bounded memory whatever the size of the table."""
# pyright: basic
# pyarrow has no type information.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Self, cast, overload

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

Row = Mapping[str, object] | msgspec.Struct
Tables = Path | Sequence[Path]
"""A table in one file, or in several with the same columns, one after the other."""
_BATCH = 500  # rows that are converted to Arrow at once, while they are still in the processor's cache
_ROW_GROUP = 10_000
BLOCK = 4096
"""Rows of a block of `column_blocks`."""


class TableWriter:
    """Writes rows (mappings, or Structs with the schema's fields) in row groups of 10,000. Use as a context."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._path = path
        self._packed = 0
        self._schema = schema
        self._pending: list[Row] = []
        self._batches: list[pa.RecordBatch] = []
        self._nested = [_holds_structs(field.type) for field in schema]
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self.extend((row,))

    def extend(self, rows: Iterable[Row]) -> None:
        self._pending.extend(rows)
        if len(self._pending) >= _BATCH:
            self._pack()
            if len(self._batches) * _BATCH >= _ROW_GROUP:
                self._flush()

    @property
    def rows(self) -> int:
        """Number of rows that were added."""
        return self._packed + len(self._pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pack()
        self._flush()
        if self._writer:
            self._writer.close()

    def _open(self, first: pa.Table) -> pq.ParquetWriter:
        """Open a writer, with a dictionary for the columns that repeat values in the first rows; elsewhere it costs."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        plain = [field.name for field in self._schema if not pa.types.is_nested(field.type)]
        repeated: Any = [name for name in plain if 2 * len(first[name].unique()) <= len(first)]
        return pq.ParquetWriter(self._path, self._schema, compression="zstd", use_dictionary=repeated)

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_batches(self._batches, self._schema)
        self._writer = self._writer or self._open(table)
        if len(table):
            self._writer.write_table(table)
            self._batches.clear()

    def _pack(self) -> None:
        import pyarrow as pa

        if not self._pending:
            return
        # column by column, which Arrow takes several times faster than row by row
        names: list[str] = self._schema.names
        first = self._pending[0]
        if isinstance(first, msgspec.Struct) and list(first.__struct_fields__) == names:
            structs = cast("list[msgspec.Struct]", self._pending)
            cells = zip(*map(msgspec.structs.astuple, structs), strict=True)
        else:
            rows = [msgspec.structs.asdict(r) if isinstance(r, msgspec.Struct) else r for r in self._pending]
            cells = ([row.get(name) for row in rows] for name in names)
        arrays = [
            pa.array(msgspec.to_builtins(column) if nested else column, kind)
            for column, kind, nested in zip(cells, self._schema.types, self._nested, strict=True)
        ]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._packed += len(self._pending)
        self._pending.clear()


def _holds_structs(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and _holds_structs(kind.value_type))


def write_table(path: Path, schema: Any, rows: Iterable[Row]) -> int:
    """Write all `rows` and return their number."""
    with TableWriter(path, schema) as writer:
        for row in rows:
            writer.add(row)
    return writer.rows


def open_tables(tables: Tables) -> Iterator[pq.ParquetFile]:
    """Yield each file of a table, opened; it is closed when the next one is asked for."""
    import pyarrow.parquet as pq

    for path in [tables] if isinstance(tables, Path) else tables:
        with pq.ParquetFile(path) as file:
            yield file


def table_batches(tables: Tables, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield a table in order as record batches of at most so many rows; no batch holds rows of two files."""
    for file in open_tables(tables):
        yield from file.iter_batches(batch_size=rows, columns=list(columns) if columns else None)


def read_rows(tables: Tables, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table in order; a row group at a time is read."""
    for batch in table_batches(tables, _ROW_GROUP, columns):
        yield from batch.to_pylist()


def read_columns(tables: Tables, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return some columns of a table as Python lists; the others are not read."""
    table = _read(tables, names)
    return {name: table.column(name).to_pylist() for name in names}


def _read(tables: Tables, names: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([file.read(columns=list(names)) for file in open_tables(tables)])


class TextColumn(Sequence[str]):
    """A column of texts as Arrow holds it, a fifth of the memory of Python strings. Its items are made when read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        import pyarrow as pa

        self._texts: pa.Array = column.cast(pa.large_string()).combine_chunks()

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return self._texts.take(list(range(*item.indices(len(self))))).to_pylist()
        return self._texts[item].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROW_GROUP):
            yield from self._texts.slice(start, _ROW_GROUP).to_pylist()


def text_column(tables: Tables, name: str) -> TextColumn:
    """Return a column of texts of a table."""
    return TextColumn(_read(tables, [name]).column(name))


def column_blocks(tables: Tables, names: Sequence[str]) -> Iterator[list[pa.Array]]:
    """Yield these columns in blocks of `BLOCK` rows (the last one shorter), wherever row groups and files end."""
    import pyarrow as pa

    def columns(table: pa.Table) -> list[pa.Array]:
        combined = [table.column(name).combine_chunks() for name in names]
        return [column.chunk(0) if isinstance(column, pa.ChunkedArray) else column for column in combined]

    pending: list[pa.RecordBatch] = []
    for batch in table_batches(tables, BLOCK, names):
        pending.append(batch)
        while sum(map(len, pending)) >= BLOCK:
            table = pa.Table.from_batches(pending)
            yield columns(table.slice(0, BLOCK))
            pending = table.slice(BLOCK).to_batches()
    if any(map(len, pending)):
        yield columns(pa.Table.from_batches(pending))


def distinct_texts(tables: Tables, column: str) -> Iterator[list[str]]:
    """Yield the distinct texts of a column, a block at a time."""
    for (texts,) in column_blocks(tables, [column]):
        yield texts.unique().to_pylist()


class IdKeys:
    """Ids as 64-bit keys, 8 bytes each, to see whether one is used twice."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []

    def add(self, ids: pa.Array) -> None:
        from pandas.util import hash_array

        self._keys.append(hash_array(ids.to_numpy(zero_copy_only=False), categorize=False))

    def are_unique(self) -> bool:
        """Return True if every id was added once. False may also mean that two ids have one key: look closer then."""
        import numpy as np

        keys = np.sort(np.concatenate([np.empty(0, np.uint64), *self._keys]))
        return not (keys[1:] == keys[:-1]).any()


def has_unique_ids(tables: Tables, name: str) -> bool:
    """Return True if no id of this column is used twice. False may also mean that two ids have one key."""
    keys = IdKeys()
    for (ids,) in column_blocks(tables, [name]):
        keys.add(ids)
    return keys.are_unique()


def row_count(tables: Tables) -> int:
    """Return the number of rows of a table, from the footers of its files."""
    return sum(file.metadata.num_rows for file in open_tables(tables))


def arrow_schema(struct: type[msgspec.Struct]) -> Any:
    """Return the Arrow schema of a Struct: str, int, float, bool, Structs, lists; `| None` makes a field nullable."""
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}

    def arrow(kind: Any) -> pa.DataType:
        if getattr(kind, "__origin__", None) is list:
            return pa.list_(arrow(kind.__args__[0]))
        return plain[kind] if kind in plain else pa.struct(arrow_schema(kind))

    fields = []
    for field in msgspec.structs.fields(struct):
        kinds = [kind for kind in getattr(field.type, "__args__", ()) if kind is not NoneType]
        nullable = len(kinds) < len(getattr(field.type, "__args__", ()))
        fields.append(pa.field(field.encode_name, arrow(kinds[0] if nullable else field.type), nullable=nullable))
    return pa.schema(fields)


def column_names(tables: Tables) -> list[tuple[str, str]]:
    """Return (name, type) of every column of a table."""
    return [(field.name, str(field.type)) for field in table_schema(tables)]


def table_schema(tables: Tables) -> pa.Schema:
    """Return the Arrow schema of a table."""
    return next(open_tables(tables)).schema_arrow


def sample_column(tables: Tables, column: str, most: int) -> list[str]:
    """Return every n-th text of a column, `most` of them at most."""
    texts: list[str] = []
    step = max(-(-row_count(tables) // most), 1)
    at = 0  # the row of the next text in its batch
    for batch in table_batches(tables, _ROW_GROUP, [column]):
        rows = range(at, len(batch), step)
        texts += batch.column(0).take(list(rows)).to_pylist() if rows else []
        at = (at + len(rows) * step) - len(batch)
    return texts
