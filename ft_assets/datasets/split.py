"""Write the records of one data set by split, in their order and with their columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.contamination import ContaminationHit
from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.datasets.assign_splits import Assignment
from ft_assets.datasets.dataset import DataSet
from ft_assets.datasets.summaries import SplitsSummary
from ft_assets.graph.quarantine import QUARANTINE
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
    left_out: Mapping[tuple[str, str], ContaminationHit],
    folder: Path,
    *,
    configured: bool,
) -> SplitsSummary:
    """Write train, validation and test.parquet below `folder`; return the summary.

    `left_out`: held-out records that training has seen. They are in no split but in quarantine.jsonl, which is written
    if there are any.
    """
    schema = arrow_schema(dataset.record)
    strata = {field: defaultdict[str, Stratum](Stratum) for field in STRATA if field in schema.names}
    quarantined = 0
    rejected: list[Rejected] = []
    with ExitStack() as stack:
        tables = {s: stack.enter_context(TableWriter(folder / split_file(s), schema)) for s in SPLITS}
        for row in read_rows(records):
            assignment = ledger[dataset.id_of(row)]
            if assignment.split == QUARANTINED:
                quarantined += 1
                continue
            if hit := left_out.get(dataset.id_of(row)):
                rejected.append(_reject(row, hit))
                continue
            tables[assignment.split].add(row)
            for field, by_value in strata.items():
                by_value[row[field] or "not stated"].add(assignment)
    if rejected:
        write_quarantine(folder / QUARANTINE, rejected)
    return SplitsSummary(
        configured=configured,
        **{split: table.rows for split, table in tables.items()},
        quarantined=quarantined,
        left_out=len(rejected),
        strata={field: _summaries(by_value) for field, by_value in strata.items()},
    )


def _reject(row: Mapping[str, Any], hit: ContaminationHit) -> Rejected:
    reason = f"training sees {hit.share:.0%} of {hit.held_out} in {hit.seen}: “{hit.common}”"
    fix = "nothing, or leave the row out of the files, or give both one `group` and new ids"
    return set_aside("FT-SPLIT-012", row["source"], row["line_no"], reason, fix, raw=hit.held_out.text)


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
