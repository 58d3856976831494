"""Checkpoints of a run: each is whole or does not exist, and a run resumes from the newest whole one.

    <run>/.stage-N         being written; deleted when the run is started again
    <run>/checkpoint-N     after step N; manifest.json records size and sha256 of every file: written last, then one
                           rename
    <run>/damaged-N        altered or incomplete: kept for inspection, never loaded, deleted when the run is published

Weights are safetensors. optimizer.pt, scheduler.pt and rng_state.pth are transformers' own files: they are read from a
sealed checkpoint of this run folder only, as tensors and plain values (`weights_only`). training_args.bin is a pickle
that transformers writes next to them; nothing reads it. None of these files is ever published.
"""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from expectations.canonical import file_digest
from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from resources import torchrun
from resources.artifacts import MANIFEST, FileSeal, seal_files
from resources.files import sync_to_disk, write_json
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

KEPT = 2  # checkpoints of a run
_STATE = "trainer_state.json"
_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"
_MARGIN = 1.1
# transformers, torch, tokenizers and safetensors each report a full disk differently, most of them without an errno
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXTS = ("No space left", "os error 28", "os error 27", "inline_container", "Disk quota exceeded")

_log = logging.getLogger(__name__)


class Seal(msgspec.Struct, frozen=True):
    """manifest.json of a checkpoint."""

    files: dict[str, FileSeal]
    optimizer: str
    """The optimizer whose state is in optimizer.pt (transformers' name)."""


# -- resuming ---------------------------------------------------------------------------------------------------
def train_to_the_end(
    trainer: Trainer, run_dir: Path, metrics: Metrics, *, is_over: Callable[[TrainerState], bool]
) -> None:
    """Train to the last step, from the newest whole checkpoint if there is one; a finished run trains no further.

    `is_over`: returns whether a run in this state has ended before its last step.
    """
    from transformers import TrainerState

    checkpoint = newest_whole(run_dir, metrics)
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    metrics.event("resume", state.global_step, f"resumes from {checkpoint.name} of {state.max_steps} steps")
    _log.info("resuming from %s (of %d steps)", checkpoint.name, state.max_steps)
    if state.global_step < state.max_steps and not is_over(state):
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer._load_from_checkpoint(str(checkpoint))  # `train` would add a step
    trainer.state = state


def newest_whole(run_dir: Path, metrics: Metrics) -> Path | None:
    """Return the newest undamaged checkpoint. Newer ones, which are damaged, are renamed and logged."""
    newest: Path | None = None
    if torchrun.is_main():
        for left in (*run_dir.glob(".stage-*"), *run_dir.glob(".trash-*")):
            shutil.rmtree(left, ignore_errors=True)
        for checkpoint in checkpoints(run_dir):
            damage = find_damage(checkpoint)
            if not damage:
                newest = checkpoint
                break
            aside = _set_aside(checkpoint)
            text = f"{checkpoint.name} is damaged ({'; '.join(damage)}): not used, kept as {aside.name}"
            metrics.event("damaged", _step(checkpoint), text)
            _log.warning("%s", text)
    return torchrun.gather(newest)[0]


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    folders = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(folders, key=_step, reverse=True)


def remove_checkpoints(run_dir: Path) -> None:
    """Delete all checkpoints of a published run, damaged ones too."""
    for path in (*checkpoints(run_dir), *run_dir.glob("damaged-*")):
        _remove(path)


def find_damage(checkpoint: Path) -> list[str]:
    """Return the differences between a checkpoint and its manifest; none if it is whole."""
    seal = _read_seal(checkpoint)
    if seal is None:
        return [f"no readable {MANIFEST}"]
    missing = [f"{name} is not in {MANIFEST}" for name in (_STATE, _OPTIMIZER, _SCHEDULER) if name not in seal.files]
    damages = (_compare(checkpoint / name, name, file) for name, file in seal.files.items())
    return missing + [damage for damage in damages if damage]


# -- writing ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def staged(trainer: Any) -> Iterator[Path]:
    """Yield a folder for the trainer to write `checkpoint-N` into. On leaving, the checkpoint is sealed and moved into
    the run folder in one rename, and the oldest is deleted. A failure leaves no files.

    Raises Refused: FT-TRAIN-031 (no space), FT-TRAIN-032 (not writable).
    """
    run_dir, step = Path(trainer.args.output_dir), trainer.state.global_step
    stage = run_dir / f".stage-{step}"
    try:
        if torchrun.is_main():
            _refuse_without_space(trainer, run_dir)
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
        torchrun.wait_for_all()
        yield stage
        torchrun.wait_for_all()  # every process has written its random state
        written, state = stage / f"checkpoint-{step}", trainer.state
        if state.best_model_checkpoint == str(written):  # transformers named the folder it wrote into, in every process
            state.best_model_checkpoint = str(run_dir / written.name)
        if torchrun.is_main():
            _seal(trainer, written, run_dir)
    except Exception as error:  # at least four exception types report a full disk
        if torchrun.is_main():
            shutil.rmtree(stage, ignore_errors=True)
        if _is_full(error):
            _refuse_full(run_dir, step, f"{type(error).__name__}: {error}")
        if isinstance(error, OSError):
            refuse(
                violation(
                    "FT-TRAIN-032",
                    where=f"{SUBJECT}, step {step}",
                    field=str(run_dir),
                    found=str(error),
                    expected=f"a writable folder; kept: {kept(run_dir)}",
                )
            )
        raise
    torchrun.wait_for_all()


