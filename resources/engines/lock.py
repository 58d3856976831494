"""One process at a time in the folder of an embedded engine. A log line names the process that is waited for."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from expectations.violations import Refused, violation
from resources.files import file_lock

_log = logging.getLogger(__name__)


@contextmanager
def exclusive(folder: Path, deadline: float, timeout: float) -> Generator[None]:
    """Hold `<folder>/.writer`. Raises Refused (FT-QDR-001) if another process still has it at `deadline` (monotonic).

    qdrant-client's own lock is taken after it has read the folder: a client that opens while another writes would hold
    what was there before, and write that back. This one is taken before anything is read. It ends with its process.
    """

    def warn() -> None:
        _log.warning("waiting up to %g s for %s, which has %s open", timeout, _holder(folder), folder)

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(file_lock(folder / ".writer", wait=deadline - time.monotonic(), on_wait=warn))
        except BlockingIOError:
            raise held(folder, timeout, _holder(folder)) from None
        if stream.writable():
            stream.truncate(0)
            stream.write(f"process {os.getpid()} ({Path(sys.argv[0]).name})")
            stream.flush()
        yield


def held(folder: Path, timeout: float, holder: str) -> Refused:
    """Return the refusal that names the process that holds the lock."""
    refusal = violation(
        "FT-QDR-001",
        where=str(folder),
        message=f"{holder} has the embedded engine open",
        field="qdrant",
        found=f"still locked after {timeout:g} s",
        expected="an open engine",
    )
    return Refused("opening Qdrant", [refusal])


def _holder(folder: Path) -> str:
    return (folder / ".writer").read_text("utf-8") or "another process"
