"""A worker for tests of launchers: it publishes, refuses, dies or waits, as its parameters say."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from expectations.violations import Refused, violation
from resources import ray_pool
from resources.artifacts import Artifact
from resources.launcher import FAILURE_FILE, Job, run_worker
from resources.ray_pool import ActorPool
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
    if does == "share work":
        with job.artifacts().stage(job.recipe) as staging:
            return staging.publish(_share_work(folder))
    with job.artifacts().stage(job.recipe) as staging:
        (staging.path / "text.txt").write_text(f"用 Ray 做的: {job.params['text']}", "utf-8")
        return staging.publish({"letters": len(job.params["text"])})


def _share_work(folder: Path) -> dict[str, object]:
    """Return the results of a pool, how it ended where it could not, and how often each item was tried."""
    done, refused = {}, {}
    items = ["a", "die once", "b", "c"]
    with ActorPool("launcher.ray.generators", 2, Shouting, folder) as pool:
        done = {items[number]: result for number, result in pool.run(items)}
    for item in ("die", "refuse", "sleep"):
        ray_pool.QUIET_SECONDS = 5.0 if item == "sleep" else 1800.0
        try:
            with ActorPool("launcher.ray.generators", 2, Shouting, folder) as pool:
                list(pool.run([item]))
        except Refused as error:
            refused[item] = error.violations[0].code
    tries = {path.stem: path.read_text().count("\n") for path in folder.glob("*.tries")}
    return {"done": done, "refused": refused, "tries": tries}


class Shouting:
    """The work of an actor: text in capitals, or an accident."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, item: str) -> str:
        if item == "sleep":
            time.sleep(60)
        path = self._folder / f"{item}.tries"
        first = not path.exists()
        with path.open("a") as stream:
            stream.write("tried\n")
        if item == "die" or (item == "die once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "refuse":
            raise Refused("the work", [violation("FT-EMB-010", where="here", found=1, expected=2)])
        return item.upper()


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
