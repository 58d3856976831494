"""Processes that work on one state in steps: each stops at its points, and where another one holds a lock.

One process runs at a time, and until its next stop, so that the same steps end in the same way.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from expectations.violations import Refused
from resources import faults, files
from tests.faults.children import fork, wait

Perform = Callable[..., object]
_SECONDS = 120.0  # without a message; then the other side is gone
_ROUNDS = 500  # an operation takes tens of steps


class Actor:
    """A process that performs one operation after another, and may be killed at any stop. It is begun when needed."""

    def __init__(self, open_state: Callable[[], Perform], stops: Callable[[str], bool], log: Path) -> None:
        """`open_state` is called in the new process; `stops` chooses the points (and locks, by `lock <file>`)."""
        self._open, self._stops, self._log = open_state, stops, log
        self._child, self._stream = 0, None
        self.call: tuple[Any, ...] | None = None
        """The operation that has begun and not ended."""
        self.at = ""
        """The place of the stop."""

    def begin(self, *call: Any) -> None:
        """Begin an operation. It runs with the first step."""
        self.call, self.at = call, "its beginning"

    def step(self) -> list[Any] | None:
        """Run until the next stop; return how the operation ended, if it did: ["done", result], ["refused", codes]."""
        assert self.call
        if not self._child:
            self._start()
        assert self._stream
        self._stream.write(json.dumps(self.call if self.at == "its beginning" else None) + "\n")
        self._stream.flush()
        line = self._stream.readline()
        assert line, f"the process has ended: {self._log.read_text()[-3000:]}"
        kind, value = json.loads(line)
        assert kind != "failed", value
        if kind == "at":
            self.at = value
            return None
        self.call = None
        return [kind, value]

    def kill(self) -> None:
        """End the process as kill -9 does, wherever it is."""
        if self._child:
            assert self._stream
            os.kill(self._child, signal.SIGKILL)
            wait(self._child)
            self._stream.close()
        self._child, self._stream, self.call = 0, None, None

    def _start(self) -> None:
        here, there = socket.socketpair()
        for end in (here, there):
            end.settimeout(_SECONDS)
        self._child = fork(lambda: self._serve(there.makefile("rw", encoding="utf-8")), self._log)
        there.close()
        self._stream = here.makefile("rw", encoding="utf-8")
        here.close()

    def _serve(self, stream: TextIO) -> int:
        """Perform what is asked for, in the new process."""

        def send(kind: str, value: object) -> None:
            stream.write(json.dumps([kind, value]) + "\n")
            stream.flush()

        def stop(place: str) -> None:
            send("at", place)
            if not stream.readline():
                os._exit(0)

        def point(name: str) -> None:
            if self._stops(name):
                stop(name)

        def lock(file: TextIO, seconds: float | None, _: object) -> None:
            name = Path(file.name).name
            point(f"lock {name}")
            while True:
                try:
                    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if seconds == 0:
                        raise
                stop(f"waits for {name}")

        # whoever waits for another one looks again when it is let go on
        faults.point, files._lock, time.sleep = point, lock, lambda _: stop("waits for a moment")
        perform = self._open()
        while line := stream.readline():
            send(*_result(perform, json.loads(line)))
        return 0


def _result(perform: Perform, call: list[Any]) -> tuple[str, object]:
    try:
        return "done", perform(*call)
    except Refused as refused:
        return "refused", sorted({one.code for one in refused.violations})
    except Exception:  # whatever it is, the machine fails with its traceback
        return "failed", traceback.format_exc()


def finish(actors: list[Actor], step: Callable[[Actor], None]) -> None:
    """Let all operations end, one step of each in turn. Fail where they wait for one another for ever."""
    for _ in range(_ROUNDS):
        busy = [actor for actor in actors if actor.call]
        for actor in busy:
            step(actor)
        if not busy:
            return
    raise AssertionError(f"they wait for one another: {[(actor.call, actor.at) for actor in actors]}")
