"""Real processes that are killed, real disks that fill up, real permissions that are lost."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.trainer import checkpoints
from ft_assets.adapters.trainer.checkpoints import find_damage
from resources.artifacts import MANIFEST
from resources.launcher import FAILURE_FILE, Job, run_worker, write_job
from resources.telemetry import read_metrics

WEIGHTS = "adapter/adapter_model.safetensors"
LONG = {"max_steps": 40, "save_steps": 1, "eval_steps": 10}
KILLS = 12


def start(job: Job) -> BaseProcess:
    """A worker process on the job. Forked, so that it does not have to import everything again; but autograd does not
    work in a fork where there is a GPU."""
    import torch

    kind = "spawn" if torch.cuda.is_available() else "fork"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--job", str(write_job(job))])
        if kind == "fork":
            worker = get_context(kind).Process(target=run_worker, args=(train.main,))
        else:
            worker = get_context(kind).Process(target=runpy.run_module, args=(train.__name__, None, "__main__"))
        worker.start()
    return worker


def wait_for_steps(worker: BaseProcess, job: Job, count: int) -> int:
    """Wait until the worker trained `count` steps; the last one's number."""
    path = job.folder() / "metrics.jsonl"
    before = len(list(read_metrics(path)))
    deadline = time.monotonic() + 120
    while worker.is_alive() and time.monotonic() < deadline:
        steps = [record["step"] for record in list(read_metrics(path))[before:] if record["phase"] == "train"]
        if len(steps) >= count:
            return steps[-1]
        time.sleep(0.01)
    raise AssertionError(f"the worker ended ({worker.exitcode}) before it trained {count} steps")


def named_wholes(run: Path) -> list[str]:
    """Every checkpoint of a run, each proved whole; nothing else may look like one."""
    found = checkpoints.checkpoints(run)
    assert {path.name: find_damage(path) for path in found} == {path.name: [] for path in found}
    return [path.name for path in found]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_identical(lab: Any) -> None:
    job = lab.sft_job(lab.instructions(), **LONG)
    undisturbed = train.main(job)
    lab.store.discard(undisturbed)
    (job.folder() / "metrics.jsonl").unlink()
    dice = random.Random(4)  # noqa: S311
    for _ in range(KILLS):
        worker = start(job)
        wait_for_steps(worker, job, dice.randint(1, 5))
        time.sleep(dice.random() * 0.1)  # in a step, in an evaluation, in the middle of a save
        worker.kill()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        assert named_wholes(job.folder())
    worker = start(job)
    worker.join(300)
    assert worker.exitcode == 0
    artifact = lab.store.find(job.recipe.asset, job.recipe.id)
    assert artifact.summary["steps"] == 40
    assert artifact.manifest.files[WEIGHTS] == undisturbed.manifest.files[WEIGHTS]
    assert sum("resumes from" in event for event in artifact.summary["events"]) == KILLS
    assert not any("damaged" in event for event in artifact.summary["events"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_dpo_ends_bit_identical(lab: Any, method: str) -> None:
    sft = train.main(lab.sft_job(lab.instructions(), max_steps=2, method=method, learning_rate=1e-3))
    job = lab.dpo_job(lab.preferences(), sft, **LONG | {"max_steps": 12}, method=method, learning_rate=1e-4)
    undisturbed = train.main(job)
    lab.store.discard(undisturbed)
    (job.folder() / "metrics.jsonl").unlink()
    for count in (2, 4):
        worker = start(job)
        wait_for_steps(worker, job, count)
        worker.kill()
        worker.join()
        assert named_wholes(job.folder())
    worker = start(job)
    worker.join(300)
    artifact = lab.store.find(job.recipe.asset, job.recipe.id)
    assert artifact.data_version == undisturbed.data_version
    assert sum("resumes from" in event for event in artifact.summary["events"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_gets_a_signal_ends_and_names_the_kept_checkpoint(lab: Any, number: signal.Signals) -> None:
    job = lab.sft_job(lab.instructions(), **LONG | {"save_steps": 1000, "max_steps": 2000})
    worker = start(job)
    step = wait_for_steps(worker, job, 3)
    assert worker.pid is not None
    os.kill(worker.pid, number)
    worker.join(120)
    assert worker.exitcode == 1
    (kept,) = named_wholes(job.folder())
    assert int(kept.removeprefix("checkpoint-")) >= step
    violations = json.loads((job.folder() / FAILURE_FILE).read_text("utf-8"))["violations"]
    assert [violation["code"] for violation in violations] == ["FT-TRAIN-030"]
    assert violations[0]["found"] == kept


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(lab: Any, refused_codes: Any) -> None:
    job = lab.sft_job(lab.instructions(), **LONG | {"max_steps": 2000})
    worker = start(job)
    wait_for_steps(worker, job, 1)
    try:
        assert refused_codes(lambda: train.main(job)) == {"FT-TRAIN-035"}
    finally:
        worker.kill()
        worker.join()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(job: Job, disk: Path) -> Job:
    return msgspec.structs.replace(job, run_dir=str(disk / "run"))


def leave_free(disk: Path, size: int) -> Path:
    filler = disk / "filler"
    status = os.statvfs(disk)
    filler.write_bytes(b"x" * max(status.f_bavail * status.f_frsize - size, 0))
    return filler


@pytest.mark.slow
def test_before_a_disk_is_full_the_run_stops_and_resumes_when_there_is_space(
    lab: Any, small_disk: Path, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    job = on_disk(lab.sft_job(lab.instructions(), save_steps=2), small_disk)
    at_step(3, lambda: leave_free(small_disk, 50_000) and None)
    with pytest.raises(Refused, match=r"FT-TRAIN-031.*step 4.*bytes free.*kept: checkpoint-2"):
        train.main(job)
    assert named_wholes(job.folder()) == ["checkpoint-2"]
    (small_disk / "filler").unlink()
    assert train.main(job).summary["steps"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("free", [4_096, 60_000, 140_000, 200_000, 330_000])
def test_a_disk_that_fills_up_while_it_is_written_leaves_only_whole_checkpoints(
    lab: Any, small_disk: Path, at_step: Callable[[int, Callable[[], None]], None], free: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # another program takes the space after it was checked
    monkeypatch.setattr(checkpoints, "_refuse_without_space", lambda *_: None)
    job = on_disk(lab.sft_job(lab.instructions(), save_steps=2, logging_steps=100), small_disk)
    at_step(3, lambda: leave_free(small_disk, free) and None)
    with pytest.raises(Refused, match=r"FT-TRAIN-031.*step 4.*kept: checkpoint-2"):
        train.main(job)
    assert named_wholes(job.folder()) == ["checkpoint-2"]
    assert not list(job.folder().glob(".stage-*"))
    (small_disk / "filler").unlink()
    assert train.main(job).summary["steps"] == 6


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights away and take them back")
def test_lost_permission_leaves_only_whole_checkpoints(
    lab: Any, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    job = lab.sft_job(lab.instructions(), save_steps=2)
    nobody = 65534
    at_step(3, lambda: os.seteuid(nobody))
    try:
        with pytest.raises(Refused, match=r"FT-TRAIN-032.*step 4.*Permission denied.*kept: "):
            train.main(job)
    finally:
        os.seteuid(0)
    assert named_wholes(job.folder()) == ["checkpoint-2"]
    assert (job.folder() / "checkpoint-2" / MANIFEST).is_file()
    assert train.main(job).summary["steps"] == 6
