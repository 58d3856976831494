from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from resources.parquet import column_names, read_rows, row_count, schema_of, write_table


class Row(msgspec.Struct):
    name: str
    grade: int
    score: float | None
    tags: list[str]


def test_rows_come_back_in_order_and_in_row_groups(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    rows = [Row(f"行{n}", n, None if n % 2 else n / 2, ["标", str(n)]) for n in range(25_000)]
    assert write_table(path, schema_of(Row), rows) == row_count(path) == 25_000
    assert pq.ParquetFile(path).num_row_groups == 3
    assert list(read_rows(path)) == [msgspec.structs.asdict(row) for row in rows]
    assert next(iter(read_rows(path, ["grade"]))) == {"grade": 0}


def test_an_empty_table_keeps_its_columns(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    assert write_table(path, schema_of(Row), []) == 0
    assert column_names(path) == [
        ("name", "string"),
        ("grade", "int64"),
        ("score", "double"),
        ("tags", "list<element: string>"),
    ]
    assert list(read_rows(path)) == []
