"""The split ledger: the split of every record of every data set. Rows are added, never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.splits import QUARANTINED, SPLITS
from expectations.violations import Refused, violation
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import (
    Assignment,
    Assignments,
    Bridge,
    RecordKeys,
    assign_splits,
    cluster_key,
    question_form,
)
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS, DataSet
from ft_assets.datasets.duplicate_lists import DUPLICATES, ListedRecord, read_families
from ft_assets.datasets.passage_index import PassageIndex, document_of, read_index
from ft_assets.datasets.summaries import LedgerSummary
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import TableWriter, arrow_schema, column_names, read_rows, write_table

LEDGER = "ledger.parquet"
ASSET = "split_ledger"
JUDGING_SETTINGS = {"contamination", "templates", "max_contaminated_share"}
"""Split settings that assign no record: they decide which held-out records are left out of the files."""
_FIX_BRIDGE = "give it evidence and a question of one split, or leave it out"


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ledger.parquet."""

    dataset: str
    record_id: str
    cluster: str
    split: str
    """`train`, `validation`, `test`, or `quarantined`."""
    first_seen: str
    """Recipe of the ledger version that added the row."""


def previous_ledger(store: ArtifactStore, key: str) -> Artifact | None:
    """Return the newest ledger with this `datasets.split.key`; the current one where it has that key.

    A damaged ledger is refused (FT-ART-003, FT-ART-007), and one of a newer product version (FT-ART-008): if it were
    computed again, records would change their split without notice.
    """
    store.refuse_untrusted_current(ASSET)
    current = store.current(ASSET)
    # the current one may have another key: it was changed, or changed back
    candidates = [*([current] if current else []), *store.versions(ASSET)]
    ledger = next((ledger for ledger in candidates if ledger.manifest.recipe.settings["key"] == key), None)
    if ledger is None:
        return None
    if violations := ledger.verify():
        raise Refused(f"reading {ASSET}", violations)
    if unknown := {name for name, _ in column_names(ledger.file(LEDGER))} - {*LedgerRow.__struct_fields__}:
        where = str(ledger.path / LEDGER)
        newer = violation("FT-ART-008", where=where, field="columns", found=sorted(unknown), expected="none of these")
        raise Refused(f"reading {ASSET}", [newer])
    return ledger


def read_ledger(ledger: Artifact) -> dict[tuple[str, str], Assignment]:
    """Return (data set, record id) -> assignment."""
    return {
        (row["dataset"], row["record_id"]): Assignment(row["cluster"], row["split"])
        for row in read_rows(ledger.file(LEDGER))
    }


def read_record_keys(
    store: ArtifactStore, settings: SplitSettings, families: Mapping[str, Sequence[str]]
) -> list[RecordKeys]:
    """Return every record of all data sets with the keys that two splits may not share.

    `families`: those of lists of duplicates (`listed_families`).
    """
    index = read_index(store.require("passages"))
    return [_record_keys(dataset, row, index, families, settings) for dataset, row in _read_records(store)]


def listed_families(ledger: Artifact) -> dict[str, list[str]]:
    """Return record id -> the keys of its families in the lists of duplicates that a ledger was made with."""
    return read_families(ledger.file(DUPLICATES)) if DUPLICATES in ledger.manifest.files else {}


def record_ids(store: ArtifactStore) -> Iterator[tuple[str, str]]:
    """Yield (data set, record id) of every record."""
    for dataset in DATASETS:
        for row in read_rows(store.require(dataset.records).file(RECORDS), [dataset.id_column]):
            yield dataset.id_of(row)


def write_ledger(
    store: ArtifactStore,
    settings: SplitSettings,
    before: Artifact | None,
    recipe_id: str,
    folder: Path,
    *,
    listed: Iterable[ListedRecord] | None = None,
) -> LedgerSummary:
    """Write the rows of the ledger before and those of new records below `folder`; return the summary.

    Files: ledger.parquet and quarantine.jsonl; duplicates.parquet where there are lists of duplicates (`listed`).
    """
    known = read_ledger(before) if before else {}
    rows = 0 if listed is None else write_table(folder / DUPLICATES, arrow_schema(ListedRecord), listed)
    families = read_families(folder / DUPLICATES)
    result = assign_splits(read_record_keys(store, settings, families), known, settings)
    counts: dict[str, Counter[str]] = {dataset.name: Counter() for dataset in DATASETS}
    clusters: set[str] = set()
    with TableWriter(folder / LEDGER, arrow_schema(LedgerRow)) as table:
        for row in _ledger_rows(before, result, recipe_id):
            table.add(row)
            counts[row.dataset][row.split] += 1
            clusters.add(row.cluster)
    rejected = list(read_quarantine(before.file(QUARANTINE))) if before else []
    rejected += _reject_bridges(store, result.bridges)
    write_quarantine(folder / QUARANTINE, rejected)
    return LedgerSummary(
        records=table.rows,
        new=table.rows - len(known),
        clusters=len(clusters - {""}),
        quarantined=len(rejected),
        splits={name: {split: count[split] for split in SPLITS} for name, count in counts.items()},
        listed=rows,
    )


