"""The run folder of a training as others see it: locked while it trains, with a link to what it published."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from expectations.violations import Refused, violation
from resources import torchrun
from resources.files import file_lock

LOCK_FILE = "lock"
FINAL_MODEL = "final_model"
_LOCK_SECONDS = 1.0  # a page that looks whether a run is locked holds the lock for a moment


@contextlib.contextmanager
def lock_run(run_dir: Path, subject: str) -> Generator[None]:
    """Refuse (FT-TRAIN-035) to train in a run folder in which another process trains. `subject`: this training."""
    if not torchrun.is_main():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(run_dir / LOCK_FILE, wait=_LOCK_SECONDS))
        except BlockingIOError:
            locked = violation(
                "FT-TRAIN-035", where=subject, field=str(run_dir), found="locked", expected="one training"
            )
            raise Refused(subject, [locked]) from None
        yield


def link_final_model(run_dir: Path, published: Path) -> None:
    """Link `<run>/final_model` to the published weights. Run and artifact have one recipe, so the link stays right."""
    new = run_dir / f".{FINAL_MODEL}.{os.getpid()}"
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(published, run_dir.resolve()))
    unlink_final_model(run_dir)
    new.replace(run_dir / FINAL_MODEL)


def unlink_final_model(run_dir: Path) -> None:
    """Remove the link of an earlier training, or the folder that a copy of the state has in its place."""
    link = run_dir / FINAL_MODEL
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)


def was_published(run_dir: Path) -> bool:
    """Return whether the training in this folder was published, whatever became of its artifact."""
    return os.path.lexists(run_dir / FINAL_MODEL)
