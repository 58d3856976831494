from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from resources.parquet import arrow_schema, column_names, read_rows, row_count, write_table


class Row(msgspec.Struct):
    name: str
    grade: int
    score: float | None
    tags: list[str]


def test_rows_are_read_in_order_and_in_row_groups(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    rows = [Row(f"行{n}", n, None if n % 2 else n / 2, ["标", str(n)]) for n in range(25_000)]
    assert write_table(path, arrow_schema(Row), rows) == row_count(path) == 25_000
    assert pq.ParquetFile(path).num_row_groups == 3
    assert list(read_rows(path)) == [msgspec.structs.asdict(row) for row in rows]
    assert next(iter(read_rows(path, ["grade"]))) == {"grade": 0}


def test_an_empty_table_keeps_its_columns(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    assert write_table(path, arrow_schema(Row), []) == 0
    assert column_names(path) == [
        ("name", "string"),
        ("grade", "int64"),
        ("score", "double"),
        ("tags", "list<element: string>"),
    ]
    assert list(read_rows(path)) == []


def test_only_columns_with_repeated_values_get_a_dictionary(tmp_path: Path):
    write_table(tmp_path / "rows.parquet", arrow_schema(Row), (Row(f"name {n}", n % 3, None, []) for n in range(100)))
    group = pq.ParquetFile(tmp_path / "rows.parquet").metadata.row_group(0)
    encodings = {group.column(n).path_in_schema: group.column(n).encodings for n in range(group.num_columns)}
    assert {name for name, found in encodings.items() if "RLE_DICTIONARY" in found} == {"grade", "score"}
