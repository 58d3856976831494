"""The training worker on a machine where the second process runs out of memory in its fourth step with two rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from ft_assets.adapters import train
from resources import torchrun
from resources.launcher import run_worker

_step = Trainer.training_step


def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    if torchrun.rank() == 1 and self.state.global_step == 3 and len(inputs["input_ids"]) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return _step(self, model, inputs, *args, **kwargs)


if __name__ == "__main__":
    Trainer.training_step = training_step
    run_worker(train.main)
