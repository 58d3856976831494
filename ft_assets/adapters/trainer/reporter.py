"""What a training tells while it runs: metrics.jsonl, TensorBoard, memory and throughput. The first figure that is not
finite stops it."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ft_assets.adapters.refusals import refuse
from ft_assets.adapters.trainer.checkpoints import kept
from resources.accelerator import Sampler
from resources.telemetry import Metrics

# logged beside the figures of an evaluation, of no use on a curve
_TIMINGS = {
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
    "train_runtime", "train_samples_per_second", "train_steps_per_second",
}  # fmt: skip
# so many values of so many tensors are watched: a sample, since all of a whole model would cost a third of a small step
_WATCHED, _VALUES = 32, 2**14
_SHOWN_ROWS = 8


def build_reporter(
    trainer: Any, metrics: Metrics, sampler: Sampler, name_row: Callable[[Sequence[int]], str | None]
) -> Any:
    """The callback that reports every logged figure and stops the run on the first one that is not finite.

    `trainer` is a hardened one; `sampler` runs; `name_row` names the row of a training by its token ids.
    """
    import torch
    from transformers import TrainerCallback

    run_dir = Path(trainer.args.output_dir)
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    sample = trained[:: len(trained) // _WATCHED | 1]  # an odd step: A and B matrices take turns

    def watch() -> list[Any]:
        return [parameter.detach().flatten()[:_VALUES] for parameter in sample]

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._board = _open_board(run_dir, state.global_step) if state.is_world_process_zero else None
            self._busy = self._tokens = self._data = 0.0  # seconds and tokens since the last entry
            self._copies: list[Any] = []
            self._logged: dict[str, float] = {}

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._board is not None:
                self._board.close()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._began = time.perf_counter()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # before the weights are touched; under fp16 the loss scaler skips such steps itself
            if not args.fp16 and not math.isfinite(norm := float(trainer.grad_norm)):
                refuse_non_finite("gradient", norm, state.global_step + 1, kept(run_dir), self._rows())
            if (state.global_step + 1) % state.logging_steps == 0:
                self._copies = [values.clone() for values in watch()]

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._copies:
                before = torch.nn.utils.get_total_norm(self._copies)
                moved = [now - was for now, was in zip(watch(), self._copies, strict=True)]
                change = torch.nn.utils.get_total_norm(moved)
                self._logged = {"weight_norm": before.item(), "update_ratio": (change / before).item()}
                self._copies = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._busy += time.perf_counter() - self._began

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            # the loss scaler of fp16 finds its scale by gradients that are not finite
            for name in ("loss", "eval_loss") if args.fp16 else ("loss", "grad_norm", "eval_loss"):
                if name in values and not math.isfinite(values[name]):
                    rows = self._rows() if name == "loss" else []
                    refuse_non_finite(name, values[name], state.global_step, kept(run_dir), rows)
            if not state.is_world_process_zero:
                return
            found = {n: value for n, value in values.items() if math.isfinite(value) and n not in _TIMINGS}
            if "loss" in found:
                self._tell("train", state, {**found, **self._throughput(found), **self._logged, **sampler.take()})
            elif "eval_loss" in found:
                self._tell("eval", state, found)

        def _tell(self, phase: str, state: Any, values: dict[str, float]) -> None:
            metrics.log(phase, state.global_step, max(state.max_steps, 0), **values)
            if (board := getattr(self, "_board", None)) is not None:
                for name, value in values.items():
                    board.add_scalar(f"{phase}/{name.removeprefix('eval_')}", value, state.global_step)
                board.flush()

        def _throughput(self, values: dict[str, float]) -> dict[str, float]:
            tokens, data = values.get("num_tokens", 0.0), trainer.data_seconds
            seconds = self._busy + data - self._data
            found = {
                "tokens_per_second": (tokens - self._tokens) / seconds,
                "data_share": (data - self._data) / seconds,
            }
            self._busy, self._tokens, self._data = 0.0, tokens, data
            return found

        def _rows(self) -> list[str]:
            """The rows of the step in hand, as far as they can be told by their tokens."""
            found = (name_row(ids) for batch in trainer.step_batches for ids in _split(batch))
            return list(filter(None, found))

    return Reporter()


def _split(batch: Mapping[str, Any]) -> Iterator[list[int]]:
    """The token ids of each row of a batch: without their padding, or, where rows are packed, apart again."""
    if "position_ids" not in batch:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            yield ids[mask.bool()].tolist()
        return
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        starts = [n for n, position in enumerate(positions.tolist()) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield ids[start:end].tolist()


def refuse_non_finite(name: str, value: float, step: int, checkpoint: str, rows: Sequence[str]) -> NoReturn:
    """Refuse (FT-TRAIN-010) to go on after `step`, with what is kept and the rows that it trained on."""
    more = f" and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    by = f" Rows: {', '.join(rows[:_SHOWN_ROWS])}{more}." if rows else ""
    refuse("FT-TRAIN-010", f"step {step} is not finite; the run stopped there. Kept: {checkpoint}.{by}",
            field=name, found=str(value), expected="a finite number",
            fix="lower learning_rate, or look at the rows of that step")  # fmt: skip


def _open_board(run_dir: Path, step: int) -> Any:
    """TensorBoard's writer, where it is installed; what was written after `step` is taken back."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
