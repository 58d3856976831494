"""The published weights of `checkpoint: best`, and a training that ends when the loss no longer falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.assets import material_of
from ft_assets.adapters.trainer.best import ended_early
from ft_assets.config.model import SftSettings
from resources.artifacts import Artifact
from resources.launcher import Job
from resources.telemetry import read_metrics
from tests.ft_assets.adapters.tiny_llm import instruction

# the validation answers contradict the training answers, so that the loss falls and then rises
RISING = {
    "max_steps": 12, "learning_rate": 2e-2, "eval_steps": 2, "save_steps": 100, "lora": {"dropout": 0},
    "scheduler": "constant", "checkpoint": "best",
}  # fmt: skip
ADAPTER = "adapter/adapter_model.safetensors"


def log(*losses: float) -> list[dict[str, Any]]:
    return [{"step": 2 * n, "eval_loss": loss} for n, loss in enumerate(losses)] + [{"step": 1, "loss": 1.0}]


def run(job: Job, name: str) -> Artifact:
    """Train in a run folder of its own."""
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{name}"))


def eval_losses(artifact: Artifact) -> dict[int, float]:
    return {r["step"]: r["eval_loss"] for r in read_metrics(artifact.file("metrics.jsonl")) if "eval_loss" in r}


@pytest.fixture
def splits(lab: Any) -> Artifact:
    return lab.instructions([instruction(n, answer=f"{7 * n} 字节 密码") for n in range(12)])


def test_patience_counts_the_evaluations_after_the_lowest_loss() -> None:
    # the evaluation before the first step is none of the training
    assert not ended_early(log(0.1, 3.0, 2.0), "loss", 1)
    assert ended_early(log(9.0, 3.0, 2.0, 2.5), "loss", 1)
    assert not ended_early(log(9.0, 3.0, 2.0, 2.5), "loss", 2)
    assert ended_early(log(9.0, 3.0, 2.0, 2.5, 2.0), "loss", 2), "an equal loss is no lower one"
    assert ended_early(log(9.0, 2.0, float("nan")), "loss", 1)
    assert not ended_early(log(9.0, 3.0, 4.0), "loss", None)
    assert not ended_early([], "loss", 1)


def test_the_interval_of_evaluations_decides_the_best_weights_and_no_others() -> None:
    last = [SftSettings(base_model="m", eval_steps=steps) for steps in (5, 10)]
    best = [SftSettings(base_model="m", eval_steps=steps, checkpoint="best") for steps in (5, 10)]
    assert material_of(last[0]) == material_of(last[1])
    assert material_of(best[0]) != material_of(best[1])
    later = {
        "best_by",
        "eval_answers",
        "checkpoint",
        "patience",
        "betas",
        "epsilon",
        "neftune",
        "min_learning_rate_share",
    }
    assert not later & material_of(last[0]).keys(), "a recipe of an earlier version must stay as it was"


@pytest.mark.slow
def test_the_best_weights_are_published_and_the_training_ends_after_them(lab: Any, splits: Artifact) -> None:
    whole = run(lab.sft_job(splits, **RISING), "whole")
    losses = eval_losses(whole)
    trained = {step: loss for step, loss in losses.items() if step}
    best = min(trained, key=lambda step: trained[step])
    assert best < 12, losses
    assert (whole.summary["best_step"], whole.summary["best_by"]) == (best, "loss")
    assert whole.summary["eval_loss_after"] == pytest.approx(losses[best])

    # the weights are those of a run that stops at this step
    short = run(lab.sft_job(splits, **{**RISING, "max_steps": best, "checkpoint": "last"}), "short")
    assert whole.file(ADAPTER).read_bytes() == short.file(ADAPTER).read_bytes()
    assert "best_step" not in short.summary

    patient = run(lab.sft_job(splits, **RISING, patience=1), "patient")
    assert patient.summary["steps"] == best + 2
    assert patient.file(ADAPTER).read_bytes() == whole.file(ADAPTER).read_bytes()


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_best_step_publishes_the_same_weights(
    lab: Any, splits: Artifact, stop_after: Any
) -> None:
    job = lab.sft_job(splits, **{**RISING, "save_steps": 3}, patience=3)
    whole = run(job, "whole")
    killed = lab.sft_job(splits, **{**RISING, "save_steps": 3, "logging_steps": 2}, patience=3)
    with stop_after(whole.summary["best_step"] + 2):
        run(killed, "killed")
    resumed = run(killed, "killed")
    assert resumed.summary["steps"] == whole.summary["steps"]
    assert resumed.file(ADAPTER).read_bytes() == whole.file(ADAPTER).read_bytes()


@pytest.mark.slow
def test_a_damaged_best_checkpoint_is_refused(
    lab: Any, splits: Artifact, refused_codes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = train.load_best

    def damage(trainer: Any) -> int:
        path = Path(trainer.state.best_model_checkpoint) / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        return load(trainer)

    monkeypatch.setattr(train, "load_best", damage)
    assert refused_codes(lambda: run(lab.sft_job(splits, **RISING), "damaged")) == {"FT-TRAIN-071"}
