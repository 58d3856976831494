"""The first rows of a data set on its page."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from ft_assets.corpus.assets import table_of


def test_a_wide_table_is_several_and_long_and_empty_values_are_short(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    row = {"record_id": "r", "question": "<img src=x>", "context": "x" * 900, "system": "", "history": None}
    row |= {f"extra_{n}": n + 1 for n in range(9)}
    pq.write_table(pa.Table.from_pylist([row] * 30), path)
    shown = table_of(path)
    tables = [value for name, value in shown.items() if name.startswith("first_rows")]
    assert len(tables) == 3
    for table in tables:
        assert isinstance(table, dg.TableMetadataValue)
        assert len(table.records) == 5 and len(table.records[0].data) <= 6
        assert table.records[0].data["record_id"] == "r"
    first = tables[0].records[0].data  # type: ignore[union-attr]
    assert first["question"] == "<img src=x>" and len(str(first["context"])) == 161
    assert not {"system", "history"} & first.keys()
    schema = shown["dagster/column_schema"].schema  # type: ignore[attr-defined]
    described = {column.name: column.description for column in schema.columns}
    assert described["question"] == "what is asked" and described["extra_0"] is None


def test_an_empty_file_has_columns_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"record_id": pa.array([], pa.string())}), path)
    assert list(table_of(path)) == ["dagster/column_schema"]
