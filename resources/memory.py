"""When memory runs out: recognise it, free what is cached, try again with smaller batches."""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
# texts of plain RuntimeErrors from CUDA's libraries and the CPU allocator
_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_oom(error: BaseException) -> bool:
    """Return whether `error` means that the memory of the device or of the host ran out."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def free() -> None:
    """Free the memory of objects that are no longer used. Call it outside the `except` block.

    Inside it the frames of the error keep alive the very tensors that did not fit.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def log_rung(batch_size: int, reason: str) -> None:
    """Log that memory ran out and which batch size is tried next."""
    _log.warning("out of memory (%s); continuing with batches of %d", reason.splitlines()[0], batch_size)


def with_smaller_batches(
    call: Callable[[int], Result], batch_size: int, on_rung: Callable[[int, str], None] = log_rung
) -> Result:
    """Return `call(batch_size)`; each time memory runs out, try again with half of it. At 1 the error is raised.

    `on_rung(smaller, reason)` is called before every new try.
    """
    while True:
        try:
            return call(batch_size)
        except Exception as error:  # every other error is raised again
            if batch_size <= 1 or not is_oom(error):
                raise
            reason = str(error) or type(error).__name__
        free()
        batch_size //= 2
        on_rung(batch_size, reason)
