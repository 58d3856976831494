"""The data sets: files as observed, clean records, one ledger of splits for all of them, the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from msgspec import structs, to_builtins

from expectations.canonical import folder_digest
from expectations.formats.dialect import Policy
from expectations.rules.splits import SPLITS
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import DatasetSettings, Settings
from ft_assets.corpus.assets import column_schema
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES
from ft_assets.datasets.clean import CONFLICTS, RECORDS, clean_judgements, clean_records, write_nothing
from ft_assets.datasets.ledger import (
    ASSET,
    DATASETS,
    LEDGER,
    NOT_DEALT_BY,
    previous_ledger,
    read_ledger,
    record_ids,
    write_ledger,
)
from ft_assets.datasets.passage_index import read_index
from ft_assets.datasets.split import split_file, write_splits
from ft_assets.graph import quarantine
from ft_assets.graph.gates import enforce, evidence_of
from ft_assets.graph.observe import observed_files
from ft_assets.graph.produce import produce, recipe_for
from ft_assets.graph.source_files import file_inventory, inventory_version, match_files, shown_path
from resources.artifacts import Artifact, Recipe, Staging
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.plots import bars

_RECORDS_VERSION = "2"
_LEDGER_VERSION = "2"
_SPLITS_VERSION = "2"
_SHOWN_CONFLICTS = 10


def _globs(settings: DatasetSettings, dataset: str) -> dict[str, list[str]]:
    """Key in config.yaml -> globs, of one data set."""
    if dataset == "retrieval":
        keys = {"queries": settings.retrieval.queries, "qrels": settings.retrieval.qrels}
    else:
        keys = {"files": settings.instruction.files if dataset == "instruction" else settings.preference.files}
    return {f"datasets.{dataset}.{key}": globs for key, globs in keys.items()}


def _match(settings: DatasetSettings, dataset: str, root: Path) -> dict[str, list[Path]]:
    """The last part of the key -> files."""
    return {k.rpartition(".")[2]: match_files(globs, root, k) for k, globs in _globs(settings, dataset).items()}


def _policy(settings: DatasetSettings, dataset: str) -> Policy:
    """The settings that decide what a row of this data set becomes."""
    policy = Policy(traditional=settings.traditional)
    if dataset == "instruction":
        return structs.replace(policy, thinking=settings.instruction.thinking)
    if dataset == "preference":
        return structs.replace(policy, min_margin=settings.preference.min_margin)
    return policy


def _files(dataset: str, settings: Settings, root: Path) -> list[Path]:
    return [path for paths in _match(settings.datasets, dataset, root).values() for path in paths]


SOURCES = {f"{dataset}_files": partial(_files, dataset) for dataset in DATASETS}
"""Observed asset -> its files."""


def _files_asset(dataset: str) -> Any:
    return observed_files(
        f"{dataset}_files",
        partial(_files, dataset),
        group="datasets",
        kind="json",
        description=f"The files that datasets.{dataset} in config.yaml names; their contents are the version.",
    )


def _records_asset(dataset: str) -> dg.AssetsDefinition:
    asset = f"{dataset}_records"
    linked = dataset == "retrieval"

    @dg.asset(
        name=asset,
        deps=[f"{dataset}_files", "dataset_settings", *(["passages"] if linked else [])],
        group_name="datasets",
        kinds={"parquet"},
        owners=["team:ft-assets"],
        code_version=_RECORDS_VERSION,
        description=f"Clean {dataset} records; what cannot be used is quarantined with file, line and reason.",
    )
    def records(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
        store = artifacts.store()
        settings = settings_of(store, "datasets")
        root = artifacts.project()
        found = _match(settings, dataset, root)
        inventory = file_inventory([path for paths in found.values() for path in paths], root)
        hashes = {row["file"]: row["sha256"] for row in inventory}
        hashes |= {
            shown_path(path, root): folder_digest(path) for paths in found.values() for path in paths if path.is_dir()
        }
        options: dict[str, Any] = {"max_line_bytes": settings.max_line_bytes, "policy": _policy(settings, dataset)}
        inputs = {f"{dataset}_files": inventory_version(inventory)}
        if linked and inventory:
            enforce(asset, evidence_of(artifacts, qdrant), CORPUS_GATES, assets=["passages"])
            inputs["passages"] = store.require("passages").data_version

        def compute(staging: Staging) -> Mapping[str, Any]:
            if not inventory:
                return write_nothing(dataset, staging.path)
            if not linked:
                return clean_records(dataset, found["files"], root, hashes, staging.path, **options)
            index = read_index(store.require("passages"))
            return clean_judgements(
                found["queries"], found["qrels"], root, hashes, staging.path, index=index, **options
            )  # fmt: skip

        recipe = Recipe(asset=asset, code_version=_RECORDS_VERSION, settings=to_builtins(options), inputs=inputs)
        return produce(artifacts, recipe, compute=compute, metadata=_show_records)

    return records


@dg.asset(
    name=ASSET,
    deps=[*(f"{dataset}_records" for dataset in DATASETS), "passages", "dataset_settings"],
    group_name="datasets",
    kinds={"parquet"},
    owners=["team:ft-assets"],
    code_version=_LEDGER_VERSION,
    description="Which split each record of every data set belongs to, dealt by cluster, once. Rows are only added.",
)
def split_ledger(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    inputs = [*(f"{dataset}_records" for dataset in DATASETS), "passages"]
    enforce(ASSET, evidence_of(artifacts, qdrant), CORPUS_GATES, GATES, assets=inputs)
    settings = settings_of(store, "datasets").split
    before = previous_ledger(store, settings.key)
    if before is not None and read_ledger(before).keys() >= set(record_ids(store)):
        return produce(artifacts, before.manifest.recipe, metadata=_show_ledger)  # nothing to deal
    recipe = recipe_for(
        artifacts, ASSET, _LEDGER_VERSION, settings.model_dump(mode="json", exclude=NOT_DEALT_BY), inputs
    )
    if before is not None:
        recipe.inputs[ASSET] = before.data_version

    def compute(staging: Staging) -> Mapping[str, Any]:
        return write_ledger(store, settings, before, recipe.id, staging.path)

    return produce(artifacts, recipe, compute=compute, metadata=_show_ledger)


def _splits_asset(dataset: str) -> dg.AssetsDefinition:
    asset, records = f"{dataset}_splits", f"{dataset}_records"

    @dg.asset(
        name=asset,
        deps=[records, ASSET],
        group_name="datasets",
        kinds={"parquet"},
        owners=["team:ft-assets"],
        code_version=_SPLITS_VERSION,
        description=f"The {dataset} records as train, validation and test, as the ledger says.",
    )
    def splits(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
        store = artifacts.store()
        enforce(asset, evidence_of(artifacts, qdrant), GATES, assets=[records, ASSET])

        def compute(staging: Staging) -> Mapping[str, Any]:
            source = store.require(records)
            figures = write_splits(dataset, source.file(RECORDS), read_ledger(store.require(ASSET)), staging.path)
            return {"configured": source.summary["configured"], **figures}

        recipe = recipe_for(artifacts, asset, _SPLITS_VERSION, {}, [records, ASSET])
        return produce(artifacts, recipe, compute=compute, metadata=_show_splits)

    return splits


def _show_records(artifact: Artifact) -> Mapping[str, Any]:
    path = artifact.file(RECORDS)
    shown: dict[str, Any] = {
        "dagster/row_count": artifact.summary["kept"],
        "dagster/column_schema": column_schema(path),
        "quarantine": quarantine.quarantine_table(artifact.file(quarantine.FILE)),
    }
    if artifact.summary["codes"]:
        shown["quarantined_by_code"] = bars(artifact.summary["codes"], "quarantined rows by code")
    if artifact.summary["conflicts"]:
        shown["first_conflicts"] = artifact.json(CONFLICTS)[:_SHOWN_CONFLICTS]
    return shown


def _show_ledger(artifact: Artifact) -> Mapping[str, Any]:
    totals = {split: sum(counts[split] for counts in artifact.summary["splits"].values()) for split in SPLITS}
    path = artifact.file(LEDGER)
    return {
        "dagster/row_count": artifact.summary["records"],
        "dagster/column_schema": column_schema(path),
        "shares": bars(totals, "records by split"),
        "quarantine": quarantine.quarantine_table(artifact.file(quarantine.FILE)),
    }


def _show_splits(artifact: Artifact) -> Mapping[str, Any]:
    counts = {split: artifact.summary[split] for split in SPLITS}
    return {
        "dagster/row_count": sum(counts.values()),
        "dagster/column_schema": column_schema(artifact.file(split_file(SPLITS[0]))),
        "shares": bars(counts, "records by split"),
    }


def _build(make: Any, datasets: Sequence[str] = DATASETS) -> list[Any]:
    return [make(dataset) for dataset in datasets]


ASSETS: list[Any] = [*_build(_files_asset), *_build(_records_asset), split_ledger, *_build(_splits_asset)]
