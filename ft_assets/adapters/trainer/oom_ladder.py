"""When a training runs out of memory: rung by rung it asks for less, and goes on from the last whole checkpoint.

Micro-batch halved (and accumulation doubled: the effective batch and the loss curve stay) -> gradient checkpointing ->
activation offloading; then, since they change what is learnt, only where `oom` allows them: the 8-bit paged optimizer,
rows of half the length.
Each rung is an event of metrics.jsonl; `<run>/ladder.json` remembers them, so that a run that was killed does not have
to fall down the same steps. Evaluation has its own batch (hardened.py).
"""

# torch is untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ft_assets.adapters.refusals import refuse
from ft_assets.adapters.trainer.checkpoints import kept
from ft_assets.config.model import DpoSettings, SftSettings, TrainSettings
from resources import memory, torchrun
from resources.accelerator import Compute, Device
from resources.artifacts import write_json
from resources.telemetry import Metrics

LADDER_FILE = "ladder.json"
SHORTEST = 128  # tokens; below this a row says nothing
# what a rung may change, and what the memory of earlier rungs is good for
_KNOBS = ("micro_batch_size", "gradient_checkpointing", "activation_offloading", "optimizer", "max_length", "too_long")

T = TypeVar("T")
Knobs = dict[str, Any]
_log = logging.getLogger(__name__)


def climb(
    attempt: Callable[[Any], T], settings: SftSettings | DpoSettings, compute: Compute, run_dir: Path, metrics: Metrics
) -> T:
    """`attempt(settings)`, again with settings that need less whenever memory runs out.

    An attempt loads everything anew, so that nothing of a failed one is left: neither memory nor half-trained weights.
    Raises Refused: FT-TRAIN-033 (no rung is left), FT-TRAIN-034 (one of several processes ran out; run again).
    """
    asked = {name: getattr(settings, name) for name in _KNOBS}
    using, rungs = _remembered(run_dir, asked)
    if rungs:  # of several processes, another one may have told it
        metrics.event("rung", 0, f"goes on with what an earlier start fell back on: {'; '.join(rungs)}")
    while True:
        current = settings.model_copy(update=using)
        try:
            return attempt(current)
        except Exception as error:  # whatever is not a matter of memory goes on up
            if not memory.is_oom(error):
                raise
            said = (str(error) or type(error).__name__).splitlines()[0]
        memory.free()
        rung = next_rung(current, compute.device)
        if rung is None:
            refuse("FT-TRAIN-033", "the training does not fit into memory.", field="rungs tried",
                    found=rungs or "there was none to try", expected=f"memory enough; the last try said: {said}",
                    fix="lower max_length or lora.r, use method: qlora, or set oom.allow_8bit (GPUs) or "
                    "oom.allow_shorter: true")  # fmt: skip
        text, change = rung
        using |= change
        rungs.append(text)
        write_json(run_dir / LADDER_FILE, {"asked": asked, "using": using, "rungs": rungs})
        tell = f"out of memory ({said}): {text}, from {kept(run_dir)}"
        metrics.event("rung", 0, tell)
        _log.warning("%s", tell)
        if torchrun.world_size() > 1:  # the others wait for this one inside a collective call
            refuse("FT-TRAIN-034", f"process {torchrun.rank()} of {torchrun.world_size()} ran out of memory.",
                    field="memory", found=said, expected=text,
                    fix="run again: it takes that rung and goes on from the checkpoint")  # fmt: skip


def next_rung(settings: TrainSettings, device: Device) -> tuple[str, Knobs] | None:
    """What to ask less of next, in words and as settings; None at the bottom of the ladder."""
    micro, on_gpu = settings.micro_batch_size, device == "cuda"
    if micro > 1:
        smaller = max(n for n in range(1, micro // 2 + 1) if micro % n == 0)
        return f"micro_batch_size {smaller} (was {micro}), accumulation as much higher", {"micro_batch_size": smaller}
    if not settings.recomputes_on(device):
        return "gradient checkpointing", {"gradient_checkpointing": True}
    if on_gpu and not settings.activation_offloading:
        return "activation offloading", {"activation_offloading": True}
    allowed = settings.oom
    if allowed.allow_8bit and on_gpu and settings.optimizer == "adamw" and importlib.util.find_spec("bitsandbytes"):
        return "8-bit paged optimizer", {"optimizer": "paged_adamw_8bit"}
    if allowed.allow_shorter and settings.max_length // 2 >= SHORTEST:
        shorter = settings.max_length // 2
        policy = "drop" if settings.too_long == "raise" else settings.too_long
        return f"no rows longer than {shorter} tokens", {"max_length": shorter, "too_long": policy}
    return None


def at_the_bottom(settings: TrainSettings, device: Device) -> TrainSettings:
    """The settings once every rung was taken: the least that the training can do with."""
    while (rung := next_rung(settings, device)) is not None:
        settings = settings.model_copy(update=rung[1])
    return settings


def forget(run_dir: Path) -> None:
    """Forget the rungs of a run that is over."""
    (run_dir / LADDER_FILE).unlink(missing_ok=True)


def _remembered(run_dir: Path, asked: Knobs) -> tuple[Knobs, list[str]]:
    """The rungs that an earlier start of this run took, if it was asked for the same."""
    path = run_dir / LADDER_FILE
    if not path.is_file():
        return {}, []
    left = json.loads(path.read_text("utf-8"))
    return (left["using"], left["rungs"]) if left["asked"] == asked else ({}, [])
