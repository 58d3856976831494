"""Fallbacks of a training that runs out of memory: each needs less, and the run resumes from the last whole checkpoint.

In this order: half the micro-batch (with twice the accumulation: the effective batch and the loss curve stay the same),
gradient checkpointing, activation offloading. Then, only where `oom` allows them, because they change what is learnt:
the 8-bit paged optimizer, and rows of at most half the length.
Each fallback (a rung of the ladder) is an event of metrics.jsonl. `<run>/ladder.json` keeps them, so that a run that
was killed does not run out of memory again at the same steps. Evaluation has its own batch size (hardened.py).
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

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.trainer.checkpoints import kept
from ft_assets.config.model import DpoSettings, SftSettings, TrainSettings
from resources import memory, torchrun
from resources.accelerator import Compute, Device
from resources.artifacts import write_json
from resources.telemetry import Metrics

LADDER_FILE = "ladder.json"
SHORTEST = 128  # tokens; a shorter row teaches nothing
# the settings that a fallback may change; recorded fallbacks are valid only for the same values of them
_KNOBS = ("micro_batch_size", "gradient_checkpointing", "activation_offloading", "optimizer", "max_length", "too_long")

T = TypeVar("T")
Changes = dict[str, object]
"""Settings and their new values."""
_log = logging.getLogger(__name__)


def train_with_fallbacks(
    attempt: Callable[[Any], T], settings: SftSettings | DpoSettings, compute: Compute, run_dir: Path, metrics: Metrics
) -> T:
    """Return `attempt(settings)`, repeated with settings that need less memory whenever it runs out.

    An attempt loads everything again, so that a failed one leaves neither memory in use nor half-trained weights.
    Raises Refused: FT-TRAIN-033 (no fallback is left), FT-TRAIN-034 (one of several processes ran out; run again).
    """
    requested = {name: getattr(settings, name) for name in _KNOBS}
    using, rungs = _recorded(run_dir, requested)
    if rungs:  # of several processes, another one may have logged it
        metrics.event("rung", 0, f"continues with the fallbacks of an earlier start: {'; '.join(rungs)}")
    while True:
        current = settings.model_copy(update=using)
        try:
            return attempt(current)
        except Exception as error:  # any other error is raised
            if not memory.is_oom(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        memory.free()
        rung = next_rung(current, compute.device)
        if rung is None:
            refuse(
                violation(
                    "FT-TRAIN-033",
                    where=SUBJECT,
                    field="fallbacks tried",
                    found=rungs or "none was possible",
                    expected=f"enough memory; the last attempt failed with: {reason}",
                )
            )
        text, changes = rung
        using |= changes
        rungs.append(text)
        write_json(run_dir / LADDER_FILE, {"asked": requested, "using": using, "rungs": rungs})
        event = f"out of memory ({reason}): {text}, from {kept(run_dir)}"
        metrics.event("rung", 0, event)
        _log.warning("%s", event)
        if torchrun.world_size() > 1:  # the others wait for this one inside a collective call
            refuse(
                violation(
                    "FT-TRAIN-034",
                    where=f"{SUBJECT}, process {torchrun.rank()} of {torchrun.world_size()}",
                    field="memory",
                    found=reason,
                    expected=text,
                )
            )


def next_rung(settings: TrainSettings, device: Device) -> tuple[str, Changes] | None:
    """Return the next fallback, as text and as settings; None if there is no further one."""
    micro, on_gpu = settings.rows_at_once, device == "cuda"
    whole = settings.sharding == "none"  # sharding.py refuses the other rungs of GPUs
    if micro > 1:
        smaller = max(n for n in range(1, micro // 2 + 1) if micro % n == 0)
        text = f"micro_batch_size {smaller} (was {micro}), accumulation raised by the same factor"
        return text, {"micro_batch_size": smaller}
    if not settings.recomputes_on(device):
        return "gradient checkpointing", {"gradient_checkpointing": True}
    if on_gpu and whole and not settings.activation_offloading:
        return "activation offloading", {"activation_offloading": True}
    allowed = settings.oom
    larger = settings.optimizer in {"adamw", "adamw_8bit"}
    if allowed.allow_8bit and on_gpu and whole and larger and importlib.util.find_spec("bitsandbytes"):
        return "8-bit paged optimizer", {"optimizer": "paged_adamw_8bit"}
    if allowed.allow_shorter and settings.max_length // 2 >= SHORTEST:
        shorter = settings.max_length // 2
        policy = "drop" if settings.too_long == "raise" else settings.too_long
        return f"no rows longer than {shorter} tokens", {"max_length": shorter, "too_long": policy}
    return None


def take_all_fallbacks(settings: TrainSettings, device: Device) -> TrainSettings:
    """Return the settings after every fallback: the least memory that the training can run with."""
    while (rung := next_rung(settings, device)) is not None:
        settings = settings.model_copy(update=rung[1])
    return settings


def delete_fallbacks(run_dir: Path) -> None:
    """Delete the recorded fallbacks of a published run."""
    (run_dir / LADDER_FILE).unlink(missing_ok=True)


def _recorded(run_dir: Path, requested: Changes) -> tuple[Changes, list[str]]:
    """Return the fallbacks of an earlier start of this run, if it had the same settings."""
    path = run_dir / LADDER_FILE
    if not path.is_file():
        return {}, []
    ladder = json.loads(path.read_text("utf-8"))
    return (ladder["using"], ladder["rungs"]) if ladder["asked"] == requested else ({}, [])
