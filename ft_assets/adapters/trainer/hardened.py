"""TRL's trainers with additions that a long run needs: sealed checkpoints, the requested settings on resume, evaluation
within the available memory, means in which every row counts the same, and the time spent on data."""

# transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_assets.adapters.trainer.checkpoints import load_with_new_settings, staged
from ft_assets.adapters.trainer.row_weights import Batch, weigh_rows
from ft_assets.adapters.trainer.sharding import keep_shards
from resources import torchrun
from resources.memory import with_smaller_batches
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from torch import Tensor


def harden(trainer_class: type[Any], metrics: Metrics) -> type[Any]:
    """Return a subclass of a TRL trainer. Whatever it changes by itself is logged to `metrics`."""

    class HardenedTrainer(keep_shards(weigh_rows(trainer_class))):
        _stage: Path | None = None
        data_seconds = 0.0
        """Time spent waiting for batches so far."""
        step_batches: list[Batch] = []  # noqa: RUF012  replaced, never changed
        """The batches of the current step."""
        grad_norm: Tensor | float | None = None
        """Gradient norm of the current step, before clipping."""
        answer: Callable[[], dict[str, float]] = dict
        """The function that has questions answered at each evaluation and returns the figures; by default none."""

        def _get_output_dir(self, trial: object) -> str:
            return super()._get_output_dir(trial) if self._stage is None else str(self._stage)

        def _save_checkpoint(self, model: object, trial: object) -> None:
            with staged(self) as stage:
                self._stage = stage
                try:
                    super()._save_checkpoint(model, trial)
                finally:
                    self._stage = None

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            load = super()._load_optimizer_and_scheduler
            if checkpoint is not None:
                load_with_new_settings(self, Path(checkpoint), lambda: load(checkpoint), metrics)

        def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
            import torch

            evaluate = super().evaluate

            def evaluate_by(rows: int) -> dict[str, float]:
                self.args.per_device_eval_batch_size = rows
                self._metrics["eval"].clear()  # the figures of an attempt that failed
                # the data loader draws a random number: without the fork, `eval_steps` would change the dropout of
                # later steps and with it the weights
                with torch.random.fork_rng(devices=[]):
                    return evaluate(*args, **kwargs)

            def report(rows: int, reason: str) -> None:
                text = f"evaluation ran out of memory ({reason.splitlines()[0]}); it continues with batches of {rows}"
                metrics.event("rung", self.state.global_step, text)

            rows = self.args.per_device_eval_batch_size
            if torchrun.world_size() > 1:  # the other processes would wait for batches that do not come
                return evaluate_by(rows)
            return with_smaller_batches(evaluate_by, rows, report)

        def evaluation_loop(self, *args: object, **kwargs: object) -> Any:
            output = super().evaluation_loop(*args, **kwargs)
            output.metrics.update(self.answer())
            return output

        def _get_grad_norm(self, *args: object, **kwargs: object) -> Tensor | float | None:
            self.grad_norm = super()._get_grad_norm(*args, **kwargs)
            return self.grad_norm

        def get_batch_samples(self, *args: object, **kwargs: object) -> tuple[list[Batch], Tensor | int | None]:
            started = time.perf_counter()
            batches, items = super().get_batch_samples(*args, **kwargs)
            self.data_seconds += time.perf_counter() - started
            self.step_batches = batches
            return batches, items

    return HardenedTrainer
