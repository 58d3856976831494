from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from transformers import TrainerState

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.trainer.checkpoints import Seal, checkpoints, find_damage, newest_whole, staged
from resources.artifacts import MANIFEST, seal_files, write_json
from resources.telemetry import Metrics, read_events, read_metrics

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"


def sealed_checkpoint(run_dir: Path, step: int) -> Path:
    """A small checkpoint with the files that matter."""
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    for name in ("optimizer.pt", "scheduler.pt", "adapter_model.safetensors"):
        (folder / name).write_bytes(f"{name} {step}".encode() * 10)
    write_json(folder / MANIFEST, msgspec.to_builtins(Seal(files=seal_files(folder), optimizer="adamw_torch_fused")))
    return folder


def cut(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes((folder / "optimizer.pt").read_bytes()[:-1])


def alter(folder: Path) -> None:
    content = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(b"X" + content[1:])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "optimizer.pt has 149 bytes, not 150": cut,
    "adapter_model.safetensors was altered": alter,
    "optimizer.pt is missing": lambda folder: (folder / "optimizer.pt").unlink(),
    "no readable manifest.json": lambda folder: (folder / MANIFEST).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_renamed_and_the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    whole, newest = sealed_checkpoint(tmp_path, 8), sealed_checkpoint(tmp_path, 10)
    assert find_damage(newest) == []
    DAMAGE[damage](newest)
    (tmp_path / ".stage-12" / "checkpoint-12").mkdir(parents=True)  # a process was killed while it wrote
    metrics = Metrics(tmp_path)
    assert newest_whole(tmp_path, metrics) == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["checkpoint-8", "damaged-10"]
    assert read_events(tmp_path / "metrics.jsonl") == [
        f"step 10: checkpoint-10 is damaged ({damage}): not used, kept as damaged-10"
    ]
    sealed_checkpoint(tmp_path, 10)
    cut(tmp_path / "checkpoint-10")
    newest_whole(tmp_path, metrics)
    assert (tmp_path / "damaged-10-2").is_dir(), "an earlier damaged one is not overwritten"


def stand_in(run_dir: Path, step: int, values: int = 4) -> Any:
    """The attributes of a trainer that `staged` reads."""
    weights = torch.nn.Parameter(torch.zeros(values))
    return SimpleNamespace(
        args=SimpleNamespace(output_dir=str(run_dir), optim="adamw_torch_fused"),
        state=TrainerState(global_step=step),
        model=SimpleNamespace(parameters=lambda: [weights]),
    )


def write(trainer: Any) -> None:
    with staged(trainer) as stage:
        folder = stage / f"checkpoint-{trainer.state.global_step}"
        folder.mkdir()
        for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt"):
            (folder / name).write_text("{}")


@pytest.mark.parametrize(
    "error",
    [
        Exception("No space left on device (os error 28)"),  # tokenizers
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),  # torch.save
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_is_reported_as_one_refusal_and_leaves_only_whole_checkpoints(
    tmp_path: Path, error: Exception
) -> None:
    write(stand_in(tmp_path, 2))
    refusal = pytest.raises(Refused, match=r"FT-TRAIN-031.*step 4: No space for the checkpoint.*kept: checkpoint-2")
    with refusal, staged(stand_in(tmp_path, 4)) as stage:
        (stage / "half").write_text("x")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert find_damage(tmp_path / "checkpoint-2") == []


def test_an_error_that_does_not_come_from_the_disk_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staged(stand_in(tmp_path, 4)):
        raise KeyError("step")
    assert list(tmp_path.iterdir()) == []


def test_free_space_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    trainer = stand_in(tmp_path, 4)
    huge = torch.empty(1, device="meta").expand(free // 8)
    trainer.model = SimpleNamespace(
        parameters=lambda: [SimpleNamespace(requires_grad=True, numel=huge.numel, element_size=huge.element_size)]
    )
    with pytest.raises(Refused, match=r"FT-TRAIN-031.*bytes free.*bytes; kept: no checkpoint yet"):
        write(trainer)
    assert list(tmp_path.iterdir()) == []


def test_the_two_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        trainer = stand_in(tmp_path, step)
        trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
        write(trainer)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3", "checkpoint-1"]
    assert not list(tmp_path.glob(".trash-*"))


def test_a_run_resumes_from_the_newest_whole_checkpoint_and_ends_with_the_same_weights(
    lab: Any, trained: Any, stop_after: Callable[[int], Any]
) -> None:
    _, sft, _ = trained
    job = lab.sft_job(lab.instructions(), save_steps=1)
    with stop_after(5):
        train.main(job)
    run = lab.state / "runs" / "sft_adapter"
    assert [path.name for path in checkpoints(run)] == ["checkpoint-4", "checkpoint-3"]
    assert all(find_damage(path) == [] for path in checkpoints(run))
    assert ".stage" not in (run / "checkpoint-4/trainer_state.json").read_text()
    (run / "checkpoint-4/optimizer.pt").unlink()
    (run / "checkpoint-9").mkdir()
    resumed = train.main(job)
    assert resumed.manifest.files[WEIGHTS] == sft.manifest.files[WEIGHTS]
    assert resumed.summary["steps"] == 6
    assert [event.split(" (")[0] for event in resumed.summary["events"]] == [
        "step 9: checkpoint-9 is damaged", "step 4: checkpoint-4 is damaged",
        "step 3: resumes from checkpoint-3 of 6 steps",
    ]  # fmt: skip
    assert resumed.summary["eval_loss_before"] == sft.summary["eval_loss_before"]
    assert not [path for path in run.iterdir() if path.name.startswith(("checkpoint-", "damaged-", "."))]


def test_a_learning_rate_changed_on_resume_is_applied_and_logged(lab: Any, stop_after: Callable[[int], Any]) -> None:
    splits = lab.instructions()
    with stop_after(5):
        train.main(lab.sft_job(splits, save_steps=2, scheduler="constant", learning_rate=2e-3))
    artifact = train.main(lab.sft_job(splits, save_steps=2, scheduler="constant", learning_rate=5e-4, max_steps=8))
    assert "step 4: learning_rate is 0.0005 from here on, was 0.002" in artifact.summary["events"]
    assert "step 4: steps is 8 from here on, was 6" in artifact.summary["events"]
    rates = {r["step"]: r["learning_rate"] for r in read_metrics(artifact.file("metrics.jsonl")) if "loss" in r}
    assert rates == pytest.approx({1: 2e-3, 2: 2e-3, 3: 2e-3, 4: 2e-3} | dict.fromkeys(range(5, 9), 5e-4))


def test_another_optimizer_starts_with_new_moments_and_logs_it(lab: Any, stop_after: Callable[[int], Any]) -> None:
    splits = lab.instructions()
    with stop_after(5):
        train.main(lab.sft_job(splits, save_steps=2))
    seal = lab.state / "runs/sft_adapter/checkpoint-4" / MANIFEST
    write_json(seal, json.loads(seal.read_text()) | {"optimizer": "paged_adamw_8bit"})
    artifact = train.main(lab.sft_job(splits, save_steps=2))
    changes = [event for event in artifact.summary["events"] if "moments start from zero" in event]
    assert len(changes) == 1
    assert artifact.summary["steps"] == 6


def test_a_training_whose_artifact_was_lost_logs_only_the_new_run(lab: Any, stop_after: Callable[[int], Any]) -> None:
    job = lab.sft_job(lab.instructions(), save_steps=2)
    with stop_after(3):
        train.main(job)
    first = train.main(job)
    assert first.summary["events"] == ["step 2: resumes from checkpoint-2 of 6 steps"]
    lab.store.discard(first)
    again = train.main(job)
    assert again.summary["events"] == []
    assert again.manifest.files[WEIGHTS] == first.manifest.files[WEIGHTS]
    steps = [record["step"] for record in read_metrics(again.file("metrics.jsonl")) if record["phase"] == "train"]
    assert steps == list(range(1, 7))
