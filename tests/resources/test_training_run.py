"""The lock of a training: one process trains, and others may look."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from expectations.violations import Refused
from resources.files import is_locked
from resources.training_run import FINAL_MODEL, LOCK_FILE, link_final_model, lock_run, unlink_final_model, was_published


def test_a_look_at_the_lock_refuses_no_training(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    with (tmp_path / LOCK_FILE).open() as page:
        fcntl.flock(page, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(page, fcntl.LOCK_UN)).start()
        with lock_run(tmp_path, "a training"):
            assert is_locked(tmp_path / LOCK_FILE)
            with pytest.raises(Refused, match="FT-TRAIN-035"), lock_run(tmp_path, "a training"):
                pass
    assert not is_locked(tmp_path / LOCK_FILE)


def test_a_copy_that_followed_the_link_is_trained_in_again(tmp_path: Path) -> None:
    run, artifact = tmp_path / "run", tmp_path / "artifact"
    artifact.mkdir()
    (run / FINAL_MODEL).mkdir(parents=True)
    assert was_published(run)
    link_final_model(run, artifact)
    assert (run / FINAL_MODEL).is_symlink() and (run / FINAL_MODEL).resolve() == artifact
    artifact.rmdir()
    assert was_published(run)
    unlink_final_model(run)
    assert not was_published(run)
