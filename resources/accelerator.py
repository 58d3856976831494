"""The hardware of this machine, the device and dtype that follow from it, and its use while work runs.

Only `choose` imports torch.
"""

# torch and pynvml are untyped here
# pyright: basic
from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Self

import msgspec

from expectations.violations import Refused, violation

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
_GIB = 2**30


class Compute(msgspec.Struct, frozen=True):
    """The device work runs on and the dtype of its autocast (float32 means none)."""

    device: Device
    dtype: Dtype


def choose(device: str = "auto", dtype: str = "auto") -> Compute:
    """Return the device and dtype for the hardware found, where they are not given.

    Raises Refused: FT-ACC-001 no GPU, FT-ACC-002 a dtype that the device does not train in.

    bf16 where the GPU or the CPU has it (AMX or AVX512-BF16: measured 2.3 times faster encoding), fp16 only on
    GPUs without bf16, else fp32.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise _refused("FT-ACC-001", "device", device)
    chosen: Device = "cuda" if has_gpu and device != "cpu" else "cpu"
    if dtype == "auto":
        if chosen == "cuda":
            # torch says yes for a T4 or V100 too, which only emulate it
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return Compute(chosen, "bfloat16" if has_bf16 else "float16")
        return Compute(chosen, "bfloat16" if cpu_has_bf16() else "float32")
    if dtype == "float16" and chosen == "cpu":
        raise _refused("FT-ACC-002", "dtype", dtype)
    return Compute(chosen, dtype)  # pyright: ignore[reportArgumentType]


def _refused(code: str, key: str, value: str) -> Refused:
    refusal = violation(code, where="config.yaml", field=f"accelerator.{key}", found=value, expected="auto")
    return Refused("choosing a device", [refusal])


@cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them (empty elsewhere)."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies bf16 in hardware."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Return the bytes of main memory, in all and available, in this process's control group; (0, 0) without Linux."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return 0, 0
    lines = dict(line.split(":", 1) for line in path.read_text("ascii").splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = Path("/sys/fs/cgroup/memory.max")  # a container sees the whole host in /proc/meminfo
    if limit.is_file() and (bytes_allowed := limit.read_text("ascii").strip()) != "max":
        used = int((limit.parent / "memory.current").read_text("ascii"))
        held = dict(line.split() for line in (limit.parent / "memory.stat").read_text("ascii").splitlines())
        used -= int(held["inactive_file"]) + int(held["active_file"])  # cached files are dropped when memory is needed
        total, available = min(total, int(bytes_allowed)), min(available, max(int(bytes_allowed) - used, 0))
    return total, available


class Gpu(msgspec.Struct, frozen=True):
    """One NVIDIA GPU as its driver describes it."""

    name: str
    total: int
    """Bytes of memory."""
    free: int
    capability: tuple[int, int]
    """Compute capability; bf16 needs 8.0."""
    driver: str

    @property
    def bf16(self) -> bool:
        return self.capability >= (8, 0)


def gpus() -> list[Gpu]:
    """Return the GPUs that this process may use (CUDA_VISIBLE_DEVICES), by NVML; empty without a driver."""
    import pynvml

    found: list[Gpu] = []
    for handle in _handles():
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        used = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found.append(
            Gpu(
                name=str(pynvml.nvmlDeviceGetName(handle)),
                total=int(used.total),
                free=int(used.free),
                capability=(major, minor),
                driver=str(pynvml.nvmlSystemGetDriverVersion()),
            )
        )
    return found


@cache
def _handles() -> list[Any]:
    """Return the NVML handles of the visible GPUs, opened once a process."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    handles: list[Any] = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        try:
            by_index = name.isdigit()
            handles.append(
                pynvml.nvmlDeviceGetHandleByIndex(int(name)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(name)
            )
        except pynvml.NVMLError:
            break  # as CUDA does: devices after an unknown name are not visible
    return handles


def sample() -> dict[str, float]:
    """Return what this process uses now: memory in GiB, and memory, load and temperature of its GPU (LOCAL_RANK's).

    Figures that cannot be had here (no Linux, no driver, a GPU without that sensor) are left out. Takes well under a
    millisecond after the first call.
    """
    found: dict[str, float] = {}
    statm = Path("/proc/self/statm")
    if statm.is_file():
        found["rss_gib"] = int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / _GIB
        found["available_gib"] = memory()[1] / _GIB
    handles = _handles()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if rank >= len(handles):
        return found
    import pynvml

    readings = {
        "gpu_used_gib": lambda gpu: int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used) / _GIB,
        "gpu_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "gpu_celsius": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    }
    for name, read in readings.items():
        with suppress(pynvml.NVMLError):
            found[name] = float(read(handles[rank]))
    return found


class Sampler:
    """Samples in a thread of its own, so that a peak between two log entries is seen. A context manager.

    ```
    with Sampler(seconds=1.0) as sampler:
        ...  # on every log entry
        metrics.log("train", step, total, loss=loss, **sampler.take())
    ```
    """

    def __init__(self, seconds: float = 1.0, keep: int = 3600) -> None:
        self.samples: deque[dict[str, float]] = deque(maxlen=keep)
        """The newest `keep` samples, each with `time` (seconds since the start)."""
        self._seconds = seconds
        self._started = time.monotonic()
        self._new: deque[dict[str, float]] = deque(maxlen=keep)  # since the last `take`
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was sampled stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self) -> dict[str, float]:
        """Return one figure for each name, over the samples since the last call.

        The most memory used, the highest temperature, the least memory available, the mean load.
        """
        self._sample()
        with self._lock:
            taken = list(self._new)
            self._new.clear()
        values: dict[str, list[float]] = {}
        for one in taken:
            for name, value in one.items():
                values.setdefault(name, []).append(value)
        reduce = {"available_gib": min, "gpu_percent": fmean}
        return {name: round(float(reduce.get(name, max)(several)), 3) for name, several in values.items()}

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._sample()

    def _sample(self) -> None:
        one = sample()
        with self._lock:
            self._new.append(one)
            self.samples.append({"time": round(time.monotonic() - self._started, 3), **one})
