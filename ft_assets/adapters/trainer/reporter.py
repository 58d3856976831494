"""The figures that a training logs while it runs: metrics.jsonl, TensorBoard, memory and throughput. The first figure
that is not finite stops it."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.trainer.checkpoints import kept
from ft_assets.adapters.trainer.sharding import local_part
from resources.accelerator import Sampler
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainerCallback, TrainerState, TrainingArguments

# logged with the figures of an evaluation, but not useful as a curve
_TIMINGS = {
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
    "train_runtime", "train_samples_per_second", "train_steps_per_second",
}  # fmt: skip
# tensors, and values of each, whose norm is watched: a sample, because all weights of a whole model would cost a third
# of a small step
_WATCHED, _VALUES = 32, 2**14
_SHOWN_ROWS = 8


def build_reporter(
    trainer: Any,
    metrics: Metrics,
    sampler: Sampler,
    name_row: Callable[[Sequence[int]], str | None],
    *,
    board: bool = True,
) -> TrainerCallback:
    """Return the callback that logs every figure and stops the run on the first one that is not finite.

    `trainer`: a hardened one; `sampler`: started already; `name_row`: returns the place of a row by its token ids;
    `board`: also write TensorBoard's files, if it is installed.
    """
    from transformers import TrainerCallback

    class Callback(Reporter, TrainerCallback):
        """The reporter as transformers calls it."""

    return Callback(trainer, metrics, sampler, name_row, board)


class Reporter:
    """The events of a training to which the reporter reacts; see `build_reporter`."""

    def __init__(
        self,
        trainer: Any,
        metrics: Metrics,
        sampler: Sampler,
        name_row: Callable[[Sequence[int]], str | None],
        board: bool,
    ) -> None:
        self._with_board = board and importlib.util.find_spec("tensorboard") is not None
        self._trainer, self._metrics, self._sampler, self._name_row = trainer, metrics, sampler, name_row
        self._run_dir = Path(trainer.args.output_dir)
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        self._watched = trained[:: len(trained) // _WATCHED | 1]  # an odd step: A and B matrices take turns

    def on_train_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        wanted = self._with_board and state.is_world_process_zero
        self._board = _open_board(self._run_dir, state.global_step) if wanted else None
        self._busy = self._tokens = self._data = 0.0  # seconds and tokens since the last record
        self._copies: list[Tensor] = []
        self._logged: dict[str, float] = {}

    def on_train_end(self, *_: object, **__: object) -> None:
        if self._board is not None:
            self._board.close()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._began = time.perf_counter()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: object, **_: object) -> None:
        # before the weights change; under fp16 the loss scaler skips such steps itself
        if not args.fp16 and not math.isfinite(norm := float(self._trainer.grad_norm)):
            refuse_non_finite("gradient", norm, state.global_step + 1, kept(self._run_dir), self._rows())
        if (state.global_step + 1) % state.logging_steps == 0:
            self._copies = [values.clone() for values in self._take_sample()]

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        import torch

        if self._copies:
            before = torch.nn.utils.get_total_norm(self._copies)
            deltas = [new - old for new, old in zip(self._take_sample(), self._copies, strict=True)]
            change = torch.nn.utils.get_total_norm(deltas)
            self._logged = {"weight_norm": before.item(), "update_ratio": (change / before).item()}
            self._copies = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self._busy += time.perf_counter() - self._began

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: object,
        logs: dict[str, object] | None = None,
        **_: object,
    ) -> None:
        values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        # under fp16 gradients may be infinite: the loss scaler finds its scale by them
        for name in ("loss", "eval_loss") if args.fp16 else ("loss", "grad_norm", "eval_loss"):
            if name in values and not math.isfinite(values[name]):
                rows = self._rows() if name == "loss" else []
                refuse_non_finite(name, values[name], state.global_step, kept(self._run_dir), rows)
        if not state.is_world_process_zero:
            return
        figures = {n: value for n, value in values.items() if math.isfinite(value) and n not in _TIMINGS}
        if "loss" in figures:
            more = {**self._throughput(figures), **self._logged, **self._sampler.take()}
            self._report("train", state, {**figures, **more})
        elif "eval_loss" in figures:
            self._report("eval", state, figures)

    def _report(self, phase: str, state: TrainerState, values: dict[str, float]) -> None:
        self._metrics.log(phase, state.global_step, max(state.max_steps, 0), **values)
        if (board := getattr(self, "_board", None)) is not None:
            for name, value in values.items():
                board.add_scalar(f"{phase}/{name.removeprefix('eval_')}", value, state.global_step)
            board.flush()

    def _take_sample(self) -> list[Tensor]:
        return [local_part(parameter).flatten()[:_VALUES] for parameter in self._watched]

    def _throughput(self, values: dict[str, float]) -> dict[str, float]:
        tokens, data = values.get("num_tokens", 0.0), self._trainer.data_seconds
        seconds = self._busy + data - self._data
        figures = {
            "tokens_per_second": (tokens - self._tokens) / seconds,
            "data_share": (data - self._data) / seconds,
        }
        self._busy, self._tokens, self._data = 0.0, tokens, data
        return figures

    def _rows(self) -> list[str]:
        """Return the places of the rows of the current step, as far as their tokens identify them."""
        rows = itertools.chain.from_iterable(map(_split, self._trainer.step_batches))
        return list(filter(None, map(self._name_row, rows)))


def _split(batch: Mapping[str, Tensor]) -> Iterator[list[int]]:
    """Yield the token ids of each row of a batch, without padding; packed rows are split again."""
    if "position_ids" not in batch:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            yield ids[mask.bool()].tolist()
        return
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        starts = [n for n, position in enumerate(positions.tolist()) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield ids[start:end].tolist()


def refuse_non_finite(name: str, value: float, step: int, checkpoint: str, rows: Sequence[str]) -> NoReturn:
    """Refuse (FT-TRAIN-010) to continue after `step`; name the last checkpoint and the rows of the step."""
    more = f" and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    by = f"; rows: {', '.join(rows[:_SHOWN_ROWS])}{more}" if rows else ""
    refuse(
        violation(
            "FT-TRAIN-010",
            where=SUBJECT,
            message=f"Step {step} is not finite and the run stopped; kept: {checkpoint}{by}",
            field=name,
            found=str(value),
            expected="a finite number",
            fix="Lower learning_rate, or inspect the rows of that step.",
        )
    )


def _open_board(run_dir: Path, step: int) -> SummaryWriter:
    """Return TensorBoard's writer. Entries that were written after `step` are removed."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
