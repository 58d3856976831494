"""The stop button: it writes `stop: true` into the control file of a running training, as a person would."""

from __future__ import annotations

from pathlib import Path

from ft_assets.adapters.trainer.control import write_stop
from ft_assets.web.project import NotFound
from ft_assets.web.trainings import ShownTraining


def request_stop(folder: Path, training: ShownTraining) -> None:
    """Ask a running training to save a checkpoint after its current step and to end. Raises NotFound if it cannot."""
    if training.live is None or not training.live.can_stop:
        raise NotFound(f"{training.name} is not running, or nothing listens to its control file.")
    write_stop(folder)
