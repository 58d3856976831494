"""Launcher `ray`: the same worker command as a job of a Ray cluster. Imported only where config.yaml asks for it.

The cluster and this machine share the state folder under one path. Messages and log lines travel through Dagster Pipes;
the worker's refusal, its metrics and its artifact are files of the state folder, so a lost connection loses nothing.
"""

# pyright: basic
# ray has no type information, and is not installed everywhere.
from __future__ import annotations

import os
import shlex
import time
import uuid
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from expectations.violations import Refused, violation
from resources import torchrun
from resources.bucket import STORE_URL
from resources.dagster_resources import LauncherResource, explain
from resources.launcher import (
    RAY_CPUS,
    RAY_ENCODERS,
    RAY_GENERATORS,
    RAY_GPUS,
    RAY_MEMORY_GB,
    RAY_RANKS,
    Job,
    job_environment,
    read_failure,
    write_job,
)

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient  # pyright: ignore[reportMissingImports]

TOKEN_FILE = "ray.token"  # noqa: S105 - shows that a path is the same folder everywhere; not a secret
_NOT_SHARED = 78  # exit code of a job that does not see the run folder
_LOST_SECONDS = 60.0
"""A dashboard that does not answer for so long is gone."""
_POLL_SECONDS = 1.0
_GIB = 1024**3


