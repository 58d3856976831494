"""The assets of the data sets: observed files, clean records, one ledger of splits for all of them, and the splits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg
from msgspec import to_builtins

from expectations.canonical import digest, folder_digest
from expectations.formats.column_map import ColumnMap
from expectations.formats.dialect import RowNotes
from expectations.formats.unread import UnreadKeys
from expectations.markdown import bar_table
from expectations.rules.splits import SPLITS
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import DatasetSettings, Settings
from ft_assets.corpus.assets import table_of
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES
from ft_assets.datasets.clean import CONFLICTS, RECORDS, clean_records, read_files, write_nothing
from ft_assets.datasets.dataset import DATASETS, DataSet
from ft_assets.datasets.duplicate_lists import read_duplicate_lists
from ft_assets.datasets.find_contamination import search_contamination
from ft_assets.datasets.ledger import (
    ASSET,
    JUDGING_SETTINGS,
    LEDGER,
    previous_ledger,
    read_ledger,
    record_ids,
    write_ledger,
)
from ft_assets.datasets.passage_index import read_index
from ft_assets.datasets.split import split_file, write_splits
from ft_assets.datasets.summaries import LedgerSummary, RecordsSummary, SplitsSummary
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.observe import FilesOf, observed_files
from ft_assets.graph.produce import produce
from ft_assets.graph.quarantine import QUARANTINE, quarantine_table
from ft_assets.graph.source_files import (
    file_inventory,
    inventory_version,
    maps_recipe,
    match_files,
    match_mapped,
    refuse_changed,
    shown_path,
)
from resources.artifacts import Artifact, ArtifactStore, Staging
from resources.dagster_resources import ArtifactsResource, QdrantResource

_SHOWN_CONFLICTS = 10


def _records_spec(dataset: DataSet) -> AssetSpec:
    passages = ("passages",) if dataset.finds_passages else ()
    return AssetSpec(
        name=dataset.records,
        group="datasets",
        kinds={"parquet"},
        code_version="3",
        description=f"Clean {dataset.name} records; unusable rows are quarantined with file, line and reason.",
        inputs=(dataset.sources, *passages),
        reads=("dataset_settings",),
        enforces=passages,
        gates=(CORPUS_GATES,),
    )


def _splits_spec(dataset: DataSet) -> AssetSpec:
    return AssetSpec(
        name=dataset.splits,
        group="datasets",
        kinds={"parquet"},
        code_version="2",
        description=f"The {dataset.name} records as train, validation and test, as the split ledger assigns them.",
        inputs=(dataset.records, ASSET),
        reads=("dataset_settings", "passages", *(other.records for other in DATASETS if other is not dataset)),
        enforces=(dataset.records, ASSET),
        gates=(GATES,),
    )


_LISTS = "duplicate_files"
_LEDGER_INPUTS = (*(dataset.records for dataset in DATASETS), "passages")
_LEDGER = AssetSpec(
    name=ASSET,
    group="datasets",
    kinds={"parquet"},
    code_version="2",
    description="The split of each record of every data set, assigned once, by cluster. Rows are only added.",
    inputs=_LEDGER_INPUTS,
    reads=(_LISTS, "dataset_settings"),
    enforces=_LEDGER_INPUTS,
    gates=(CORPUS_GATES, GATES),
)
_RECORDS = {dataset.name: _records_spec(dataset) for dataset in DATASETS}
_SPLITS = {dataset.name: _splits_spec(dataset) for dataset in DATASETS}
SPECS = (*_RECORDS.values(), _LEDGER, *_SPLITS.values())


def _match(dataset: DataSet, settings: DatasetSettings, root: Path) -> dict[str, dict[Path, ColumnMap]]:
    """Return the files of each key of a data set in config.yaml, with their maps."""
    section = dataset.section(settings)
    return {key: match_mapped(section, key, root, dataset.config_key) for key in dataset.files}


def _files(dataset: DataSet, settings: Settings, root: Path) -> list[Path]:
    return list(chain.from_iterable(_match(dataset, settings.datasets, root).values()))


def _lists(settings: DatasetSettings, root: Path) -> list[Path]:
    return match_files(settings.duplicates, root, "datasets.duplicates")


def _configured_lists(settings: Settings, root: Path) -> list[Path]:
    return _lists(settings.datasets, root)


SOURCES: dict[str, FilesOf] = {dataset.sources: partial(_files, dataset) for dataset in DATASETS}
SOURCES[_LISTS] = _configured_lists
"""Observed asset -> its files."""


def _files_asset(dataset: DataSet) -> Any:
    return observed_files(
        dataset.sources,
        partial(_files, dataset),
        group="datasets",
        kind="json",
        description=f"The files that {dataset.config_key} in config.yaml names; their contents are the version.",
    )


duplicate_files = observed_files(
    _LISTS,
    _configured_lists,
    group="datasets",
    kind="json",
    description="The files that datasets.duplicates in config.yaml names; their contents are the version.",
)


def _records_asset(dataset: DataSet) -> dg.AssetsDefinition:
    spec = _RECORDS[dataset.name]

    @spec.asset
    def records(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
        store = artifacts.store()
        settings = settings_of(store, "datasets")
        root = artifacts.project()
        files = _match(dataset, settings, root)
        paths = list(chain.from_iterable(files.values()))
        inventory = file_inventory(paths, root)
        policy = dataset.read_policy(settings)
        options: dict[str, Any] = {"max_line_bytes": settings.max_line_bytes, "policy": policy.recipe()}
        options |= maps_recipe(files.values(), root)
        versions = {dataset.sources: inventory_version(inventory)}
        if dataset.finds_passages and inventory:
            spec.enforce(evidence_of(artifacts, qdrant))
            versions["passages"] = store.require("passages").data_version

        def compute(staging: Staging) -> Mapping[str, object]:
            if not inventory:
                return to_builtins(write_nothing(dataset, staging.path))
            hashes = {row["file"]: row["sha256"] for row in inventory}
            hashes |= {shown_path(path, root): folder_digest(path) for path in paths if path.is_dir()}
            index = read_index(store.require("passages")) if dataset.finds_passages else None
            unread, notes = UnreadKeys(), RowNotes(policy)
            rows = read_files(
                dataset,
                files,
                root,
                max_line_bytes=settings.max_line_bytes,
                policy=policy,
                unread=unread,
                notes=notes,
            )
            summary = clean_records(dataset, rows, hashes, staging.path, index=index, unread=unread, notes=notes)
            refuse_changed(spec.name, inventory, paths, root)
            return to_builtins(summary)

        return produce(artifacts, spec.recipe_from(options, versions), compute=compute, metadata=_show_records)

    return records


@_LEDGER.asset
def split_ledger(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _LEDGER.enforce(evidence_of(artifacts, qdrant))
    with store.alone(ASSET):  # of two runs with other files, the second adds to the ledger of the first
        return _deal(artifacts, store)


def _deal(artifacts: ArtifactsResource, store: ArtifactStore) -> dg.MaterializeResult[Any]:
    """Make the ledger with the records that the last one does not have, and make it the current one."""
    datasets, root = settings_of(store, "datasets"), artifacts.project()
    settings, paths = datasets.split, _lists(datasets, root)
    inventory = file_inventory(paths, root)
    lists = {"duplicates": inventory_version(inventory)} if paths else {}
    before = previous_ledger(store, settings.key)
    if (
        before is not None
        and before.manifest.recipe.settings.get("duplicates") == lists.get("duplicates")
        and read_ledger(before).keys() >= set(record_ids(store))
    ):
        return produce(artifacts, before.manifest.recipe, metadata=_show_ledger)  # every record has a split already
    recipe = _LEDGER.recipe(artifacts, settings.model_dump(mode="json", exclude=JUDGING_SETTINGS) | lists)
    if before is not None:
        recipe.inputs[ASSET] = before.data_version

    def compute(staging: Staging) -> Mapping[str, object]:
        listed = read_duplicate_lists(paths, root) if paths else None
        summary = write_ledger(store, settings, before, recipe.id, staging.path, listed=listed)
        refuse_changed(ASSET, inventory, paths, root)
        return to_builtins(summary)

    return produce(artifacts, recipe, compute=compute, metadata=_show_ledger)


def _splits_asset(dataset: DataSet) -> dg.AssetsDefinition:
    spec = _SPLITS[dataset.name]

    @spec.asset
    def splits(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
        store = artifacts.store()
        spec.enforce(evidence_of(artifacts, qdrant))
        left_out = search_contamination(store, settings_of(store, "datasets").split).of(dataset)
        # no part of the recipe where nothing is left out, as in most data: the search then changes no version
        values = {"left_out": digest(to_builtins(sorted(left_out.items())))} if left_out else {}

        def compute(staging: Staging) -> Mapping[str, object]:
            records, ledger = store.require(dataset.records), read_ledger(store.require(ASSET))
            configured = records.summary_as(RecordsSummary).configured
            summary = write_splits(
                dataset, records.file(RECORDS), ledger, left_out, staging.path, configured=configured
            )
            return to_builtins(summary)

        return produce(artifacts, spec.recipe(artifacts, values), compute=compute, metadata=_show_splits)

    return splits


def _show_records(artifact: Artifact) -> Mapping[str, object]:
    summary, path = artifact.summary_as(RecordsSummary), artifact.file(RECORDS)
    shown: dict[str, object] = {
        "dagster/row_count": summary.kept,
        **table_of(path),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }
    if summary.codes:
        shown["quarantined_by_code"] = bar_table(summary.codes, "quarantined by code")
    if summary.allowed:
        shown["allowed"] = summary.allowed
    if summary.conflicts:
        shown["first_conflicts"] = artifact.json(CONFLICTS)[:_SHOWN_CONFLICTS]
    return shown


def _show_ledger(artifact: Artifact) -> Mapping[str, object]:
    summary = artifact.summary_as(LedgerSummary)
    totals = {split: sum(counts[split] for counts in summary.splits.values()) for split in SPLITS}
    path = artifact.file(LEDGER)
    return {
        **({"listed_duplicates": summary.listed} if summary.listed else {}),
        "dagster/row_count": summary.records,
        **table_of(path),
        "shares": bar_table(totals, "split", "records"),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }


def _show_splits(artifact: Artifact) -> Mapping[str, object]:
    summary = artifact.summary_as(SplitsSummary)
    counts = summary.counts()
    shown = {"left_out_rows": quarantine_table(artifact.file(QUARANTINE))} if summary.left_out else {}
    return {
        **shown,
        "dagster/row_count": sum(counts.values()),
        **table_of(artifact.file(split_file(SPLITS[0]))),
        "shares": bar_table(counts, "split", "records"),
    }


ASSETS: list[Any] = [
    *map(_files_asset, DATASETS),
    *map(_records_asset, DATASETS),
    duplicate_files,
    split_ledger,
    *map(_splits_asset, DATASETS),
]
