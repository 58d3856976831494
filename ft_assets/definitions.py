"""The one place where everything is put together. `build_defs` is pure: settings and folders in, Definitions out."""

from __future__ import annotations

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
from ft_assets.config.model import Settings
from ft_assets.corpus import assets as corpus
from ft_assets.corpus import checks as corpus_checks
from ft_assets.datasets import assets as datasets
from ft_assets.datasets import checks as dataset_checks
from ft_assets.datasets import glossary_checks as dataset_terms
from ft_assets.embedding import assets as embedding
from ft_assets.embedding import checks as embedding_checks
from ft_assets.graph.automation import JOBS, SENSORS, automate, judge_again
from ft_assets.graph.gates import build_checks
from ft_assets.retrieval import assets as retrieval
from ft_assets.retrieval import checks as retrieval_checks
from ft_assets.settings import assets as settings_room
from ft_assets.settings import checks as settings_checks
from ft_assets.watcher import watch_settings, watch_sources
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

ROOMS = (settings_room, corpus, datasets, adapters, embedding, retrieval, answers)
GATES = tuple(
    chain.from_iterable(
        room.GATES
        for room in (
            settings_checks,
            corpus_checks,
            dataset_checks,
            dataset_terms,
            adapter_checks,
            embedding_checks,
            retrieval_checks,
            answer_checks,
        )
    )
)


def build_defs(
    settings: Settings,
    *,
    state: Path,
    config: Path,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Definitions of the whole graph, with what is outside of it (folders, engine, launcher) taken from `settings`."""
    return dg.Definitions(
        assets=automate(chain.from_iterable(room.ASSETS for room in ROOMS)),
        asset_checks=build_checks(GATES, judge_again()),
        jobs=JOBS,
        sensors=[*SENSORS, watch_settings(GATES), watch_sources],
        resources={**_resources(settings, state, config), **(resource_overrides or {})},
        # Heavy work runs in child processes of its own, so steps need none: a run that reuses everything takes seconds.
        executor=dg.in_process_executor,
    )


def _resources(settings: Settings, state: Path, config: Path) -> dict[str, Any]:
    return {
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
        "launcher": LauncherResource(
            state_dir=str(state),
            kind=settings.launcher.kind,
            processes=settings.launcher.processes,
            threads=settings.launcher.threads,
        ),
    }


@dg.definitions
def defs() -> dg.Definitions:
    """What `dg dev`, `dg launch` and workspace.yaml load."""
    config, state = config_path(), state_dir()
    return build_defs(accepted_settings(config, state), state=state, config=config)
