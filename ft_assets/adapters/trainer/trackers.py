"""Experiment trackers that get the figures of a training: W&B and MLflow, through transformers' own callbacks."""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from resources.files import write_json
from resources.launcher import Job

TRACKERS_FILE = "trackers.json"

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
    if set(names) & set(_TRACKERS):
        trainer.add_callback(_build_recorder(names, job))  # after those that begin the runs


def read_trackers(run_dir: Path) -> dict[str, str]:
    """Return the trackers to which a run wrote, with the address of its page or its place below the state folder."""
    try:
        return msgspec.json.decode((run_dir / TRACKERS_FILE).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}


def _build_recorder(names: Sequence[str], job: Job) -> Any:
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        """Writes where the trackers have this run, as soon as it begins."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if state.is_world_process_zero:
                found = {name: _PLACES[name]() for name in _TRACKERS if name in names}
                root = Path(job.store).resolve().parent
                write_json(
                    job.folder() / TRACKERS_FILE, {name: _below(place, root) for name, place in found.items() if place}
                )

    return Recorder()


def _wandb_place() -> str:
    import wandb  # pyright: ignore[reportMissingImports]  an extra

    run = wandb.run
    return "" if run is None else run.url or str(Path(run.dir).parent)  # offline: the folder that `wandb sync` takes


def _mlflow_place() -> str:
    import mlflow  # pyright: ignore[reportMissingImports]  an extra

    run, address = mlflow.active_run(), mlflow.get_tracking_uri()
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]  # without user and password, of a database too
    if run is None:
        return ""
    if parts.scheme not in {"http", "https"}:
        return parts._replace(netloc=host).geturl() if parts.netloc else address.removeprefix("sqlite:///")
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{page}"


_PLACES = {"wandb": _wandb_place, "mlflow": _mlflow_place}


def _below(place: str, root: Path) -> str:
    """Return a path below the state folder relative to it, as the folder may be moved; anything else as it is."""
    path = Path(place)
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else place


def _set_missing(**values: str) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
