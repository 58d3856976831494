"""The split ledger: which split every record of every data set belongs to. Rows are added, never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from expectations.rules.splits import QUARANTINED, SPLITS
from expectations.violations import Refused
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import Bridge, Card, Dealt, deal, question_form, question_key
from ft_assets.datasets.clean import ID_COLUMN, RECORDS
from ft_assets.datasets.passage_index import PassageIndex, document_of, read_index, section_of
from ft_assets.graph import quarantine
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import TableWriter, arrow_schema, read_rows

LEDGER = "ledger.parquet"
ASSET = "split_ledger"
DATASETS = tuple(ID_COLUMN)
NOT_DEALT_BY = {"contamination", "templates"}
"""Split settings that judge the splits and deal nothing."""
_FIX = "give it evidence and a question of one split, or leave it out"


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ledger.parquet."""

    dataset: str
    record_id: str
    cluster: str
    split: str
    """`train`, `validation`, `test`, or `quarantined`."""
    first_seen: str
    """Recipe of the ledger version that dealt it."""


def previous_ledger(store: ArtifactStore, key: str) -> Artifact | None:
    """The newest whole ledger that was dealt under this key; the current one unless it is gone.

    A ledger that is damaged is refused (FT-ART-003), not dealt anew: records would move without a word.
    """
    current = store.current(ASSET)
    candidates = [current] if current else store.versions(ASSET)
    found = next((a for a in candidates if a.manifest.recipe.settings["key"] == key), None)
    if found is None:  # the key was changed, or changed back
        found = next((a for a in store.versions(ASSET) if a.manifest.recipe.settings["key"] == key), None)
    if found is not None and (violations := found.verify()):
        raise Refused(f"reading {ASSET}", violations)
    return found


def read_ledger(artifact: Artifact) -> dict[tuple[str, str], Dealt]:
    """(data set, record id) -> where it lies."""
    return {
        (row["dataset"], row["record_id"]): Dealt(row["cluster"], row["split"])
        for row in read_rows(artifact.file(LEDGER))
    }


def read_cards(store: ArtifactStore, settings: SplitSettings) -> list[Card]:
    """Every record of the three data sets with the keys that may not be shared across splits."""
    index = read_index(store.require("passages"))
    return [
        _card(dataset, row, index, settings)
        for dataset in DATASETS
        for row in read_rows(store.require(f"{dataset}_records").file(RECORDS), _columns(dataset))
    ]


def record_ids(store: ArtifactStore) -> Iterator[tuple[str, str]]:
    """(data set, record id) of every record."""
    for dataset, column in ID_COLUMN.items():
        for row in read_rows(store.require(f"{dataset}_records").file(RECORDS), [column]):
            yield dataset, row[column]


def write_ledger(
    store: ArtifactStore, settings: SplitSettings, before: Artifact | None, recipe_id: str, folder: Path
) -> dict[str, Any]:
    """The old ledger's rows and those of new records -> ledger.parquet and quarantine.jsonl; returns the summary."""
    known = read_ledger(before) if before else {}
    cards = read_cards(store, settings)
    result = deal(cards, known, settings)
    counts: dict[str, Counter[str]] = {dataset: Counter() for dataset in DATASETS}
    clusters: set[str] = set()
    with TableWriter(folder / LEDGER, arrow_schema(LedgerRow)) as table:

        def add(row: LedgerRow) -> None:
            table.add(row)
            counts[row.dataset][row.split] += 1
            clusters.add(row.cluster)

        for row in read_rows(before.file(LEDGER)) if before else ():
            add(LedgerRow(**row))
        for (dataset, record_id), dealt in sorted(result.dealt.items()):
            add(_row(dataset, record_id, dealt, recipe_id))
        for bridge in sorted(result.bridges, key=lambda bridge: bridge.card.id):
            add(_row(*bridge.card.id, Dealt("", QUARANTINED), recipe_id))
    places = _places(store, {bridge.card.id for bridge in result.bridges})
    kept_out = [_keep_out(bridge, places) for bridge in result.bridges]
    old = list(quarantine.read_quarantine(before.file(quarantine.FILE))) if before else []
    write_quarantine(folder / quarantine.FILE, [*old, *kept_out])
    return {
        "records": table.rows,
        "new": table.rows - len(known),
        "clusters": len(clusters - {""}),
        "quarantined": len(old) + len(kept_out),
        "splits": {dataset: {split: counted[split] for split in SPLITS} for dataset, counted in counts.items()},
    }


def evidence_names(row: Mapping[str, Any]) -> list[str]:
    """The passages, sections and documents that a record of any data set names."""
    return row["positive_ids"] if "positive_ids" in row else row["evidence"]


def unknown_evidence(store: ArtifactStore) -> list[tuple[str, str, str]]:
    """(data set, record id, name) of evidence that the corpus does not have."""
    index = read_index(store.require("passages"))
    return [
        (dataset, row[ID_COLUMN[dataset]], name)
        for dataset in DATASETS
        for row in read_rows(store.require(f"{dataset}_records").file(RECORDS), _columns(dataset))
        for name in evidence_names(row)
        if not index.resolve(name)
    ]


def _card(dataset: str, row: Mapping[str, Any], index: PassageIndex, settings: SplitSettings) -> Card:
    record_id: str = row[ID_COLUMN[dataset]]
    evidence = evidence_names(row)
    keys: list[str] = []
    if "document" in settings.group_by:
        keys += [f"document:{document_of(name, index)}" for name in evidence]
    if "passage" in settings.group_by:
        keys += [f"passage:{section_of(index.kept(name))}" for name in evidence]
    if row.get("group"):
        keys.append(f"group:{row['group']}")
    question = ""
    if "question" in settings.group_by:
        question = question_form(row["query"] if dataset == "retrieval" else row["question"])
    if question:
        keys.append(question_key(question))
    return Card(dataset, record_id, tuple(dict.fromkeys(keys)) or (f"record:{dataset}:{record_id}",), question)


def _columns(dataset: str) -> list[str]:
    if dataset == "retrieval":
        return ["query_id", "query", "positive_ids"]
    return ["record_id", "question", "evidence", "group"]


def _row(dataset: str, record_id: str, dealt: Dealt, first_seen: str) -> LedgerRow:
    return LedgerRow(
        dataset=dataset, record_id=record_id, cluster=dealt.cluster, split=dealt.split, first_seen=first_seen
    )


def _places(store: ArtifactStore, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
    """(data set, record id) -> (file, line) of the records asked for."""
    if not wanted:
        return {}
    return {
        (dataset, row[column]): (row["source"], row["line_no"])
        for dataset, column in ID_COLUMN.items()
        for row in read_rows(store.require(f"{dataset}_records").file(RECORDS), [column, "source", "line_no"])
        if (dataset, row[column]) in wanted
    }


def _keep_out(bridge: Bridge, places: Mapping[tuple[str, str], tuple[str, int]]) -> Rejected:
    file, line = places[bridge.card.id]
    touches = " and ".join(f"{split} (by {key})" for split, key in bridge.touches)
    reason = f"{bridge.card.dataset} record {bridge.card.record_id} belongs to {touches}: it would join two splits."
    return set_aside("FT-SPLIT-001", file, line, reason, _FIX, raw=bridge.card.question)
