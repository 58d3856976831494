"""Places where a test lets a process die, or the disk fail: `FT_FAULT=publish.rename:kill`. Without it, nothing.

The tests in tests/faults/ take every point with every action, and then run again: the state must be consistent.
"""

from __future__ import annotations

import errno
import os
import signal
import time

VARIABLE = "FT_FAULT"
_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "eacces": errno.EACCES}
_SLEEP = 1.0  # seconds
_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Do what FT_FAULT asks for at this point: `name:action`, or `name#3:action` for the third time it is passed."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    place, _, action = armed.rpartition(":")
    wanted, _, number = place.partition("#")
    if name != wanted:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] != int(number or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "sleep":
        time.sleep(_SLEEP)
        return
    raise OSError(_ERRORS[action], os.strerror(_ERRORS[action]), f"fault point {name}")
