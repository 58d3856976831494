"""W&B and MLflow get the figures of a training, where they are installed; a missing one is refused at once."""

# wandb and mlflow are untyped here, and not installed with the test libraries
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.trainer.trackers import read_trackers
from resources.launcher import Job
from tests.ft_assets.adapters.tiny_llm import instruction


def job_with(lab: Any, *names: str) -> Job:
    job = lab.sft_job(lab.instructions([instruction(n) for n in range(8)]), max_steps=2)
    return msgspec.structs.replace(job, params={**job.params, "report_to": list(names)})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    lab: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Refused, match=f"FT-TRAIN-073.*telemetry.report_to.*{name}"):
        train.main(job_with(lab, name))


@pytest.mark.slow
def test_mlflow_has_the_loss_of_every_step(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{lab.state}/mlflow.db")
    job = job_with(lab, "mlflow")
    made = train.main(job)
    (run,) = mlflow.search_runs(experiment_names=["ft-assets"], output_format="list")
    assert run.info.run_name == f"sft_adapter-{job.recipe.id}"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [1, 2]
    assert made.summary["trackers"] == read_trackers(Path(job.run_dir)) == {"mlflow": "mlflow.db"}


@pytest.mark.slow
def test_wandb_writes_a_run_into_the_run_folder(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    job = job_with(lab, "wandb")
    monkeypatch.setenv("WANDB_DIR", job.run_dir)
    Path(job.run_dir).mkdir(parents=True, exist_ok=True)
    made = train.main(job)
    (written,) = Path(job.run_dir).glob("wandb/offline-run-*/run-*.wandb")
    assert written.stat().st_size > 0 and job.recipe.id in written.name
    folder = str(written.parent.relative_to(lab.state))
    assert made.summary["trackers"] == read_trackers(Path(job.run_dir)) == {"wandb": folder}
