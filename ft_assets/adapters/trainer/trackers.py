"""Experiment trackers that get the figures of a training: W&B and MLflow, through transformers' own callbacks."""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from resources.launcher import Job

_TRACKERS = ("wandb", "mlflow")
_PROJECT = "ft-assets"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse (FT-TRAIN-073) a tracker whose library is not installed, before anything is loaded."""
    for name in names:
        if name in _TRACKERS and importlib.util.find_spec(name) is None:
            refuse(violation("FT-TRAIN-073", where=SUBJECT, field="telemetry.report_to", found=name, expected=None))


def add_trackers(trainer: Any, names: Sequence[str], job: Job) -> None:
    """Add the callbacks of the trackers. What their environment variables do not set is set here: a project, a name,
    and a place below the state folder. W&B continues the same run after an interruption."""
    from transformers.integrations.integration_utils import MLflowCallback, WandbCallback

    run = f"{job.recipe.asset}-{job.recipe.id}"
    trainer.args.run_name = run
    if "wandb" in names:
        _set_missing(WANDB_PROJECT=_PROJECT, WANDB_DIR=job.run_dir, WANDB_RUN_ID=run, WANDB_RESUME="allow")
        trainer.add_callback(WandbCallback())
    if "mlflow" in names:
        database = Path(job.store).resolve().parent / "mlflow.db"
        _set_missing(MLFLOW_EXPERIMENT_NAME=_PROJECT, MLFLOW_TRACKING_URI=f"sqlite:///{database}")
        trainer.add_callback(MLflowCallback())


def _set_missing(**values: str) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
