"""Requests to a running training: stop (SIGTERM, SIGINT, `stop: true`), or log, evaluate and save more often.

`<run folder>/control.yaml` is read again whenever it changes; the run folder is `<state>/runs/<asset>/<recipe>`:

    logging_steps: 5
    eval_steps: 50
    save_steps: 50
    stop: true          # write a checkpoint after this step and end; the next run resumes from it

Every key is optional. An invalid file changes nothing. Changes and invalid files are recorded as events.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.trainer.checkpoints import kept
from resources import torchrun
from resources.files import ABSENT, file_stamp, write_text
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

CONTROL_FILE = "control.yaml"
_CADENCES = ("logging_steps", "eval_steps", "save_steps")

_log = logging.getLogger(__name__)


def write_stop(run_dir: Path) -> None:
    """Write `stop: true` into the control file, and leave what else it asks for."""
    path = run_dir / CONTROL_FILE
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    others = [line for line in lines if line.partition(":")[0].strip() != "stop"]
    write_text(path, "\n".join([*others, "stop: true", ""]))


class Requests(BaseModel):
    """The keys of control.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    logging_steps: PositiveInt | None = None
    """Steps between two records of metrics.jsonl."""
    eval_steps: PositiveInt | None = None
    """Steps between two evaluations."""
    save_steps: PositiveInt | None = None
    """Steps between two checkpoints."""
    stop: bool = False
    """Write a checkpoint after the current step and end."""


class Stop:
    """Handles SIGTERM and SIGINT: during training a request to stop, at any other time a refusal (FT-TRAIN-030).

    A context manager. Outside the main thread, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self, run_dir: Path) -> None:
        self.requested_by = ""
        """The signal or file that requested the stop; empty if there is no request."""
        self.started_at = time.time()
        """A `stop: true` that was written before is that of an earlier run."""
        self._run_dir = run_dir
        self._waits = False

    def __enter__(self) -> Self:
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_a_step(self) -> Iterator[None]:
        """Within the block, a signal waits for the current step to end."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.requested_by:
            self.refuse()

    def refuse(self) -> NoReturn:
        refuse(
            violation(
                "FT-TRAIN-030",
                where=f"{SUBJECT}, stopped by {self.requested_by}",
                field="checkpoint",
                found=kept(self._run_dir),
                expected="a run to its last step",
            )
        )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested_by = signal.Signals(number).name
        if not self._waits:
            self.refuse()


def build_control(run_dir: Path, metrics: Metrics, stop: Stop) -> TrainerCallback:
    """Return the callback that applies requests between two steps."""
    from transformers import TrainerCallback

    file = ControlFile(run_dir / CONTROL_FILE)

    class Control(TrainerCallback):
        def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: object, **_: object) -> None:
            state.compute_steps(args, state.max_steps)  # else a checkpoint would restore its own
            self._follow(state)

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            self._follow(state)
            if any(torchrun.gather(bool(stop.requested_by))):  # processes receive a signal at different steps
                stop.requested_by = stop.requested_by or "another process"
                control.should_save = control.should_training_stop = True

        def _follow(self, state: TrainerState) -> None:
            read = (file.read(), file.changed_at < stop.started_at) if torchrun.is_main() else (None, False)
            requests, is_old = torchrun.gather(read)[0]
            if isinstance(requests, str):
                text = f"{CONTROL_FILE} is invalid and is ignored: {requests}"
                metrics.event("ignored", state.global_step, text)
                _log.warning("%s", text)
            if not isinstance(requests, Requests):
                return
            for name in _CADENCES:
                old, new = getattr(state, name), getattr(requests, name)
                if new is not None and new != old:
                    setattr(state, name, new)
                    metrics.event("changed", state.global_step, f"{name} is {new} from here on, was {old}")
            if requests.stop and is_old:
                text = f"`stop` in {CONTROL_FILE} is older than this run and is ignored"
                metrics.event("ignored", state.global_step, text)
            elif requests.stop:
                stop.requested_by = CONTROL_FILE
                metrics.event("stop", state.global_step, f"{CONTROL_FILE} requested a stop")

    return Control()


class ControlFile:
    """Reads a control.yaml when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    @property
    def changed_at(self) -> float:
        """Time of the last change that was read, in seconds; 0 before the first."""
        return self._seen[1] / 1e9 if self._seen else 0.0

    def read(self) -> Requests | str | None:
        """Return the requests, or why they cannot be read, or None if nothing changed since the last call."""
        try:
            stamp = file_stamp(self._path)
            if stamp in {ABSENT, self._seen}:
                return None
            self._seen = stamp
            document = YAML(typ="safe", pure=True).load(self._path.read_text("utf-8"))
            return Requests.model_validate(document or {})
        except FileNotFoundError:
            return None
        except ValidationError as error:
            return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        except (YAMLError, ValueError, OSError) as error:  # ruamel raises ValueError for an invalid date
            return " ".join(str(error).split())
