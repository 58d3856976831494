from __future__ import annotations

import gc
import weakref

import pytest
import torch

from resources.memory import is_oom, with_smaller_batches


def test_out_of_memory_errors_are_distinguished_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)  # the CPU allocator's own error
    assert is_oom(caught.value)
    assert is_oom(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_oom(MemoryError())
    assert is_oom(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_oom(RuntimeError("shape mismatch"))
    assert not is_oom(ValueError("out of memory"))


def test_the_batch_is_halved_until_it_fits_and_the_tensors_of_failed_attempts_are_freed() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    rungs: list[tuple[int, str]] = []

    def work(batch_size: int) -> int:
        gc.collect()
        assert all(ref() is None for ref in held)
        activations = torch.zeros(batch_size)
        held.append(weakref.ref(activations))
        if batch_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch_size

    assert with_smaller_batches(work, 8, lambda size, reason: rungs.append((size, reason))) == 2
    assert rungs == [(4, "CUDA out of memory"), (2, "CUDA out of memory")]


def test_a_single_row_that_does_not_fit_and_any_other_error_are_raised() -> None:
    tried: list[int] = []

    def never(batch_size: int) -> None:
        tried.append(batch_size)
        raise torch.OutOfMemoryError("no")

    def broken(batch_size: int) -> None:
        tried.append(batch_size)
        raise RuntimeError("shape mismatch")

    with pytest.raises(torch.OutOfMemoryError):
        with_smaller_batches(never, 5)
    assert tried == [5, 2, 1]
    with pytest.raises(RuntimeError, match="shape"):
        with_smaller_batches(broken, 5)
    assert tried == [5, 2, 1, 5]
