"""The Dagster resources: thin classes over the plain modules of this package. Workers never import this one."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Protocol

import dagster as dg
import msgspec
from dagster._core.errors import DagsterPipesExecutionError  # not exported anywhere

from expectations.violations import Refused
from resources import telemetry
from resources.artifacts import Artifact, ArtifactStore, Recipe, open_store
from resources.charts import Line, line_image, small_line_image
from resources.launcher import (
    LOG_FILE,
    Job,
    job_environment,
    receive_failure,
    run_folder,
    run_inline,
    worker_command,
    write_job,
)
from resources.memo import Memo
from resources.qdrant import QdrantEngine, engine_of_state
from resources.releases import Releases, open_releases
from resources.torchrun import STOP_SECONDS, gpu_environment, torchrun_command

_OBSERVE_SECONDS = 60.0  # each is a row of the event log and a point of a plot
_LOG_SECONDS = 30.0  # how long the page of a run may say nothing


class ArtifactsResource(dg.ConfigurableResource[None]):
    """The artifact store and the release pointers below the state folder."""

    state_dir: str
    config_path: str
    keep: int = 5
    keep_releases: int = 5

    def store(self) -> ArtifactStore:
        return _store(self.state_dir)

    def releases(self) -> Releases:
        return open_releases(Path(self.state_dir) / "released")

    def project(self) -> Path:
        """The folder that relative paths of config.yaml start from."""
        return Path(self.config_path).parent

    def state(self) -> Path:
        return Path(self.state_dir)


class QdrantResource(dg.ConfigurableResource[None]):
    """The vector engine that config.yaml names. The API key comes only from QDRANT_API_KEY."""

    state_dir: str
    kind: str = "edge"
    url: str | None = None
    alias: str = "passages"
    lock_timeout: float = 60.0

    def engine(self) -> QdrantEngine:
        state = Path(self.state_dir)
        return engine_of_state(state, kind=self.kind, url=self.url, alias=self.alias, lock_timeout=self.lock_timeout)


class Launcher(Protocol):
    """The call that assets make, wherever the worker runs: in this process, in child processes, on a cluster."""

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        recipe: Recipe,
        params: msgspec.Struct,
        *,
        distributed: bool = False,
    ) -> Artifact:
        """Run `module.main` on a job until its artifact is published. Raises what the worker raised.

        A worker that is `distributed` knows its rank (resources/torchrun.py) and may run as several processes.
        """
        ...


class LauncherResource(dg.ConfigurableResource[None]):
    """Runs a worker and shows its progress: log lines, live observations on the asset page, the command line."""

    state_dir: str
    kind: str = "subprocess"
    processes: int = 1
    threads: int | None = None

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        recipe: Recipe,
        params: msgspec.Struct,
        *,
        distributed: bool = False,
    ) -> Artifact:
        """Run the worker as `Launcher.run` describes."""
        store = _store(self.state_dir)
        run_dir = run_folder(Path(self.state_dir), recipe)
        job = Job(recipe=recipe, store=str(store.root), run_dir=str(run_dir), params=msgspec.to_builtins(params))
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(context, recipe.asset, run_dir, done), daemon=True)
        watcher.start()
        try:
            self.start(context, module, job, distributed=distributed)
        finally:
            done.set()
            watcher.join(timeout=10)
        artifact = store.find(recipe.asset, recipe.id)
        if artifact is None:
            raise dg.Failure(f"{module} ended without publishing {recipe.asset}/{recipe.id}; see {run_dir}")
        return artifact

    def start(self, context: dg.AssetExecutionContext, module: str, job: Job, *, distributed: bool) -> None:
        """Run the worker until it ends. Raises what it reported."""
        if self.kind == "inline":
            run_inline(module, job)
            return
        processes = self.processes if distributed and self.kind == "torchrun" else 1
        path, run_dir = write_job(job), job.folder()
        command = torchrun_command(module, path, processes) if processes > 1 else worker_command(module, path)
        env = {**os.environ, **job_environment(self.threads, processes), **gpu_environment(processes)}
        client = dg.PipesSubprocessClient(env=env, termination_timeout_seconds=float(STOP_SECONDS))
        with receive_failure(run_dir) as failure:
            try:
                client.run(context=context, command=command)
            except DagsterPipesExecutionError as error:
                raise explain(error, failure(), module, run_dir) from error


def explain(error: Exception, reported: Refused | str | None, module: str, run_dir: Path) -> Exception:
    """Return what the worker reported, a refusal as a refusal: the exit code alone explains nothing."""
    if isinstance(reported, Refused):
        return reported
    silent = f"{error}. If it was killed, memory is the usual reason: ft estimate shows what it needs"
    return dg.Failure(f"{module}: {reported or silent}; see {run_dir / LOG_FILE}")


_stores = Memo[ArtifactStore](size=4)
"""The stores of this process, by state folder: a store remembers which files it has hashed."""


def _store(state_dir: str) -> ArtifactStore:
    """Return the store of a state folder, the same one each time: a file is hashed once and not once a check."""
    return _stores.get(state_dir, lambda: open_store(Path(state_dir) / "artifacts"))


def _watch(context: dg.AssetExecutionContext, asset: str, run_dir: Path, done: threading.Event) -> None:
    """Pass on what the worker writes: each step to who listens, a line to the run's page, a point to the asset's."""
    tail = telemetry.Tail(run_dir / telemetry.METRICS_FILE)
    observed: dict[str, float] = {}
    line = ""
    now = time.monotonic()
    observe_at, log_at = now + _OBSERVE_SECONDS, now
    finished = False
    while not finished:
        finished = done.wait(0.5)
        for record in tail.new():
            text, metrics = telemetry.describe_step(record)
            step, total = int(record["step"]), int(record["total"])
            telemetry.emit(
                telemetry.Progress(asset=asset, kind="step", step=step, total=total, text=text, metrics=metrics)
            )
            observed |= {"step": float(step), **metrics}
            line = f"step {step} of {total}: {text}" if total else f"step {step}: {text}"
        now = time.monotonic()
        if line and (finished or now >= log_at):
            context.log.info(line)
            line, log_at = "", now + _LOG_SECONDS
        if observed and (finished or now >= observe_at):
            shown = {**_loss_curve(run_dir / telemetry.METRICS_FILE), **observed}
            observation = dg.AssetObservation(asset_key=asset, metadata=shown)
            context.instance.report_runless_asset_event(observation)
            observed, observe_at = {}, now + _OBSERVE_SECONDS


def _loss_curve(path: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Return the losses up to now as images, by the names that they have on the page of the finished training."""
    points = telemetry.read_points(path)
    figures = {"loss": "training", "eval_loss": "validation"}
    lines = [Line(title, points[figure]) for figure, title in figures.items() if figure in points]
    if not lines:
        return {}
    images = {"loss_line": small_line_image(lines, "loss"), "loss_curve": line_image(lines, "loss", y="loss")}
    return {name: dg.MarkdownMetadataValue(image) for name, image in images.items()}