class RayLauncherResource(LauncherResource):
    """Runs a worker as a Ray job, and shows its progress as `LauncherResource` does."""

    address: str
    python: str = "python"
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None
    encoders: int = 1
    generators: int = 1

    def start(self, context: dg.AssetExecutionContext, module: str, job: Job, *, distributed: bool) -> None:
        """Submit the worker and wait until it ends; wait for one of the same recipe that is running already.

        Raises Refused: FT-RAY-001 no cluster answers, FT-RAY-002 the state folder is not shared, FT-RAY-003 there is
        no room for it, and whatever the worker refuses.
        """
        ranks = self.processes if distributed else 1
        jobs = self._connect()
        name = f"ft-{job.recipe.asset}-{job.recipe.id}"
        submitted = {one.submission_id: one.status for one in jobs.list_jobs() if one.submission_id}
        known = {key: status for key, status in submitted.items() if key.startswith(f"{name}-")}
        running = [key for key, status in known.items() if not status.is_terminal()]
        if running:  # it outlived the Dagster process that submitted it
            context.log.info(f"Ray job {running[0]} of the same recipe is running: waiting for it")
            status, error = self._rejoin(jobs, running[0]), None
        else:
            self._require_room(ranks)
            submitted = self.submission(module, job, f"{name}-{uuid.uuid4().hex[:8]}", ranks)
            status, error = self._submit(context, jobs, submitted)
        if str(status) == "SUCCEEDED":
            self._require_published(job)
            return
        if _has_exit_code(error, _NOT_SHARED):
            raise Refused(f"{job.recipe.asset} on Ray", [_not_shared(job.run_dir)]) from error
        raise explain(error or RuntimeError(f"the Ray job ended as {status}"), read_failure(Path(job.run_dir)), module,
                      Path(job.run_dir)) from error  # fmt: skip

    def submission(self, module: str, job: Job, name: str, ranks: int = 1) -> dict[str, Any]:
        """Return what is submitted: one process, or one that waits for `ranks` others and asks for nothing itself.

        Its environment is shown on Ray's dashboard: it holds no secret.
        """
        path, token = write_job(job), uuid.uuid4().hex
        token_file = path.with_name(TOKEN_FILE)
        token_file.write_text(token)
        environment = job_environment(self.threads or max(1, int(self.cpus)) * ranks, ranks)
        del environment[torchrun.LAUNCHER]  # a process of this machine: the worker would end itself
        environment["RAY_JOB_STOP_WAIT_TIME_S"] = str(torchrun.STOP_SECONDS)  # 3 seconds are too few for a checkpoint
        if url := os.environ.get(STORE_URL):  # its credentials are those of the node
            environment[STORE_URL] = url
        shared = {RAY_ENCODERS: self.encoders, RAY_GENERATORS: self.generators, RAY_RANKS: ranks}
        environment |= {name: str(number) for name, number in shared.items() if number > 1}
        asked = {RAY_CPUS: self.cpus, RAY_GPUS: self.gpus, RAY_MEMORY_GB: self.memory_gb or 0}
        environment |= {name: str(amount) for name, amount in asked.items()}
        seen = f'test "$(cat {shlex.quote(str(token_file))})" = {token}'
        command = shlex.join([self.python, "-m", module, "--job", str(path)])
        held = 0 if ranks > 1 else 1
        wanted = {"entrypoint_num_cpus": self.cpus * held, "entrypoint_num_gpus": self.gpus * held}
        if self.memory_gb and held:
            wanted["entrypoint_memory"] = int(self.memory_gb * _GIB)
        return {
            "entrypoint": f"{seen} || exit {_NOT_SHARED}; exec {command}",
            "runtime_env": {"env_vars": environment},
            "submission_id": name,
            **wanted,
        }

    def _connect(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient  # pyright: ignore[reportMissingImports]

        try:
            return JobSubmissionClient(self.address)
        except (ConnectionError, RuntimeError) as error:
            found = str(error).splitlines()[0]
            unreachable = violation("FT-RAY-001", where=self.address, field="launcher.ray.address", found=found)
            raise Refused("launching a worker on Ray", [unreachable]) from error

    def _require_room(self, ranks: int) -> None:
        """Raise Refused (FT-RAY-003) unless the nodes have what the processes ask for, whether it is free or not."""
        from ray.util.state import list_nodes  # pyright: ignore[reportMissingImports]

        nodes = [dict(node.resources_total or {}) for node in list_nodes(address=self.address) if node.state == "ALIVE"]
        if nodes and places(nodes, self.cpus, self.gpus, self.memory_gb) < ranks:
            largest = "; ".join(_describe(node) for node in nodes[:5])
            expected = f"{ranks} x {self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory_gb or 0:g} GB, each on one node"
            small = violation("FT-RAY-003", where=self.address, field="launcher.ray", found=largest, expected=expected)
            raise Refused("launching a worker on Ray", [small])

    def _submit(
        self, context: dg.AssetExecutionContext, jobs: JobSubmissionClient, submitted: dict[str, Any]
    ) -> tuple[JobStatus | str, Exception | None]:
        """Run one job; return how it ended, and the error with which it did."""
        from dagster_ray.core.pipes import PipesRayJobClient  # pyright: ignore[reportMissingImports]

        client = PipesRayJobClient(address=self.address)  # an interrupted run stops its job, by SIGTERM
        name = submitted["submission_id"]
        try:
            client.run(context=context, submit_job_params=submitted)
        except DagsterExecutionInterruptedError:
            self._settle(jobs, name)  # a training writes its checkpoint
            raise
        except Exception as error:  # the job failed, or only the connection to it
            return self._settle(jobs, name), error
        return "SUCCEEDED", None

    def _rejoin(self, jobs: JobSubmissionClient, name: str) -> JobStatus | str:
        """Return the status with which a job has ended that another process submitted. An interrupted run stops it."""
        try:
            return self._settle(jobs, name)
        except DagsterExecutionInterruptedError:
            jobs.stop_job(name)
            self._settle(jobs, name)  # a training writes its checkpoint
            raise

    def _settle(self, jobs: JobSubmissionClient, name: str) -> JobStatus | str:
        """Return the status with which a job has ended. A dashboard that is away for less than a minute is waited for.

        The job goes on without it: what counts is whether its artifact is published.
        """
        heard = time.monotonic()
        while True:
            try:
                status = jobs.get_job_status(name)
            except (ConnectionError, RuntimeError) as error:
                if time.monotonic() - heard > _LOST_SECONDS:
                    return f"unknown, {self.address} does not answer: {error}"
            else:
                heard = time.monotonic()
                if status.is_terminal():
                    return status
            time.sleep(_POLL_SECONDS)

    def _require_published(self, job: Job) -> None:
        """Raise Refused (FT-RAY-002) if a job that succeeded published its artifact somewhere else."""
        if job.artifacts().find(job.recipe.asset, job.recipe.id) is None:
            raise Refused(f"{job.recipe.asset} on Ray", [_not_shared(job.store)])


def places(nodes: list[dict[str, Any]], cpus: float, gpus: float, memory_gb: float | None) -> int:
    """Return how many processes the nodes can hold at once, each with these CPUs, GPUs and memory of one node."""
    wanted = {"CPU": cpus, "GPU": gpus, "memory": (memory_gb or 0) * _GIB}
    asked = {name: amount for name, amount in wanted.items() if amount}
    return sum(min(floor(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes)


def _describe(node: dict[str, Any]) -> str:
    memory = node.get("memory", 0) / _GIB
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {memory:.1f} GB"


def _has_exit_code(error: Exception | None, code: int) -> bool:
    return f"exit code {code}" in str(error)


def _not_shared(folder: str) -> Any:
    return violation("FT-RAY-002", where=folder, field="FT_STATE_DIR", found="another folder on the cluster's node",
                     expected="one folder under one path")  # fmt: skip
