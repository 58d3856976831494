"""What a training tells while it runs, and the first figure that is not finite stops it."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import math
from typing import Any, NoReturn

from ft_assets.adapters.refusals import refuse
from resources.telemetry import Metrics

# logged beside the figures of an evaluation, of no use on a curve
_TIMINGS = {
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
    "train_runtime", "train_samples_per_second", "train_steps_per_second",
}  # fmt: skip


def build_reporter(metrics: Metrics, dtype: str) -> Any:
    """The callback that reports every logged figure and stops the run on the first one that is not finite."""
    import torch
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # before the weights are touched; under fp16 the loss scaler skips such steps itself
            if dtype == "float16":
                return
            totals = [p.grad.sum() for p in kwargs["model"].parameters() if p.grad is not None]
            if totals and not torch.stack(totals).sum().isfinite():
                refuse_non_finite("gradient", math.nan, state.global_step + 1)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            for name in ("loss", "grad_norm", "eval_loss"):
                if name in values and not math.isfinite(values[name]):
                    refuse_non_finite(name, values[name], state.global_step)
            finite = {n: value for n, value in values.items() if math.isfinite(value) and n not in _TIMINGS}
            if "loss" in finite or "eval_loss" in finite:
                phase = "train" if "loss" in finite else "eval"
                metrics.log(phase, state.global_step, max(state.max_steps, 0), **finite)

    return Reporter()


def refuse_non_finite(name: str, value: float, step: int) -> NoReturn:
    refuse("FT-TRAIN-010", f"step {step} is not finite; the run stopped there.", field=name, found=str(value),
            expected="a finite number", mend="lower learning_rate, or look at the rows of that step")  # fmt: skip
