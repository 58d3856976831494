"""Make an artifact asset: reuse or compute it, publish it, make it current, remove old versions, report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import dagster as dg

from expectations.violations import Refused, violation
from ft_assets.config.generator import params_of_generator
from ft_assets.config.load import accepted_settings
from ft_assets.graph.gates import as_metadata
from resources import telemetry
from resources.artifacts import Artifact, ArtifactStore, Recipe, Staging
from resources.dagster_resources import ArtifactsResource
from resources.files import file_lock
from resources.launcher import ComputeParams, run_folder
from resources.text_source import GeneratorParams

_log = logging.getLogger(__name__)
ComputeFiles = Callable[[Staging], Mapping[str, object]]
"""Fills a staging folder and returns the summary."""


def compute_params(artifacts: ArtifactsResource) -> ComputeParams:
    """Return where and how a worker computes: state folder, device and dtype."""
    accelerator = accepted_settings(Path(artifacts.config_path), artifacts.state()).accelerator
    return ComputeParams(state_dir=artifacts.state_dir, device=accelerator.device, dtype=accelerator.dtype)


def report_to(artifacts: ArtifactsResource) -> tuple[str, ...]:
    """Return where the figures of a training go, next to its own page."""
    return tuple(accepted_settings(Path(artifacts.config_path), artifacts.state()).telemetry.report_to)


def generator_params(artifacts: ArtifactsResource) -> GeneratorParams:
    """Return the section `generator` as a worker takes it, with the name of its local model."""
    return params_of_generator(accepted_settings(Path(artifacts.config_path), artifacts.state()))


def produce(
    artifacts: ArtifactsResource,
    recipe: Recipe,
    *,
    compute: ComputeFiles | None = None,
    launch: Callable[[Recipe], Artifact] | None = None,
    metadata: Callable[[Artifact], Mapping[str, object]] | None = None,
) -> dg.MaterializeResult[Any]:
    """Reuse the artifact of this recipe, or make it: here with `compute`, or in a worker with `launch`.

    The data version of the result is the content hash of the artifact, so that an equal rebuild makes nothing stale.
    Raises Refused (FT-LIN-002) if another run made an input meanwhile that `compute` may have read.
    """
    store = artifacts.store()
    telemetry.emit(telemetry.Progress(asset=recipe.asset, kind="start"))
    found = store.find(recipe.asset, recipe.id)
    artifact = found if found and not found.verify() else None
    reused = artifact is not None
    if artifact is None:
        with _alone(artifacts.state(), recipe) if launch else nullcontext():
            artifact = store.find_whole(recipe.asset, recipe.id)  # another process may have made it
            reused = artifact is not None
            artifact = artifact or _make(store, recipe, compute, launch)
    store.point(artifact)
    protected = artifacts.releases().protected(store, artifacts.keep_releases)
    store.prune(recipe.asset, artifacts.keep, protected.get(recipe.asset, ()))
    text = telemetry_line(artifact.summary)
    telemetry.emit(telemetry.Progress(asset=recipe.asset, kind="reused" if reused else "made", text=text))
    # plots and tables first: the asset page keeps this order
    extra = dict(metadata(artifact) if metadata else {})
    shown = extra | {name: value for name, value in artifact.summary.items() if name not in extra}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(artifact.data_version),
        metadata={
            **as_metadata(shown),
            "recipe": dg.MetadataValue.text(recipe.id),
            "reused": dg.MetadataValue.bool(reused),
            # below the state folder, which may be moved
            "artifact": dg.PathMetadataValue(str(artifact.path.relative_to(store.root.parent))),
        },
    )


def _make(
    store: ArtifactStore,
    recipe: Recipe,
    compute: ComputeFiles | None,
    launch: Callable[[Recipe], Artifact] | None,
) -> Artifact:
    store.refuse_newer(recipe.asset, recipe.id)  # before hours of work, and not when they are to be published
    if launch is not None:
        return launch(recipe)
    if compute is None:
        raise ValueError("produce needs compute or launch")
    with store.stage(recipe) as staging:
        summary = compute(staging)
        _refuse_moved(store, recipe)
        return staging.publish(summary)


def _refuse_moved(store: ArtifactStore, recipe: Recipe) -> None:
    """Refuse (FT-LIN-002) to publish what another run's new input may be in. A worker reads the versions of its recipe;
    what is computed in the run reads the current ones."""
    moved = [
        violation(
            "FT-LIN-002",
            where=name,
            field="data_version",
            found=now.data_version,
            expected=version,
            fix=f"ft run --asset {recipe.asset}",
        )
        for name, version in recipe.inputs.items()
        # an asset may continue its own last version; sources have no artifact
        if name != recipe.asset and (now := store.current(name)) and now.data_version != version
    ]
    if moved:
        raise Refused(recipe.asset, moved)


def _alone(state: Path, recipe: Recipe) -> AbstractContextManager[object]:
    """Keep other processes from making the same recipe: their workers would share a run folder, and a training would be
    paid twice."""

    def waits() -> None:
        text = "another process is making it: waiting for that"
        _log.info("%s: %s", recipe.asset, text)  # on the page of the run
        telemetry.emit(telemetry.Progress(asset=recipe.asset, kind="step", text=text))

    return file_lock(run_folder(state, recipe) / ".making", on_wait=waits)


def telemetry_line(summary: Mapping[str, object]) -> str:
    """Return the first four numbers of a summary as one line."""
    plain = {k: v for k, v in summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return ", ".join(f"{name} {value:.4g}" for name, value in list(plain.items())[:4])