def unknown_listed_ids(store: ArtifactStore) -> list[tuple[str, str]]:
    """Return (file:line, id) of the rows in lists of duplicates that name no record."""
    ledger = store.require(ASSET)
    if DUPLICATES not in ledger.manifest.files:
        return []
    known = {record_id for _, record_id in record_ids(store)}
    rows = read_rows(ledger.file(DUPLICATES))
    return [(f"{row['source']}:{row['line_no']}", row["record_id"]) for row in rows if row["record_id"] not in known]


def unknown_evidence(store: ArtifactStore) -> list[tuple[str, str, str]]:
    """Return (data set, record id, name) of evidence that the corpus does not have."""
    index = read_index(store.require("passages"))
    unknown: list[tuple[str, str, str]] = []
    for dataset, row in _read_records(store):
        unknown += [(*dataset.id_of(row), name) for name in row[dataset.evidence] if not index.resolve(name)]
    return unknown


def _read_records(store: ArtifactStore) -> Iterator[tuple[DataSet, Mapping[str, Any]]]:
    """Yield every record of all data sets, with the columns that decide its split."""
    for dataset in DATASETS:
        columns = [dataset.id_column, dataset.question, dataset.evidence, *([dataset.group] if dataset.group else [])]
        for row in read_rows(store.require(dataset.records).file(RECORDS), columns):
            yield dataset, row


def _record_keys(
    dataset: DataSet,
    row: Mapping[str, Any],
    index: PassageIndex,
    families: Mapping[str, Sequence[str]],
    settings: SplitSettings,
) -> RecordKeys:
    key = dataset.id_of(row)
    evidence: list[str] = row[dataset.evidence]
    keys: list[str] = []
    if "document" in settings.group_by:
        keys += [f"document:{document_of(name, index)}" for name in evidence]
    if "passage" in settings.group_by:
        keys += [f"passage:{index.section(name)}" for name in evidence]
    if group := row.get(dataset.group):
        keys.append(f"group:{group}")
    keys += families.get(key[1], ())
    question = question_form(row[dataset.question]) if "question" in settings.group_by else ""
    if question:
        keys.append(cluster_key(question))
    return RecordKeys(*key, tuple(dict.fromkeys(keys)) or (f"record:{':'.join(key)}",), question)


def _ledger_rows(before: Artifact | None, result: Assignments, recipe_id: str) -> Iterator[LedgerRow]:
    """Yield the rows of the ledger before, then those of new records and of new bridges."""
    for row in read_rows(before.file(LEDGER)) if before else ():
        yield LedgerRow(**row)
    for key, assignment in sorted(result.by_id.items()):
        yield _ledger_row(key, assignment, recipe_id)
    for bridge in sorted(result.bridges, key=lambda bridge: bridge.record.id):
        yield _ledger_row(bridge.record.id, Assignment("", QUARANTINED), recipe_id)


def _ledger_row(key: tuple[str, str], assignment: Assignment, recipe_id: str) -> LedgerRow:
    dataset, record_id = key
    return LedgerRow(
        dataset=dataset,
        record_id=record_id,
        cluster=assignment.cluster,
        split=assignment.split,
        first_seen=recipe_id,
    )


def _reject_bridges(store: ArtifactStore, bridges: Sequence[Bridge]) -> list[Rejected]:
    """Return a quarantine line for each record that would join two splits (FT-SPLIT-001)."""
    places = _places(store, {bridge.record.id for bridge in bridges})
    rejected: list[Rejected] = []
    for bridge in bridges:
        file, line = places[bridge.record.id]
        dataset, record_id = bridge.record.id
        touches = " and ".join(f"{split} (by {key})" for split, key in bridge.touches)
        reason = f"{dataset} record {record_id} belongs to {touches}: it would join two splits."
        rejected.append(set_aside("FT-SPLIT-001", file, line, reason, _FIX_BRIDGE, raw=bridge.record.question))
    return rejected


def _places(store: ArtifactStore, keys: set[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
    """Return (data set, record id) -> (file, line) of these records."""
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for dataset in DATASETS if keys else ():
        columns = [dataset.id_column, "source", "line_no"]
        for row in read_rows(store.require(dataset.records).file(RECORDS), columns):
            if (key := dataset.id_of(row)) in keys:
                places[key] = (row["source"], row["line_no"])
    return places
