"""Adapter trainings in several gloo processes, for tests: started, signalled, waited for, and their figures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

import ft_assets
from resources import torchrun
from resources.artifacts import Artifact
from resources.launcher import Job, job_environment, read_failure, write_job
from resources.telemetry import read_metrics

WORKER = "ft_assets.adapters.train"


def elsewhere(job: Job, name: str) -> Job:
    """The same job in a run folder and a store of its own (its inputs are copied there)."""
    root = Path(job.run_dir).parent / name
    if not root.is_dir():
        (root / "artifacts").mkdir(parents=True)
        for asset in job.recipe.inputs:
            shutil.copytree(Path(job.store) / asset, root / "artifacts" / asset)
    return msgspec.structs.replace(job, store=str(root / "artifacts"), run_dir=str(root / "run"))


def start(job: Job, processes: int = 2, worker: str = WORKER) -> subprocess.Popen[bytes]:
    path = write_job(job)
    environment = {
        **os.environ, **job_environment(None, processes), **torchrun.gpu_environment(processes),
        "PYTHONPATH": str(Path(ft_assets.__file__).parents[1]),
    }  # fmt: skip
    command = torchrun.torchrun_command(worker, path, processes)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(job: Job) -> Artifact:
    """Train in two processes to the end."""
    started = start(job)
    assert started.wait(timeout=300) == 0, read_failure(Path(job.run_dir))
    return job.published()


def stop_after(job: Job, step: int, sent: signal.Signals, processes: int = 2) -> int:
    """Start, signal torchrun after the first logged step, and return its exit code."""
    started = start(job, processes)
    wait_for_step(job, started, step)
    started.send_signal(sent)
    return started.wait(timeout=180)


def wait_for_step(job: Job, started: subprocess.Popen[bytes], step: int) -> None:
    deadline = time.monotonic() + 300
    while not any(r.get("step", 0) >= step and r.get("phase") == "train" for r in logged(job)):
        assert started.poll() is None, read_failure(Path(job.run_dir))
        assert time.monotonic() < deadline
        time.sleep(0.02)


def logged(job: Job) -> list[dict[str, Any]]:
    return list(read_metrics(Path(job.run_dir) / "metrics.jsonl"))


def figures(artifact: Artifact, name: str) -> list[float]:
    """A figure of every step; of a step that was trained twice, the last one."""
    records = [r for r in read_metrics(artifact.file("metrics.jsonl")) if r["phase"] == "train" and name in r]
    return [value for _, value in sorted({r["step"]: r[name] for r in records}.items())]


def losses(artifact: Artifact) -> list[float]:
    return figures(artifact, "loss")


def workers(job: Job) -> list[int]:
    """Processes of this machine that work on the job."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue  # it has ended
        if job.run_dir.encode() in command:
            found.append(int(path.parent.name))
    return found


def wait_for_none(job: Job, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := workers(job)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
