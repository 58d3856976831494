"""Checkpoints of a run: each is whole or does not exist, and a run goes on from the newest whole one.

    <run>/.stage-N         being written; swept when the run is started again
    <run>/checkpoint-N     after step N; manifest.json seals every file (size, sha256): written last, then one rename
    <run>/damaged-N        found altered or half: kept for its reader, never loaded, gone when the run is published

Weights are safetensors. optimizer.pt, scheduler.pt and rng_state.pth are transformers' own files: they are read from a
sealed checkpoint of this run folder only, as tensors and plain values (`weights_only`). training_args.bin is a pickle
that transformers writes beside them; nothing reads it, and none of these is ever published.
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
from typing import Any

import msgspec

from expectations.canonical import file_digest
from ft_assets.adapters.refusals import refuse
from resources import torchrun
from resources.artifacts import MANIFEST, FileSeal, seal_files
from resources.files import file_lock, sync_to_disk, write_json
from resources.telemetry import Metrics

KEPT = 2  # checkpoints of a run
_STATE = "trainer_state.json"
_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"
_MARGIN = 1.1
# transformers, torch, tokenizers and safetensors each tell a full disk in their own way, most of them without an errno
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXTS = ("No space left", "os error 28", "os error 27", "inline_container", "Disk quota exceeded")

_log = logging.getLogger(__name__)


class Seal(msgspec.Struct, frozen=True):
    """manifest.json of a checkpoint."""

    files: dict[str, FileSeal]
    optimizer: str
    """Whose state optimizer.pt is (transformers' name)."""


@contextlib.contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Refuse (FT-TRAIN-035) to train where another process does: both would write the same checkpoints."""
    if not torchrun.is_main():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(run_dir / "lock", wait=False))
        except BlockingIOError:
            refuse("FT-TRAIN-035", "another process trains in this run folder.", field=str(run_dir), found="locked",
                    expected="one training", fix="wait for it, or stop it")  # fmt: skip
        yield


# -- going on ---------------------------------------------------------------------------------------------------
def train_to_the_end(trainer: Any, run_dir: Path, metrics: Metrics) -> None:
    """Train to the last step, from the newest whole checkpoint where there is one; a finished run trains no further."""
    from transformers import TrainerState

    checkpoint = newest_whole(run_dir, metrics)
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    metrics.event("resume", state.global_step, f"goes on from {checkpoint.name} of {state.max_steps} steps")
    _log.info("going on from %s (of %d steps)", checkpoint.name, state.max_steps)
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer._load_from_checkpoint(str(checkpoint))  # `train` would add a step
    trainer.state = state


def newest_whole(run_dir: Path, metrics: Metrics) -> Path | None:
    """The newest checkpoint that is what was written. Newer ones that are not are set aside by name, and told."""
    found: Path | None = None
    if torchrun.is_main():
        for left in (*run_dir.glob(".stage-*"), *run_dir.glob(".trash-*")):
            shutil.rmtree(left, ignore_errors=True)
        for checkpoint in checkpoints(run_dir):
            damage = find_damage(checkpoint)
            if not damage:
                found = checkpoint
                break
            aside = _set_aside(checkpoint)
            text = f"{checkpoint.name} is damaged ({'; '.join(damage)}): not used, kept as {aside.name}"
            metrics.event("damaged", _step(checkpoint), text)
            _log.warning("%s", text)
    return torchrun.gather(found)[0]


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=_step, reverse=True)


def remove_checkpoints(run_dir: Path) -> None:
    """Remove all of them, damaged ones too: a run that was published is over."""
    for path in (*checkpoints(run_dir), *run_dir.glob("damaged-*")):
        _remove(path)


def find_damage(checkpoint: Path) -> list[str]:
    """What of a checkpoint is not what was sealed; empty if it is whole."""
    seal = _read_seal(checkpoint)
    if seal is None:
        return [f"no readable {MANIFEST}"]
    missing = [f"{name} was never sealed" for name in (_STATE, _OPTIMIZER, _SCHEDULER) if name not in seal.files]
    return missing + [damage for name, file in seal.files.items() for damage in _compare(checkpoint / name, name, file)]


# -- writing ----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def staged(trainer: Any) -> Iterator[Path]:
    """A folder for the trainer to write `checkpoint-N` into. Leaving the block seals it, moves it into the run folder
    in one rename and retires the oldest. What fails leaves no trace but a Refused: FT-TRAIN-031 (no space),
    FT-TRAIN-032 (may not be written)."""
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
        if torchrun.is_main():
            _seal(trainer, stage / f"checkpoint-{step}", run_dir)
    except Exception as error:  # a full disk is told by at least four types
        if torchrun.is_main():
            shutil.rmtree(stage, ignore_errors=True)
        if _is_full(error):
            _refuse_full(run_dir, step, f"{type(error).__name__}: {error}")
        if isinstance(error, OSError):
            refuse("FT-TRAIN-032", f"the checkpoint of step {step} cannot be written; the run stopped there.",
                    field=str(run_dir), found=str(error), expected=f"a writable folder; kept: {kept(run_dir)}",
                    fix="give this user the run folder back, then run again: it goes on from there")  # fmt: skip
        raise
    torchrun.wait_for_all()


def kept(run_dir: Path) -> str:
    """The checkpoint a run can go on from, in words."""
    try:
        return next((path.name for path in checkpoints(run_dir) if (path / MANIFEST).is_file()), "no checkpoint yet")
    except PermissionError:  # the right to read went with the right to write
        return "what lay there"


def _seal(trainer: Any, written: Path, run_dir: Path) -> None:
    final = run_dir / written.name
    best = trainer.state.best_model_checkpoint
    if best is not None and Path(best) == written:  # transformers named the folder it wrote into
        trainer.state.best_model_checkpoint = best = str(final)
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
    """Refuse before anything is written: a disk that is full to the last byte stops others too."""
    seals = [seal for path in checkpoints(run_dir) if (seal := _read_seal(path)) is not None]
    if seals:
        needed = sum(file.size for file in seals[0].files.values())
    else:  # weights, and two moments of each in fp32
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        needed = sum(p.numel() * (p.element_size() + 8) for p in trained)
    free = shutil.disk_usage(run_dir).free
    if free < needed * _MARGIN:
        _refuse_full(run_dir, trainer.state.global_step, f"{free:,} bytes free", f"{int(needed * _MARGIN):,} bytes")


def _refuse_full(run_dir: Path, step: int, found: str, expected: str = "room for one more checkpoint") -> None:
    refuse("FT-TRAIN-031", f"no space for the checkpoint of step {step}; the run stopped there.", field=str(run_dir),
            found=found, expected=f"{expected}; kept: {kept(run_dir)}",
            fix="free space on that disk, then run again: it goes on from there")  # fmt: skip


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(text in str(error) for text in _FULL_TEXTS)


# -- settings on resume -----------------------------------------------------------------------------------------
def load_as_asked(trainer: Any, checkpoint: Path, load: Callable[[], None], metrics: Metrics) -> None:
    """`load` the optimizer's and the scheduler's state, then apply the settings of this run where the checkpoint's
    differ (transformers would keep the old ones without a word), and tell each of them."""
    import torch

    step = trainer.state.global_step
    asked = [{name: group[name] for name in ("initial_lr", "weight_decay")} for group in trainer.optimizer.param_groups]
    sealed = msgspec.json.decode((checkpoint / MANIFEST).read_bytes(), type=Seal).optimizer
    if sealed != str(trainer.args.optim):
        trainer.lr_scheduler.load_state_dict(torch.load(checkpoint / _SCHEDULER, weights_only=True))
        text = f"the optimizer is {trainer.args.optim!s}, was {sealed}: its moments begin anew"
        metrics.event("changed", step, text)
        _log.warning("%s", text)
    else:
        load()
    changed: dict[str, tuple[Any, Any]] = {}
    for group, wanted in zip(trainer.optimizer.param_groups, asked, strict=True):
        changed |= {name: (group[name], value) for name, value in wanted.items() if group[name] != value}
        group.update(wanted)
    steps = json.loads((checkpoint / _STATE).read_text("utf-8"))["max_steps"]
    if steps != trainer.state.max_steps:
        changed["steps"] = (steps, trainer.state.max_steps)
    for name, (was, now) in changed.items():
        text = f"{'learning_rate' if name == 'initial_lr' else name} is {now:g} from here on, was {was:g}"
        metrics.event("changed", step, text)
        _log.warning("%s", text)
    if changed:
        scheduler = trainer.lr_scheduler
        scheduler.base_lrs = [wanted["initial_lr"] for wanted in asked]
        rates = [
            base * shape(scheduler.last_epoch)
            for base, shape in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates


# -- parts ------------------------------------------------------------------------------------------------------
def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _read_seal(checkpoint: Path) -> Seal | None:
    try:
        return msgspec.json.decode((checkpoint / MANIFEST).read_bytes(), type=Seal)
    except (OSError, msgspec.MsgspecError):
        return None


def _compare(path: Path, name: str, seal: FileSeal) -> list[str]:
    if not path.is_file():
        return [f"{name} is missing"]
    if path.stat().st_size != seal.size:
        return [f"{name} has {path.stat().st_size} bytes, not {seal.size}"]
    return [] if file_digest(path) == seal.sha256 else [f"{name} was altered"]


def _set_aside(checkpoint: Path) -> Path:
    base = checkpoint.with_name(f"damaged-{_step(checkpoint)}")
    names = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in range(1, 1000))
    aside = next(path for path in names if not path.exists())
    return checkpoint.rename(aside)


def _remove(folder: Path) -> None:
    """Gone in one step, then deleted at leisure: no half checkpoint, whenever this is killed."""
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    shutil.rmtree(folder.rename(trash), ignore_errors=True)
