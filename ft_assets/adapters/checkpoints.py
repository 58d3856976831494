"""Checkpoints of a run: going on from the newest whole one."""

# transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from resources.generator import ADAPTER_NAME

_log = logging.getLogger(__name__)


def train_to_the_end(trainer: Any, run_dir: Path) -> None:
    """Train to the end, from the newest whole checkpoint if the run was interrupted."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerState

    checkpoint = next((c for c in checkpoints(run_dir) if (c / "trainer_state.json").is_file()), None)
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    _log.info("resuming from %s (step %d of %d)", checkpoint.name, state.global_step, state.max_steps)
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    # it was interrupted after its last step; `train` would add one
    set_peft_model_state_dict(
        trainer.model, load_file(checkpoint / "adapter_model.safetensors"), adapter_name=ADAPTER_NAME
    )
    trainer.state = state


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)
