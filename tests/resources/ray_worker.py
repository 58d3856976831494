"""A worker for tests of launchers: it publishes, refuses, dies or waits, as its parameters say."""

from __future__ import annotations

import os
import signal
import time

from expectations.violations import Refused, violation
from resources.artifacts import Artifact
from resources.launcher import FAILURE_FILE, Job, run_worker
from resources.telemetry import Metrics


def main(job: Job) -> Artifact:
    does, folder = job.params["does"], job.folder()
    (folder / "environment").write_text("\n".join(f"{name}={value}" for name, value in os.environ.items()))
    metrics = Metrics(folder)
    metrics.log("work", 1, 2, loss=0.5)
    metrics.close()
    if does == "refuse where the disk is full" and (folder / "full").exists():
        (folder / FAILURE_FILE).mkdir()  # it cannot be written
        does = "refuse"
    if does == "refuse":
        raise Refused("the worker", [violation("FT-EMB-010", where="here", found=1, expected=2)])
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "wait":
        _wait_for_signal(folder / "stopped")
    if does == "take long":
        time.sleep(4)
    with job.artifacts().stage(job.recipe) as staging:
        (staging.path / "text.txt").write_text(f"用 Ray 做的: {job.params['text']}", "utf-8")
        return staging.publish({"letters": len(job.params["text"])})


def _wait_for_signal(path: os.PathLike[str]) -> None:
    def note(*_: object) -> None:
        time.sleep(4)  # longer than the three seconds that Ray usually leaves
        with open(path, "w", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write("a checkpoint")
        os._exit(1)

    signal.signal(signal.SIGTERM, note)
    time.sleep(60)


if __name__ == "__main__":
    run_worker(main)
