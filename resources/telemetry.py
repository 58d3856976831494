"""Progress and metrics: a worker writes metrics.jsonl, and whoever watches reads it live, for every launcher."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

METRICS_FILE = "metrics.jsonl"
Record = dict[str, Any]
"""One line of metrics.jsonl: its position in the run, and figures with names of their own."""
_SPEED = "tokens_per_second"
EVENT = "event"  # the phase of a record that is an event and has no figures


_POSITION = {"phase", "step", "total", "seconds", "seconds_per_step"}  # the keys of a record that are not its figures


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One event worth showing to a person who waits."""

    asset: str
    kind: Literal["start", "step", "made", "reused", "failed", "check"]
    step: int = 0
    total: int = 0
    text: str = ""
    metrics: dict[str, float] = {}


_listeners: list[Callable[[Progress], None]] = []


def subscribe(listener: Callable[[Progress], None]) -> Callable[[], None]:
    """Call `listener` for every Progress emitted in this process; returns the function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def emit(progress: Progress) -> None:
    """Call every listener of this process."""
    for listener in list(_listeners):
        listener(progress)


class Metrics:
    """Appends one JSON object a step to `<run_dir>/metrics.jsonl`, flushed, with seconds since the start."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        if path.is_file():
            _cut_half_line(path)
        self._stream: TextIO = path.open("a", encoding="utf-8")
        self._started = time.monotonic()
        self._first: dict[str, tuple[int, float]] = {}  # phase -> first step logged in it, and when

    def log(self, phase: str, step: int, total: int, **values: float) -> None:
        """Record `values` at `step` of `total` in `phase` (train, eval, encode, generate …)."""
        seconds = time.monotonic() - self._started
        record: dict[str, object] = {"phase": phase, "step": step, "total": total, "seconds": round(seconds, 3)}
        first_step, first_seconds = self._first.setdefault(phase, (step, seconds))
        if step > first_step:
            record["seconds_per_step"] = round((seconds - first_seconds) / (step - first_step), 4)
        self._write({**record, **values})

    def event(self, kind: str, step: int, text: str) -> None:
        """Record an event at `step` that its reader should know of: a resume, a smaller batch, a change of settings."""
        seconds = round(time.monotonic() - self._started, 3)
        self._write({"phase": EVENT, "step": step, "total": 0, "seconds": seconds, "event": kind, "text": text})

    def _write(self, record: Mapping[str, object]) -> None:
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def read_metrics(path: Path) -> Iterator[Record]:
    """Yield the records of a metrics.jsonl; a half-written last line is left for the next reading."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each figure of a metrics.jsonl as (step, value). Of a step that was done twice the last counts."""
    steps: dict[tuple[str, int], Record] = {}
    for record in read_metrics(path):
        if record["phase"] != EVENT:
            steps[record["phase"], record["step"]] = record
    points: dict[str, list[tuple[int, float]]] = {}
    for (_, step), record in sorted(steps.items(), key=lambda item: item[0][1]):
        for name, value in record.items():
            if name not in _POSITION and isinstance(value, int | float):
                points.setdefault(name, []).append((step, float(value)))
    return points


def read_curves(path: Path) -> dict[str, list[float]]:
    """Return the values of each figure of a metrics.jsonl, as `read_points` does."""
    return {name: [value for _, value in points] for name, points in read_points(path).items()}


def read_events(path: Path) -> list[str]:
    """Return the events of a run in order, one line each."""
    return [f"step {record['step']}: {record['text']}" for record in read_metrics(path) if record["phase"] == EVENT]


class Tail:
    """Reads what was appended to a metrics.jsonl since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # after the last whole line: a half one is cut off when the next run begins (see Metrics)
        self._offset = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0

    def new(self) -> list[Record]:
        if not self._path.is_file():
            return []
        if self._path.stat().st_size < self._offset:  # a new training began a new file
            self._offset = 0
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            block = stream.read()
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def duration(seconds: float) -> str:
    """Return seconds with their unit, the same one on every page and terminal: 4.2 s, 45 s, 3 min 07 s, 1 h 02 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def describe_step(record: Record) -> tuple[str, dict[str, float]]:
    """Return a line for a person ("loss 1.23 · 2.1 s/step · 42 s left") and the numeric metrics of one record."""
    if record["phase"] == EVENT:
        return str(record["text"]), {}
    step, total, rate = int(record["step"]), int(record["total"]), float(record.get("seconds_per_step", 0))
    metrics = {k: float(v) for k, v in record.items() if k not in _POSITION and isinstance(v, int | float)}
    parts = [str(record.get("phase", ""))]
    parts += [f"{name} {value:.4g}" for name, value in list(metrics.items())[:3] if name != _SPEED]
    if speed := metrics.get(_SPEED):
        parts.append(f"{speed:,.4g} tokens/s" if speed < 10_000 else f"{speed:,.0f} tokens/s")
    if rate:
        parts.append(f"{rate:.1f} s/step" if rate >= 1 else f"{1 / rate:.1f} steps/s")
        parts.append(f"{duration(max(total - step, 0) * rate)} left")
    return " · ".join(part for part in parts if part), metrics


def _cut_half_line(path: Path) -> None:
    """Cut what a killed process or a full disk left after the last whole line."""
    with path.open("rb+") as stream:
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
