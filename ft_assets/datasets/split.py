"""Write the records of one data set by split, in their order and with their columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.datasets.assign_splits import Assignment
from ft_assets.datasets.dataset import DataSet
from ft_assets.datasets.summaries import SplitsSummary
from resources.parquet import TableWriter, arrow_schema, read_rows

STRATA = ("source", "difficulty", "language")
"""Columns by which the shares of the splits are compared; a data set may lack some of them."""


def split_file(split: str) -> str:
    """Return the name of a split's file: `train` -> `train.parquet`."""
    return f"{split}.parquet"


def write_splits(
    dataset: DataSet,
    records: Path,
    ledger: Mapping[tuple[str, str], Assignment],
    folder: Path,
    *,
    configured: bool,
) -> SplitsSummary:
    """Write train, validation and test.parquet below `folder`; return the summary."""
    schema = arrow_schema(dataset.record)
    strata = {field: defaultdict[str, Stratum](Stratum) for field in STRATA if field in schema.names}
    quarantined = 0
    with ExitStack() as stack:
        tables = {s: stack.enter_context(TableWriter(folder / split_file(s), schema)) for s in SPLITS}
        for row in read_rows(records):
            assignment = ledger[dataset.id_of(row)]
            if assignment.split == QUARANTINED:
                quarantined += 1
                continue
            tables[assignment.split].add(row)
            for field, by_value in strata.items():
                by_value[row[field] or "not stated"].add(assignment)
    return SplitsSummary(
        configured=configured,
        **{split: table.rows for split, table in tables.items()},
        quarantined=quarantined,
        strata={field: _summaries(by_value) for field, by_value in strata.items()},
    )


class Stratum:
    """The records of one source, difficulty or language, counted by split and by cluster."""

    def __init__(self) -> None:
        self._splits: Counter[str] = Counter()
        self._clusters: Counter[str] = Counter()

    def add(self, assignment: Assignment) -> None:
        """Count one record."""
        self._splits[assignment.split] += 1
        self._clusters[assignment.cluster] += 1

    def summary(self) -> dict[str, int | float]:
        """Return the records by split, and `draws`: the number of equally large clusters that would vary as much."""
        squares = sum(size * size for size in self._clusters.values())
        return {**{split: self._splits[split] for split in SPLITS}, "draws": self._splits.total() ** 2 / squares}


def _summaries(strata: Mapping[str, Stratum]) -> dict[str, dict[str, int | float]]:
    return {name: stratum.summary() for name, stratum in sorted(strata.items())}
