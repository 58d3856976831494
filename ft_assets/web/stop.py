"""The stop button: it writes `stop: true` into the control file of a running training, as a person would."""

from __future__ import annotations

from pathlib import Path

from ft_assets.adapters.trainer.control import CONTROL_FILE
from ft_assets.web.project import NotFound
from ft_assets.web.trainings import ShownTraining
from resources.files import write_text


def request_stop(folder: Path, training: ShownTraining) -> None:
    """Ask a running training to save a checkpoint after its current step and to end. Raises NotFound if it cannot."""
    if training.live is None or not training.live.can_stop:
        raise NotFound(f"{training.name} is not running, or nothing listens to its control file.")
    path = folder / CONTROL_FILE
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if line.partition(":")[0].strip() != "stop"]
    write_text(path, "\n".join([*kept, "stop: true", ""]))
