"""One worker as several processes, started by torchrun: the command, the ranks, and the GPUs that each may see.

Every rank runs the same `main(job)`. Only rank 0 (`is_main`) publishes and writes shared files.
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import ctypes
import os
import signal
import sys
from itertools import chain
from pathlib import Path
from typing import TypeVar

from resources import accelerator

RANKS_FOLDER = "ranks"
LAUNCHER = "FT_LAUNCHER_PID"
"""Environment variable: the process that started the worker."""
# a worker that is cancelled ends its step and writes a checkpoint; torchrun kills after 30 by default
STOP_SECONDS = 600
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")


def torchrun_command(module: str, job_path: Path, processes: int) -> list[str]:
    """Return the command that runs a worker module on a job file in `processes` processes of this machine.

    What a rank prints goes to `<run folder>/ranks/…/<rank>/`; rank 0 is shown as well.
    """
    options = {
        "--nproc-per-node": str(processes),
        "--max-restarts": "0",
        "--shutdown-timeout": str(STOP_SECONDS - 30),
        "--log-dir": str(job_path.parent / RANKS_FOLDER),
        "--redirects": "3",
        "--tee": "0:3",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, *chain.from_iterable(options.items()), "-m", module, "--job", str(job_path)]


def rank() -> int:
    """Return the number of this process in its worker, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes that run this worker together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process of the worker has called this (at once where there is one)."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def gather(value: T) -> list[T]:
    """Return the `value` of every process, by rank."""
    if world_size() == 1:
        return [value]
    import torch.distributed

    values = [value] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def end_with_parent() -> None:
    """Have Linux end this worker (SIGTERM) when torchrun or Dagster's process ends, however it ended.

    A rank left behind would wait for ever, and a worker left behind would work next to the one that replaces it.
    """
    if (world_size() > 1 or LAUNCHER in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if _is_orphan():  # it ended before prctl was called
            os.kill(os.getpid(), signal.SIGTERM)


def _is_orphan() -> bool:
    """Return whether the process that started this worker has ended: for a rank, the parent of its torchrun."""
    parent = os.getppid()
    if "RANK" in os.environ:
        try:
            status = Path(f"/proc/{parent}/stat").read_text("utf-8")
        except OSError:
            return True
        parent = int(status.rpartition(")")[2].split()[1])  # after the name, which may hold anything: state, parent
    return str(parent) != os.environ.get(LAUNCHER, str(parent))


def gpu_environment(processes: int) -> dict[str, str]:
    """Return what a worker's environment needs besides `job_environment`: one GPU where it is one process.

    With several GPUs one process would use `DataParallel`, which TRL refuses.
    """
    visible = visible_gpus() if processes == 1 else []
    return {"CUDA_VISIBLE_DEVICES": visible[0]} if len(visible) > 1 else {}


def visible_gpus() -> list[str]:
    """Return the GPUs that a process started here would see, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in {"", "-1"}]
    return [str(number) for number in range(len(accelerator.gpus()))]
