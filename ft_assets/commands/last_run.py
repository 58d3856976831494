"""The speed that the last training on this machine reached, so that `ft estimate` need not assume one."""

from __future__ import annotations

import math
from statistics import median

from expectations.violations import Refused
from ft_assets.adapters.jobs import TRAINED, TrainSummary
from ft_assets.adapters.preflight import read_result
from ft_assets.adapters.release import contract_of
from ft_assets.adapters.trainer.memory_needs import needs_of
from ft_assets.config.model import DpoSettings, SftSettings
from resources.accelerator import Device
from resources.artifacts import Artifact, ArtifactStore
from resources.estimate import estimate_training
from resources.model_shape import find_shape
from resources.telemetry import METRICS_FILE, read_metrics


def speed_of_last_run(store: ArtifactStore, device: Device) -> tuple[float, str] | None:
    """Return the operations a second of the newest training on such a device, and its name; None without one.

    They are counted as the estimate counts them, so that what it leaves out is in the speed.
    """
    runs = [artifact for asset in TRAINED.values() for artifact in store.versions(asset)]
    for run in sorted(runs, key=lambda artifact: artifact.manifest.created_at, reverse=True):
        if run.summary.get("device") == device and (flops := _speed(run, device)):
            return flops, f"{run.asset} {run.recipe_id[:8]}"
    return None


def _speed(run: Artifact, device: Device) -> float | None:
    records = read_metrics(run.file(METRICS_FILE))
    speeds = [float(record["tokens_per_second"]) for record in records if "tokens_per_second" in record]
    tokens = _mean_tokens(run)
    if not speeds or not tokens:
        return None
    contract, summary = contract_of(run), run.summary_as(TrainSummary)
    kind = SftSettings if run.asset == "sft_adapter" else DpoSettings
    try:
        shape = find_shape(contract.base.name, contract.base.revision)
        settings = kind.model_validate({**run.manifest.recipe.settings["training"], "base_model": contract.base.name})
    except (Refused, ValueError, KeyError):  # the model is no longer here, or the settings are of an earlier version
        return None
    bf16 = summary.dtype != "float32"
    target, setup = needs_of(settings, contract.lora, tokens=tokens, device=device, bf16=bf16)
    operations = estimate_training(shape, target, setup).flops_per_row
    # the first step also warms up
    return median(speeds[1:] or speeds) * operations / (tokens * target.answers)


def _mean_tokens(run: Artifact) -> int:
    """Return the mean tokens of an answer with its prompt."""
    figures = read_result(run, "rows_fit_max_length").figures
    columns = figures.get("histogram")
    return math.ceil(figures["tokens"] / sum(columns)) if columns else 0
