"""Jobs and workers. A worker has one entry, `main(job)`: a JSON job in, a published artifact out, on every launcher.

A worker module ends with `if __name__ == "__main__": run_worker(main)` and imports no Dagster; when a Dagster run
started it, its log lines and messages travel back through dagster-pipes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from expectations.violations import Refused, Violation, violation
from resources import accelerator, faults, torchrun
from resources.artifacts import Artifact, ArtifactStore, Recipe, open_store
from resources.files import write_json

LOG_FILE = "training.log"
FAILURE_FILE = "failure.json"
FAILURE_PIPE = "failure.pipe"
RAY_ENCODERS, RAY_GENERATORS, RAY_RANKS = "FT_RAY_ENCODERS", "FT_RAY_GENERATORS", "FT_RAY_RANKS"
"""Environment variables of a job of Ray: the actors that encode next to each other, those that generate, the processes
of a training."""
RAY_CPUS, RAY_GPUS, RAY_MEMORY_GB = "FT_RAY_CPUS", "FT_RAY_GPUS", "FT_RAY_MEMORY_GB"
"""Environment variables of a job of Ray: what each of these asks for."""
_PIPE_BYTES = 60_000  # a pipe takes 64 KiB from a writer that does not wait
_log = logging.getLogger(__name__)


Params = TypeVar("Params", bound=msgspec.Struct)


class ComputeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The device and dtype of a worker. Not part of a recipe: they do not decide the result."""

    state_dir: str
    device: str
    dtype: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The work of a worker: the recipe to publish, and the worker's own `params`. Paths are absolute."""

    recipe: Recipe
    store: str
    run_dir: str
    params: dict[str, Any]

    def params_as(self, kind: type[Params]) -> Params:
        """Return the worker's own parameters, typed. Raises msgspec.ValidationError that names the wrong field."""
        return msgspec.convert(self.params, kind)

    def artifacts(self) -> ArtifactStore:
        return open_store(Path(self.store))

    def input(self, asset: str) -> Artifact:
        """Return the artifact that the recipe names, by its version: a newer one is never read under an older recipe.

        Raises Refused (FT-ART-004).
        """
        version = self.recipe.inputs[asset]
        found = self.artifacts().find_version(asset, version)
        if found is None:
            fix = f"ft run --asset {asset}"
            refusal = violation("FT-ART-004", where=asset, field="data version", expected=version, fix=fix)
            raise Refused(f"{self.recipe.asset} {self.recipe.id}", [refusal])
        return found

    def published(self) -> Artifact:
        """Return the artifact that this job published, on any rank. Raises OSError if there is none."""
        artifact = self.artifacts().find(self.recipe.asset, self.recipe.id)
        if artifact is None:
            raise OSError(f"{self.recipe.asset}/{self.recipe.id} was published, but is not in {self.store}")
        return artifact

    def folder(self) -> Path:
        path = Path(self.run_dir)
        path.mkdir(parents=True, exist_ok=True)
        return path


Main = Callable[[Job], Artifact]


