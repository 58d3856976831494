"""Put the whole graph together. `build_defs` is a pure function: settings and folders in, Definitions out."""

# the signature of replace_attributes is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg

from ft_assets.adapters import assets as adapters
from ft_assets.adapters import checks as adapter_checks
from ft_assets.answers import assets as answers
from ft_assets.answers import checks as answer_checks
from ft_assets.config.load import accepted_settings, config_path, state_dir
from ft_assets.config.model import SETTINGS_ASSETS, LauncherSettings, Settings, missing_data, missing_sections
from ft_assets.corpus import assets as corpus
from ft_assets.corpus import checks as corpus_checks
from ft_assets.datasets import assets as datasets
from ft_assets.datasets import checks as dataset_checks
from ft_assets.datasets import glossary_checks
from ft_assets.ddr import assets as ddr
from ft_assets.ddr import checks as ddr_checks
from ft_assets.embedding import assets as embedding
from ft_assets.embedding import checks as embedding_checks
from ft_assets.generation import checks as generation_checks
from ft_assets.generation.jobs import CANDIDATES, PAIRS, VERIFIED
from ft_assets.graph.automation import ENDS, JOBS, POINTERS, SENSORS, TRAININGS, automate, judge_again
from ft_assets.graph.gates import build_checks
from ft_assets.graph.instance import refuse_another_home
from ft_assets.kbalign import assets as kbalign
from ft_assets.kbalign import checks as kbalign_checks
from ft_assets.notify import notify
from ft_assets.retrieval import assets as retrieval
from ft_assets.retrieval import checks as retrieval_checks
from ft_assets.retrieval import served_checks
from ft_assets.rollback import rollback
from ft_assets.served import watch_served
from ft_assets.settings import assets as settings_assets
from ft_assets.settings import checks as settings_checks
from ft_assets.watcher import watch_settings, watch_sources
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

PAGE_VARIABLE = "FT_PAGE_URL"
"""Environment variable with the address of the companion page."""
STAGES = (settings_assets, corpus, datasets, adapters, embedding, retrieval, kbalign, ddr, answers)
SPECS = tuple(chain.from_iterable(stage.SPECS for stage in STAGES))
GATES = tuple(
    chain.from_iterable(
        checks.GATES
        for checks in (
            settings_checks,
            corpus_checks,
            dataset_checks,
            glossary_checks,
            generation_checks,
            adapter_checks,
            embedding_checks,
            retrieval_checks,
            served_checks,
            kbalign_checks,
            ddr_checks,
            answer_checks,
        )
    )
)


def not_configured(settings: Settings) -> dict[str, str]:
    """Return asset -> the key that it needs, itself or through its inputs, and that config.yaml does not have."""
    lacking = {SETTINGS_ASSETS[section]: section for section in missing_sections(settings)} | missing_data(settings)
    if settings.kbalign and settings.kbalign.author == "prompted":
        lacking["kbalign_author"] = "kbalign.author: tuned"
    unneeded, before = unused_deps(settings), -1
    while len(lacking) > before:  # a training may need rows that a later stage generates
        before = len(lacking)
        for spec in SPECS:
            enough = not lacking.keys() >= set(spec.any_of)
            for name in spec.deps:
                unused = (enough and name in spec.any_of) or (spec.name, name) in unneeded
                if name in lacking and not unused:
                    lacking.setdefault(spec.name, lacking[name])
    return lacking


def unused_deps(settings: Settings) -> set[tuple[str, str]]:
    """Return (asset, dependency) pairs that these settings make unnecessary."""
    sft, dpo, ddr_settings = settings.sft, settings.dpo, settings.ddr
    tuned = settings.kbalign is None or settings.kbalign.author == "tuned"
    searched = settings.embedding is not None  # without a released collection, BM25 searches
    needed = {
        ("dpo_adapter", "sft_adapter"): dpo is None or dpo.start == "sft",
        ("sft_adapter", VERIFIED): sft is not None and sft.generated,
        ("dpo_adapter", PAIRS): dpo is not None and dpo.generated,
        (CANDIDATES, "sft_adapter"): ddr_settings is not None and ddr_settings.asks_sft,
        (CANDIDATES, "released_collection"): searched,
        (VERIFIED, "released_collection"): searched,
        **{(name, "kbalign_author"): tuned for name in ("kbalign_short", "kbalign_long", VERIFIED)},
    }
    return {pair for pair, is_needed in needed.items() if not is_needed}


