"""One data set's records, written out by split. Columns and order are those of the records."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.datasets.assign_splits import Dealt
from ft_assets.datasets.clean import ID_COLUMN, RECORD_TYPES
from resources.parquet import TableWriter, arrow_schema, read_rows

STRATA = ("source", "difficulty", "language")
"""Columns by which the shares of the splits are looked at; a data set may lack some."""


def split_file(split: str) -> str:
    """`train` -> `train.parquet`."""
    return f"{split}.parquet"


def write_splits(dataset: str, records: Path, ledger: dict[tuple[str, str], Dealt], folder: Path) -> dict[str, Any]:
    """records.parquet -> train, validation and test.parquet below `folder`; returns counts by split and stratum."""
    schema = arrow_schema(RECORD_TYPES[dataset])
    strata = {field: defaultdict[str, Stratum](Stratum) for field in STRATA if field in schema.names}
    quarantined = 0
    with ExitStack() as stack:
        tables = {s: stack.enter_context(TableWriter(folder / split_file(s), schema)) for s in SPLITS}
        for row in read_rows(records):
            dealt = ledger[(dataset, row[ID_COLUMN[dataset]])]
            if dealt.split == QUARANTINED:
                quarantined += 1
                continue
            tables[dealt.split].add(row)
            for field, found in strata.items():
                found[row[field] or "not stated"].add(dealt)
    return {
        **{split: table.rows for split, table in tables.items()},
        "quarantined": quarantined,
        "strata": {
            field: {name: stratum.summary() for name, stratum in sorted(found.items())}
            for field, found in strata.items()
        },
    }


class Stratum:
    """Records of one source, difficulty or language: how many each split has, and how many draws dealt them."""

    def __init__(self) -> None:
        self._splits: Counter[str] = Counter()
        self._clusters: Counter[str] = Counter()

    def add(self, dealt: Dealt) -> None:
        self._splits[dealt.split] += 1
        self._clusters[dealt.cluster] += 1

    def summary(self) -> dict[str, float]:
        """Records by split, and `draws`: the number of equally large clusters that would scatter as much as these."""
        squares = sum(size * size for size in self._clusters.values())
        return {**{split: self._splits[split] for split in SPLITS}, "draws": self._splits.total() ** 2 / squares}
