"""An adapter trained by several processes of a Ray cluster.

Ray Train places them, sets the variables of torchrun and connects them; each runs the same `main(job)` as a rank of
torchrun does. What they write is files of the run folder, which all nodes share.
"""

# pyright: basic
# ray has no type information.
from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

from expectations.violations import Refused
from ft_assets.adapters.trainer.control import write_stop
from resources.artifacts import Artifact
from resources.launcher import RAY_RANKS, Job, Main, read_failure, run_rank
from resources.ray_pool import asked_resources
from resources.telemetry import METRICS_FILE

_OWN_FOLDER = "ray-train"  # Ray's notes on the run; they would be in the home folder


def train_on_ray(main: Main, job: Job) -> Artifact:
    """Run `main` as FT_RAY_RANKS processes and return what they publish. Raises Refused: what one of them refuses."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray.train import RunConfig, ScalingConfig  # pyright: ignore[reportMissingImports]
    from ray.train.torch import TorchTrainer  # pyright: ignore[reportMissingImports]
    from ray.train.v2.api.exceptions import TrainingFailedError  # pyright: ignore[reportMissingImports]

    resources = asked_resources()
    own = job.folder() / _OWN_FOLDER
    ray.init(log_to_driver=False)
    trainer = TorchTrainer(
        lambda config: _run(main, config),
        train_loop_config=msgspec.to_builtins(job),
        scaling_config=ScalingConfig(
            num_workers=int(os.environ[RAY_RANKS]), use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(name=job.recipe.id, storage_path=str(own)),
    )
    try:
        with stop_by_file(job.folder()):
            trainer.fit()
    except TrainingFailedError as error:
        reported = read_failure(job.folder())
        raise (reported if isinstance(reported, Refused) else error) from error
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return job.published()


def _run(main: Main, config: dict[str, Any]) -> None:
    try:
        run_rank(main, msgspec.convert(config, Job))
    except Exception as error:  # it is in the log and in a file; Ray takes only what can be pickled
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def stop_by_file(run_dir: Path) -> Generator[None]:
    """Have a signal to this process ask the others for a checkpoint: Ray runs them in threads, where none arrives.
    Before their first figure there is nothing to save, and this process ends at once, and they with it."""
    metrics = run_dir / METRICS_FILE
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0

    def stop(number: int, _: object) -> None:
        if not metrics.exists() or metrics.stat().st_mtime_ns == before:
            raise SystemExit(128 + number)
        write_stop(run_dir)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
