"""Signals to the process that waits for a training on Ray. tests/resources/test_ray_launcher.py has real trainings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ft_assets.adapters.train_on_ray import stop_by_file


def test_a_signal_before_the_first_figure_ends_and_a_later_one_asks_for_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "control.yaml").write_text("save_steps: 5\nstop: false\n")
    with pytest.raises(SystemExit), stop_by_file(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    (tmp_path / "metrics.jsonl").write_text("of an earlier start")
    with pytest.raises(SystemExit), stop_by_file(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    with stop_by_file(tmp_path):
        (tmp_path / "metrics.jsonl").write_text("of an earlier start, and a figure")
        os.kill(os.getpid(), signal.SIGTERM)
    assert (tmp_path / "control.yaml").read_text() == "save_steps: 5\nstop: true\n"
    assert signal.getsignal(signal.SIGTERM) is before