def job_environment(threads: int | None, processes: int = 1) -> dict[str, str]:
    """Return the environment of a worker of this process: no hub telemetry, quiet tokenizers, its compute threads.

    `threads` are shared among the worker's `processes` and go before OMP_NUM_THREADS, which holds for each of them;
    without either, they share the cores.
    """
    given = os.environ.get("OMP_NUM_THREADS")
    share = str(max(1, (threads or accelerator.cores()) // processes))
    if threads and given not in {None, share}:
        _log.warning(
            "launcher.threads: %d gives each process %s threads; OMP_NUM_THREADS=%s is not used", threads, share, given
        )
    return {
        torchrun.LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": given if given and not threads else share,
        # libgomp's waiting threads spin 30 times longer by default and take the core another thread needs: measured
        # 4.5 times faster on busy cores, 4 % slower on idle ones (OMP_WAIT_POLICY=PASSIVE would cost 40 % there)
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }


def worker_command(module: str, job_path: Path) -> list[str]:
    """Return the command that runs a worker module on a job file."""
    return [sys.executable, "-m", module, "--job", str(job_path)]


def run_folder(state: Path, recipe: Recipe) -> Path:
    """Return the folder in which a worker makes a recipe: its job, its log, its metrics, its checkpoints."""
    return state / "runs" / recipe.asset / recipe.id


def write_job(job: Job) -> Path:
    """Write the job into its run folder and return the file."""
    (job.folder() / FAILURE_FILE).unlink(missing_ok=True)
    path = job.folder() / "job.json"
    write_json(path, msgspec.to_builtins(job))
    return path


def run_inline(module: str, job: Job) -> None:
    """Run a worker in this process (tests, debugging)."""
    main: Main = importlib.import_module(module).main
    write_job(job)
    main(job)


def run_worker(main: Main) -> None:
    """Run `main` on the job that --job names: the entry point of a worker process."""
    torchrun.end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    job = msgspec.json.decode(parser.parse_args().job.read_bytes(), type=Job)
    run_rank(lambda job: _run_reporting(main, job), job)


def run_rank(main: Main, job: Job) -> None:
    """Run `main` as one of the processes of a worker, and leave in a file what ended it. Raises what it raised.

    The log is <run_dir>/training.log; every rank but the first has a file of its own.
    """
    log_file = LOG_FILE if torchrun.is_main() else f"rank-{torchrun.rank()}.log"
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        handlers=[logging.FileHandler(job.folder() / log_file), logging.StreamHandler(sys.stderr)],
        force=True,  # in an actor of Ray there are others, and the file would stay empty
    )
    try:
        main(job)
    except Exception as error:  # written for the parent to report, then raised all the same
        # of several ranks the first that failed has the reason; the others only stopped
        if torchrun.world_size() == 1 or not (job.folder() / FAILURE_FILE).exists():
            try:
                write_json(job.folder() / FAILURE_FILE, _describe_failure(error))
            except OSError:  # the disk may be what failed
                _send_failure(job.folder(), error)
        raise


@contextlib.contextmanager
def receive_failure(run_dir: Path) -> Generator[Callable[[], Refused | str | None]]:
    """Yield a function that returns, after the worker has ended, the refusal or the error with which it did; None if it
    left none.

    A worker writes it to a file, or, where the disk is full, into a pipe, which needs no space.
    """
    path = run_dir / FAILURE_PIPE
    path.unlink(missing_ok=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield lambda: read_failure(run_dir) or _sent_failure(reader)
    finally:
        os.close(reader)
        path.unlink(missing_ok=True)


def _send_failure(run_dir: Path, error: Exception) -> None:
    line = json.dumps(_describe_failure(error), ensure_ascii=False).encode()
    if len(line) >= _PIPE_BYTES:  # a refusal of very many rows
        line = json.dumps({"error": f"{type(error).__name__}: {str(error)[: _PIPE_BYTES // 8]}"}).encode()
    with contextlib.suppress(OSError):  # nobody waits for it: the error is in the log all the same
        faults.point("pipes.failure")
        writer = os.open(run_dir / FAILURE_PIPE, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(writer, line + b"\n")
        finally:
            os.close(writer)


def _sent_failure(reader: int) -> Refused | str | None:
    with contextlib.suppress(BlockingIOError):
        first = os.read(reader, 2**16).partition(b"\n")[0]  # of several processes, the first that failed
        return _failure_of(json.loads(first)) if first else None
    return None


def read_failure(run_dir: Path) -> Refused | str | None:
    """Return the refusal or the error with which the last worker in this folder ended; None if it left none."""
    path = run_dir / FAILURE_FILE
    if not path.is_file():
        return None
    return _failure_of(json.loads(path.read_text("utf-8")))


def _failure_of(failure: dict[str, Any]) -> Refused | str:
    if "violations" not in failure:
        return str(failure["error"])
    return Refused(failure["subject"], msgspec.convert(failure["violations"], list[Violation]))


def _describe_failure(error: Exception) -> dict[str, object]:
    if isinstance(error, Refused):
        return {"subject": error.subject, "violations": msgspec.to_builtins(error.violations, enc_hook=str)}
    return {"error": f"{type(error).__name__}: {error}"}


def _run_reporting(main: Main, job: Job) -> Artifact:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or not torchrun.is_main():
        return main(job)
    from dagster_pipes import open_dagster_pipes  # pyright: ignore[reportUnknownVariableType]

    failed: Exception | None = None
    try:
        with open_dagster_pipes() as pipes:
            pipes.log.info(f"worker {os.getpid()} runs {job.recipe.asset} {job.recipe.id}")
            try:
                artifact = main(job)
            except Exception as error:  # kept, because closing the pipes may fail too; raised all the same
                failed = error
                raise
            faults.point("pipes.report")
            pipes.log.info(f"published {artifact.path.name} (data version {artifact.data_version})")
            return artifact
    except OSError as error:  # on a full disk closing the pipes fails as well, and would hide the reason
        raise failed or error from None
