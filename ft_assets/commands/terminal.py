"""The terminal: a console and live progress while a command works."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from ft_assets.config.load import make_state_folder
from resources.telemetry import Progress, duration

_WIDTH_WITHOUT_TERMINAL = 140
_PLAIN_SECONDS = 5.0


def make_console(stream: IO[str] | None = None) -> Console:
    """Return a console; without a terminal (CI, a pipe) it is wide enough that tables stay whole."""
    target = stream if stream is not None else sys.stdout
    return Console(file=target, width=None if target.isatty() else _WIDTH_WITHOUT_TERMINAL, highlight=False)


@contextmanager
def take_terminal(log: Path) -> Generator[Console]:
    """Yield a console on the real stdout, while all else that this process and its children print goes to `log`.

    Dagster mirrors the output of every step to the terminal; there it would break the progress lines. It stays
    readable in `log` and, step by step, in the run's compute logs.
    """
    make_state_folder(log.parent)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8") if _is_descriptor_1(sys.stdout) else None
    try:
        with log.open("wb") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        yield make_console(terminal)
    finally:
        for target, source in enumerate(saved, start=1):
            os.dup2(source, target)
            os.close(source)
        if terminal:
            terminal.close()


class ProgressLines:
    """One line an asset, updated in place on a terminal, else a plain line at most every few seconds."""

    def __init__(self, console: Console, total: int, plain_seconds: float = _PLAIN_SECONDS) -> None:
        self._console = console
        self._total = total
        self._plain_seconds = plain_seconds
        self._numbers: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._last_plain = 0.0
        self._lock = threading.RLock()  # steps are reported by the thread that watches the worker
        self._status: Status | None = console.status("") if console.is_terminal else None

    def __enter__(self) -> ProgressLines:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, progress: Progress) -> None:
        """Show one event."""
        with self._lock:
            head = self._head(progress.asset)
            match progress.kind:
                case "start":
                    self._live(head)
                case "step":
                    self._live(f"{head}  {_step(progress)}", plain=True)
                case "made" | "reused":
                    self._line(f"{head}  {progress.kind}{self._took(progress)}", progress.text)
                case "failed":
                    self._line(f"[red]{head}  FAILED[/]", progress.text)
                case "check" if not progress.step:
                    self._line(f"[red]{head}  check failed[/]", progress.text)
                case _:
                    pass

    def _head(self, asset: str) -> str:
        number = self._numbers.setdefault(asset, len(self._numbers) + 1)
        self._started.setdefault(asset, time.monotonic())
        width = len(str(self._total))
        return escape(f"[{number:>{width}}/{self._total}] {asset}")

    def _took(self, progress: Progress) -> str:
        seconds = time.monotonic() - self._started[progress.asset]
        return f" in {duration(seconds)}" if progress.kind == "made" and seconds >= 1 else ""

    def _live(self, text: str, *, plain: bool = False) -> None:
        if self._status:
            self._status.update(text)
        elif plain and time.monotonic() - self._last_plain >= self._plain_seconds:
            self._last_plain = time.monotonic()
            self._console.print(text, soft_wrap=True)

    def _line(self, text: str, detail: str) -> None:
        if self._status:
            self._status.update("")  # that work is over
        self._console.print(f"{text}{f' · {escape(detail)}' if detail else ''}", soft_wrap=True)


def _step(progress: Progress) -> str:
    """`train 40/60 · loss 1.234 · 2.1 s/step · 42 s left`: the phase is the first part of the text."""
    phase, separator, rest = progress.text.partition(" · ")
    counted = f" {progress.step}/{progress.total}" if progress.step or progress.total else ""
    return escape(f"{phase}{counted}{separator}{rest}".strip())


def _is_descriptor_1(stream: IO[str]) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):
        return False
