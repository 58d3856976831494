"""TRL's trainers with what a run must survive built in: sealed checkpoints, settings as asked on resume, evaluation
within the memory there is, and the time that data takes."""

# transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ft_assets.adapters.trainer.checkpoints import load_as_asked, staged
from resources import torchrun
from resources.memory import with_smaller_batches
from resources.telemetry import Metrics


def harden(trainer_class: Any, metrics: Metrics) -> Any:
    """A subclass of a TRL trainer; what it does unasked is told to `metrics`."""

    class HardenedTrainer(trainer_class):
        _stage: Path | None = None
        data_seconds = 0.0
        """Time spent waiting for batches so far."""
        step_batches: list[dict[str, Any]] = []  # noqa: RUF012  replaced, never changed
        """The batches of the step in hand."""
        grad_norm: Any = None
        """Of the step in hand, before it was clipped."""

        def _get_output_dir(self, trial: Any) -> str:
            return super()._get_output_dir(trial) if self._stage is None else str(self._stage)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            with staged(self) as stage:
                self._stage = stage
                try:
                    super()._save_checkpoint(model, trial)
                finally:
                    self._stage = None

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            load = super()._load_optimizer_and_scheduler
            if checkpoint is not None:
                load_as_asked(self, Path(checkpoint), lambda: load(checkpoint), metrics)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            import torch

            evaluate = super().evaluate

            def by(rows: int) -> dict[str, float]:
                self.args.per_device_eval_batch_size = rows
                self._metrics["eval"].clear()  # what a try that failed had gathered
                # its data loader draws a number: dropout would go on otherwise, and `eval_steps` decide the weights
                with torch.random.fork_rng(devices=[]):
                    return evaluate(*args, **kwargs)

            def tell(rows: int, said: str) -> None:
                text = f"evaluation ran out of memory ({said.splitlines()[0]}); it goes on with batches of {rows}"
                metrics.event("rung", self.state.global_step, text)

            rows = self.args.per_device_eval_batch_size
            # where there are several processes, the others would wait for batches that do not come
            return by(rows) if torchrun.world_size() > 1 else with_smaller_batches(by, rows, tell)

        def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
            self.grad_norm = super()._get_grad_norm(*args, **kwargs)
            return self.grad_norm

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            batches, items = super().get_batch_samples(*args, **kwargs)
            self.data_seconds += time.perf_counter() - started
            self.step_batches = batches
            return batches, items

    return HardenedTrainer
