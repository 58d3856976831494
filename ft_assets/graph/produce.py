"""Make an artifact asset: reuse or compute it, publish it, make it current, remove old versions, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ft_assets.config.generator import params_of_generator
from ft_assets.config.load import accepted_settings
from ft_assets.graph.gates import as_metadata
from resources import telemetry
from resources.artifacts import Artifact, Recipe, Staging
from resources.dagster_resources import ArtifactsResource
from resources.launcher import ComputeParams
from resources.text_source import GeneratorParams

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
    """
    store = artifacts.store()
    telemetry.emit(telemetry.Progress(asset=recipe.asset, kind="start"))
    artifact = store.find_whole(recipe.asset, recipe.id)
    reused = artifact is not None
    if artifact is None:
        if launch is not None:
            artifact = launch(recipe)
        elif compute is not None:
            with store.stage(recipe) as staging:
                artifact = staging.publish(compute(staging))
        else:
            raise ValueError("produce needs compute or launch")
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


def telemetry_line(summary: Mapping[str, object]) -> str:
    """Return the first four numbers of a summary as one line."""
    plain = {k: v for k, v in summary.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return ", ".join(f"{name} {value:.4g}" for name, value in list(plain.items())[:4])
