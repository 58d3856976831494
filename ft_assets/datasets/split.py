"""One data set's records, written out by split. Columns and order are those of the records."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from expectations.splits import QUARANTINED, SPLITS
from ft_assets.datasets.clean import ID_COLUMN, RECORD_TYPES
from ft_assets.datasets.deal import Dealt
from resources.parquet import TableWriter, read_rows, schema_of


def split_file(split: str) -> str:
    """`train` -> `train.parquet`."""
    return f"{split}.parquet"


def write_splits(dataset: str, records: Path, ledger: dict[tuple[str, str], Dealt], folder: Path) -> dict[str, Any]:
    """records.parquet -> train, validation and test.parquet below `folder`; returns counts by split and stratum."""
    schema = schema_of(RECORD_TYPES[dataset])
    strata: dict[str, dict[str, Counter[str]]] = {"difficulty": {}, "language": {}}
    quarantined = 0
    with ExitStack() as stack:
        tables = {s: stack.enter_context(TableWriter(folder / split_file(s), schema)) for s in SPLITS}
        for row in read_rows(records):
            split = ledger[(dataset, row[ID_COLUMN[dataset]])].split
            if split == QUARANTINED:
                quarantined += 1
                continue
            tables[split].add(row)
            for stratum, counts in strata.items():
                if stratum in row:
                    counts.setdefault(row[stratum] or "not stated", Counter())[split] += 1
    return {
        **{split: table.rows for split, table in tables.items()},
        "quarantined": quarantined,
        **{f"by_{stratum}": {k: dict(v) for k, v in sorted(counts.items())} for stratum, counts in strata.items()},
    }
