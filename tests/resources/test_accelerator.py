"""The devices of this machine, the choice of one, and the measured use of a process."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from expectations.violations import Refused
from resources import accelerator
from resources.accelerator import Sampler, choose, gpus, memory, sample

HAS_GPU = bool(gpus())


def test_a_cpu_is_chosen_with_the_dtype_that_it_computes_in():
    assert choose("cpu").dtype == ("bfloat16" if accelerator.cpu_has_bf16() else "float32")
    assert choose("cpu", "float32").dtype == "float32"
    with pytest.raises(Refused, match=r"FT-ACC-002.*A CPU does not train in float16"):
        choose("cpu", "float16")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_missing_gpu_is_not_chosen():
    with pytest.raises(Refused, match=r"FT-ACC-001.*No GPU"):
        choose("cuda")
    assert choose().device == "cpu"
    assert sample().keys() == {"rss_gib", "available_gib"}


@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
def test_a_gpu_reports_its_kind_and_its_use():
    assert all(gpu.free <= gpu.total and gpu.capability >= (3, 0) and gpu.driver for gpu in gpus())
    assert {"gpu_used_gib", "gpu_percent"} <= sample().keys()


@contextmanager
def memory_in_use(size: int) -> Iterator[None]:
    """Pages of their own, all of them written: what `malloc` returns may be memory that this process had already."""
    with mmap.mmap(-1, size) as pages:
        for start in range(0, size, mmap.PAGESIZE):
            pages[start] = 1
        yield


def test_memory_is_the_limit_of_this_process():
    total, available = memory()
    assert 0 < available <= total


def test_a_sample_counts_allocated_memory():
    before = sample()["rss_gib"]
    with memory_in_use(200 * 2**20):
        assert sample()["rss_gib"] - before == pytest.approx(200 / 1024, abs=0.05)


def test_a_peak_between_two_readings_is_reported_once():
    with Sampler(seconds=0.01) as sampler:
        before = sampler.take()["rss_gib"]
        with memory_in_use(200 * 2**20):
            time.sleep(0.3)
        time.sleep(0.05)
        assert sampler.take()["rss_gib"] - before > 0.15
        assert sampler.take()["rss_gib"] - before < 0.05
    assert [one["time"] for one in sampler.samples] == sorted(one["time"] for one in sampler.samples)


def test_the_thread_ends_at_once_and_the_buffer_stays_small():
    with Sampler(seconds=0.001, keep=5) as sampler:
        time.sleep(0.05)
    assert len(sampler.samples) == 5
    assert "sampler" not in {thread.name for thread in threading.enumerate()}
    slow = Sampler(seconds=60)
    slow.start()
    started = time.monotonic()
    slow.stop()
    assert time.monotonic() - started < 1
