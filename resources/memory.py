"""When memory runs out: telling it from other errors, giving back what is cached, trying again with smaller batches."""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
# what CUDA's libraries and the CPU allocator say in plain RuntimeErrors
_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_oom(error: BaseException) -> bool:
    """Whether `error` says that the device's or the host's memory ran out."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def free() -> None:
    """Give back what nothing refers to any more. Call it outside the `except` block: until it is left, the error's
    frames keep the very tensors alive that did not fit."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def log_rung(batch_size: int, said: str) -> None:
    """Tell the log that memory ran out and which batch size is tried next."""
    _log.warning("out of memory (%s); going on with batches of %d", said.splitlines()[0], batch_size)


def with_smaller_batches(
    call: Callable[[int], Result], batch_size: int, on_rung: Callable[[int, str], None] = log_rung
) -> Result:
    """`call(batch_size)`, again with half of it whenever memory runs out, down to 1; then the error itself is raised.

    `on_rung(smaller, what the error said)` is called before every new try.
    """
    while True:
        try:
            return call(batch_size)
        except Exception as error:  # whatever is not a matter of memory goes on up
            if batch_size <= 1 or not is_oom(error):
                raise
            said = str(error) or type(error).__name__
        free()
        batch_size //= 2
        on_rung(batch_size, said)
