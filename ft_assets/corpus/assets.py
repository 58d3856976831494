"""The corpus: the files as observed, the passages cut from them, the glossary counted over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from expectations.text.glossary import Term, count_terms, load_terms
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import Settings
from ft_assets.corpus.checks import GATES
from ft_assets.corpus.collect import PASSAGES, collect_passages
from ft_assets.graph import quarantine
from ft_assets.graph.gates import enforce, evidence_of
from ft_assets.graph.observe import observed_files
from ft_assets.graph.produce import produce, recipe_for
from ft_assets.graph.source_files import (
    FILES,
    file_inventory,
    files_version,
    inventory_version,
    match_files,
)
from resources.artifacts import Artifact, Recipe, Staging, write_json
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.parquet import arrow_schema, column_names, read_rows, write_table
from resources.plots import bars

GLOSSARY = "glossary.parquet"
_PASSAGES_VERSION = "2"
_GLOSSARY_VERSION = "2"


def _documents(settings: Settings, root: Path) -> list[Path]:
    return match_files(settings.corpus.files, root, "corpus.files")


def _glossaries(settings: Settings, root: Path) -> list[Path]:
    return match_files(settings.corpus.glossary, root, "corpus.glossary")


corpus_files = observed_files(
    "corpus_files",
    _documents,
    group="corpus",
    kind="markdown",
    description="The documents that corpus.files in config.yaml names; their contents are the version.",
)
glossary_files = observed_files(
    "glossary_files",
    _glossaries,
    group="corpus",
    kind="yaml",
    description="The files that corpus.glossary in config.yaml names; their contents are the version.",
)
SOURCES = {"corpus_files": _documents, "glossary_files": _glossaries}
"""Observed asset -> its files."""


@dg.asset(
    deps=["corpus_files", "corpus_settings"],
    group_name="corpus",
    kinds={"markdown", "parquet"},
    owners=["team:ft-assets"],
    code_version=_PASSAGES_VERSION,
    description="Documents cut by section and at sentence ends, with offsets into their sources; the rest quarantined.",
)
def passages(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    settings = settings_of(artifacts.store(), "corpus")
    root = artifacts.project()
    files = match_files(settings.files, root, "corpus.files")
    inventory = file_inventory(files, root)
    recipe = Recipe(
        asset="passages",
        code_version=_PASSAGES_VERSION,
        settings={
            "max_chars": settings.max_chars,
            "min_chars": settings.min_chars,
            "traditional": settings.traditional,
        },
        inputs={"corpus_files": inventory_version(inventory)},
    )

    def compute(staging: Staging) -> Mapping[str, Any]:
        write_json(staging.path / FILES, inventory)
        return collect_passages(files, root, settings, staging.path)

    return produce(artifacts, recipe, compute=compute, metadata=_show_passages)


@dg.asset(
    deps=["passages", "glossary_files", "corpus_settings"],
    group_name="corpus",
    kinds={"yaml", "parquet"},
    owners=["team:ft-assets"],
    code_version=_GLOSSARY_VERSION,
    description="Terms with their other names, and how many passages speak of each.",
)
def glossary(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    enforce("glossary", evidence_of(artifacts, qdrant), GATES, assets=["passages"])
    root = artifacts.project()
    files = match_files(settings_of(store, "corpus").glossary, root, "corpus.glossary")
    settings = {"files": files_version(files, root)}
    recipe = recipe_for(artifacts, "glossary", _GLOSSARY_VERSION, settings, ["passages"])

    def compute(staging: Staging) -> Mapping[str, Any]:
        texts = (row["content"] for row in read_rows(store.require("passages").file(PASSAGES), ["content"]))
        terms = count_terms(load_terms(files), texts)
        write_table(staging.path / GLOSSARY, arrow_schema(Term), terms)
        met = sum(term.passages > 0 for term in terms)
        return {"files": len(files), "terms": len(terms), "terms_met": met}

    return produce(artifacts, recipe, compute=compute, metadata=_show_glossary)


def _show_passages(artifact: Artifact) -> Mapping[str, Any]:
    path = artifact.file(PASSAGES)
    lengths = (row["end"] - row["start"] for row in read_rows(path, ["start", "end"]))
    return {
        "dagster/row_count": artifact.summary["passages"],
        "dagster/column_schema": column_schema(path),
        "length": bars(_histogram(lengths), "characters a passage"),
        "quarantine": quarantine.quarantine_table(artifact.file(quarantine.FILE)),
    }


def _show_glossary(artifact: Artifact) -> Mapping[str, Any]:
    path = artifact.file(GLOSSARY)
    terms = sorted(read_rows(path), key=lambda row: -row["passages"])
    shown: dict[str, Any] = {
        "dagster/row_count": artifact.summary["terms"],
        "dagster/column_schema": column_schema(path),
        "never_met": [row["term"] for row in terms if not row["passages"]][:50],
    }
    if terms:
        shown["coverage"] = bars({row["term"]: row["passages"] for row in terms[:7]}, "passages a term")
    return shown


def column_schema(path: Path) -> dg.MetadataValue[Any]:
    """The columns of a Parquet file, for the Columns panel of an asset."""
    columns = [dg.TableColumn(name=name, type=kind) for name, kind in column_names(path)]
    return dg.MetadataValue.table_schema(dg.TableSchema(columns=columns))


def _histogram(lengths: Any) -> dict[str, float]:
    edges = (100, 200, 400, 800, 1600)
    counts = dict.fromkeys([*(f"< {edge}" for edge in edges), f">= {edges[-1]}"], 0.0)
    for length in lengths:
        name = next((f"< {edge}" for edge in edges if length < edge), f">= {edges[-1]}")
        counts[name] += 1
    return counts


ASSETS: list[Any] = [corpus_files, glossary_files, passages, glossary]