def build_defs(
    settings: Settings,
    *,
    state: Path,
    config: Path,
    resource_overrides: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """Return the definitions of all assets that are configured; folders, engine and launcher are from the arguments."""
    absent = not_configured(settings).keys()
    assets = [asset for asset in chain.from_iterable(stage.ASSETS for stage in STAGES) if _name_of(asset) not in absent]
    left_out = unused_deps(settings) | {(spec.name, name) for spec in SPECS for name in spec.any_of if name in absent}
    gates = [gate for gate in GATES if absent.isdisjoint({gate.asset, *gate.needs})]
    return dg.Definitions(
        assets=_link(automate([_without(asset, left_out) for asset in assets]), os.environ.get(PAGE_VARIABLE)),
        asset_checks=build_checks(gates, judge_again()),
        jobs=[*(job for job in JOBS if absent.isdisjoint(ENDS[job.name])), rollback],
        sensors=[*SENSORS, watch_settings(gates), watch_sources, *watch_served(gates), notify(gates)],
        resources={**_resources(settings, state, config), **(resource_overrides or {})},
        # Heavy work runs in child processes already, so a step needs no process: a run that reuses everything takes
        # seconds.
        executor=dg.in_process_executor,
    )


def _link(assets: list[Any], page: str | None) -> list[Any]:
    """Return the assets with a link to the companion page in their metadata, where `ft ui` serves one."""
    if not page:
        return assets

    def link(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        view = "trainings" if name in TRAININGS else "releases" if name in POINTERS else f"data/{name}"
        return spec.merge_attributes(metadata={"companion page": dg.MetadataValue.url(f"{page}/{view}")})

    return [asset.map_asset_specs(link) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets]


def _without(asset: Any, left_out: set[tuple[str, str]]) -> Any:
    """Return the asset without those of its dependencies that are not in the graph."""
    name = _name_of(asset)
    if not any(name == one for one, _ in left_out):
        return asset

    def reduce(spec: dg.AssetSpec) -> dg.AssetSpec:
        kept = [dep for dep in spec.deps if (name, dep.asset_key.to_user_string()) not in left_out]
        return spec.replace_attributes(deps=kept)

    return asset.map_asset_specs(reduce)


def _name_of(asset: Any) -> str:
    return asset.key.to_user_string()


def _resources(settings: Settings, state: Path, config: Path) -> dict[str, object]:
    resources = {
        "artifacts": ArtifactsResource(
            state_dir=str(state),
            config_path=str(config),
            keep=settings.artifacts.keep,
            keep_releases=max(settings.artifacts.keep, settings.retrieval.keep),
        ),
        "qdrant": QdrantResource(
            state_dir=str(state),
            kind=settings.qdrant.engine,
            url=settings.qdrant.url,
            alias=settings.qdrant.collection,
            lock_timeout=settings.qdrant.lock_timeout,
        ),
        "launcher": _launcher(settings.launcher, state),
    }
    return {
        **{name: _fixed(resource) for name, resource in resources.items()},
        # nothing is passed on in this way, and the default one takes a folder from the configuration of a run
        "io_manager": dg.IOManagerDefinition(lambda _: dg.InMemoryIOManager(), config_schema={}),
    }


def _fixed(resource: object) -> dg.ResourceDefinition:
    """Return a resource without configuration: that of a run must not lead to another state folder or another alias."""
    return dg.ResourceDefinition(lambda _: resource, config_schema={})


def _launcher(settings: LauncherSettings, state: Path) -> LauncherResource:
    """Return the launcher that the settings name. That of a cluster loads Ray, which is not installed everywhere."""
    if settings.ray is None or settings.kind != "ray":
        return LauncherResource(
            state_dir=str(state), kind=settings.kind, processes=settings.processes, threads=settings.threads
        )
    from resources.ray_launcher import RayLauncherResource

    launched = {"kind": "ray", "processes": settings.processes, "threads": settings.threads}
    return RayLauncherResource(state_dir=str(state), **launched, **settings.ray.model_dump())


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions that `dg dev`, `dg launch` and workspace.yaml load."""
    config, state = config_path(), state_dir()
    refuse_another_home(state)
    return build_defs(accepted_settings(config, state), state=state, config=config)