def kept(run_dir: Path) -> str:
    """Return the name of the checkpoint that a run can resume from, as text for a person."""
    try:
        return next((path.name for path in checkpoints(run_dir) if (path / MANIFEST).is_file()), "no checkpoint yet")
    except PermissionError:  # the folder can be neither written nor read
        return "unknown (the folder cannot be read)"


def _seal(trainer: Trainer, written: Path, run_dir: Path) -> None:
    final = run_dir / written.name
    best = trainer.state.best_model_checkpoint
    if best == str(final):
        trainer.state.save_to_json(str(written / _STATE))
    seal = Seal(files=seal_files(written), optimizer=str(trainer.args.optim))
    write_json(written / MANIFEST, msgspec.to_builtins(seal))
    if final.exists():
        _remove(final)
    written.replace(final)
    sync_to_disk(run_dir)
    written.parent.rmdir()
    for old in checkpoints(run_dir)[KEPT:]:
        if str(old) != best:
            _remove(old)


def _refuse_without_space(trainer: Any, run_dir: Path) -> None:
    """Refuse before anything is written: a disk without a free byte stops other programs too."""
    seals = [seal for path in checkpoints(run_dir) if (seal := _read_seal(path)) is not None]
    if seals:
        needed = sum(file.size for file in seals[0].files.values())
    else:  # weights, and two moments of each in fp32
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        needed = sum(p.numel() * (p.element_size() + 8) for p in trained)
    free = shutil.disk_usage(run_dir).free
    if free < needed * _MARGIN:
        _refuse_full(run_dir, trainer.state.global_step, f"{free:,} bytes free", f"{int(needed * _MARGIN):,} bytes")


def _refuse_full(run_dir: Path, step: int, found: str, expected: str = "space for one more checkpoint") -> None:
    refuse(
        violation(
            "FT-TRAIN-031",
            where=f"{SUBJECT}, step {step}",
            field=str(run_dir),
            found=found,
            expected=f"{expected}; kept: {kept(run_dir)}",
        )
    )


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(text in str(error) for text in _FULL_TEXTS)


# -- settings on resume -----------------------------------------------------------------------------------------
def load_with_new_settings(trainer: Any, checkpoint: Path, load: Callable[[], None], metrics: Metrics) -> None:
    """`load` the state of optimizer and scheduler, then apply and log this run's settings where the checkpoint has
    others (transformers would keep the old ones silently)."""
    requested = [
        {name: group[name] for name in ("initial_lr", "weight_decay")} for group in trainer.optimizer.param_groups
    ]
    _load_states(trainer, checkpoint, load, metrics)
    changed: dict[str, tuple[float, float]] = {}
    for group, settings in zip(trainer.optimizer.param_groups, requested, strict=True):
        changed |= {name: (group[name], value) for name, value in settings.items() if group[name] != value}
        group.update(settings)
    steps = json.loads((checkpoint / _STATE).read_text("utf-8"))["max_steps"]
    if steps != trainer.state.max_steps:
        changed["steps"] = (steps, trainer.state.max_steps)
    for name, (old, new) in changed.items():
        text = f"{'learning_rate' if name == 'initial_lr' else name} is {new:g} from here on, was {old:g}"
        metrics.event("changed", trainer.state.global_step, text)
        _log.warning("%s", text)
    if changed:
        _restart_schedule(trainer, [settings["initial_lr"] for settings in requested])


def _load_states(trainer: Any, checkpoint: Path, load: Callable[[], None], metrics: Metrics) -> None:
    """Load optimizer and scheduler; after a change of the optimizer only the scheduler."""
    import torch

    optimizer = msgspec.json.decode((checkpoint / MANIFEST).read_bytes(), type=Seal).optimizer
    if optimizer == str(trainer.args.optim):
        load()
        return
    trainer.lr_scheduler.load_state_dict(torch.load(checkpoint / _SCHEDULER, weights_only=True))
    text = f"the optimizer is {trainer.args.optim!s}, was {optimizer}: its moments start from zero"
    metrics.event("changed", trainer.state.global_step, text)
    _log.warning("%s", text)


def _restart_schedule(trainer: Any, base_rates: list[float]) -> None:
    """Set the rates that the schedule has at this step from the new base rates."""
    scheduler = trainer.lr_scheduler
    scheduler.base_lrs = base_rates
    rates = [base * shape(scheduler.last_epoch) for base, shape in zip(base_rates, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


# -- parts ------------------------------------------------------------------------------------------------------
def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _read_seal(checkpoint: Path) -> Seal | None:
    try:
        return msgspec.json.decode((checkpoint / MANIFEST).read_bytes(), type=Seal)
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError):
        return None


def _compare(path: Path, name: str, seal: FileSeal) -> str:
    """Return the difference between a file and its seal; empty if there is none."""
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != seal.size:
        return f"{name} has {path.stat().st_size} bytes, not {seal.size}"
    return "" if file_digest(path) == seal.sha256 else f"{name} was altered"


def _set_aside(checkpoint: Path) -> Path:
    base = checkpoint.with_name(f"damaged-{_step(checkpoint)}")
    names = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in range(1, 1000))
    aside = next(path for path in names if not path.exists())
    return checkpoint.rename(aside)


def _remove(folder: Path) -> None:
    """Delete a checkpoint after one rename, so that no half of it is left, whenever this process is killed."""
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    shutil.rmtree(folder.rename(trash), ignore_errors=True)
