"""What may be asked of a training while it runs: to stop (SIGTERM, SIGINT, `stop: true`), to tell or save more often.

`<run folder>/control.yaml` is read again whenever it changes; the run folder is `<state>/runs/<asset>/<recipe>`:

    logging_steps: 5
    eval_steps: 50
    save_steps: 50
    stop: true          # checkpoint after this step and end; the next run goes on from there

Every key is optional. What is not valid changes nothing. Both are recorded as events.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ft_assets.adapters.refusals import refuse
from ft_assets.adapters.trainer.checkpoints import kept
from resources import torchrun
from resources.files import ABSENT, file_stamp
from resources.telemetry import Metrics

CONTROL_FILE = "control.yaml"
_CADENCES = ("logging_steps", "eval_steps", "save_steps")

_log = logging.getLogger(__name__)


class Wishes(BaseModel):
    """control.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    logging_steps: PositiveInt | None = None
    """Steps between two entries of metrics.jsonl."""
    eval_steps: PositiveInt | None = None
    """Steps between two evaluations."""
    save_steps: PositiveInt | None = None
    """Steps between two checkpoints."""
    stop: bool = False
    """Checkpoint after the step in hand and end."""


class Stop:
    """Turns SIGTERM and SIGINT into a wish while training runs, and into a refusal (FT-TRAIN-030) at any other time.

    A context manager; it leaves signals alone where Python lets no one listen to them, outside the main thread.
    """

    def __init__(self, run_dir: Path) -> None:
        self.asked = ""
        """Who asked to stop; empty if nobody did."""
        self._run_dir = run_dir
        self._waits = False

    def __enter__(self) -> Self:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_a_step(self) -> Iterator[None]:
        """For the length of the block a signal waits for the step in hand to end."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.asked:
            self.refuse()

    def refuse(self) -> NoReturn:
        refuse("FT-TRAIN-030", f"the run was stopped ({self.asked}).", field="checkpoint", found=kept(self._run_dir),
                expected="a run to its last step", fix="run again: it goes on from there")  # fmt: skip

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        if not self._waits:
            self.refuse()


def build_control(run_dir: Path, metrics: Metrics, stop: Stop) -> Any:
    """The callback that brings wishes to a running training, between two steps."""
    from transformers import TrainerCallback

    file = WishFile(run_dir / CONTROL_FILE)

    class Control(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.compute_steps(args, state.max_steps)  # a checkpoint would bring back its own
            self._follow(state, at_start=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._follow(state)
            if any(torchrun.gather(bool(stop.asked))):  # processes hear a signal at different steps
                stop.asked = stop.asked or "another process was asked to"
                control.should_save = control.should_training_stop = True

        def _follow(self, state: Any, at_start: bool = False) -> None:
            read = torchrun.gather(file.read() if torchrun.is_main() else None)[0]
            if isinstance(read, str):
                text = f"{CONTROL_FILE} is not valid and is ignored: {read}"
                metrics.event("ignored", state.global_step, text)
                _log.warning("%s", text)
            if not isinstance(read, Wishes):
                return
            for name in _CADENCES:
                was, now = getattr(state, name), getattr(read, name)
                if now is not None and now != was:
                    setattr(state, name, now)
                    metrics.event("changed", state.global_step, f"{name} is {now} from here on, was {was}")
            if read.stop and at_start:
                text = f"`stop` in {CONTROL_FILE} is older than this run and is ignored"
                metrics.event("ignored", state.global_step, text)
            elif read.stop:
                stop.asked = CONTROL_FILE
                metrics.event("stop", state.global_step, f"{CONTROL_FILE} asked to stop")

    return Control()


class WishFile:
    """Reads a control.yaml when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read(self) -> Wishes | str | None:
        """What it wishes, why it cannot be read, or None where nothing changed since the last call."""
        try:
            stamp = file_stamp(self._path)
            if stamp in {ABSENT, self._seen}:
                return None
            self._seen = stamp
            document = YAML(typ="safe", pure=True).load(self._path.read_text("utf-8"))
            return Wishes.model_validate(document or {})
        except FileNotFoundError:
            return None
        except ValidationError as error:
            return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        except (YAMLError, ValueError, OSError) as error:  # ruamel says ValueError of a date that is none
            return " ".join(str(error).split())
