"""Two trial steps on the longest rows before the training, after which everything is as it was."""

# torch, transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ft_assets.adapters.rows.sampler import row_lengths
from ft_assets.adapters.trainer.sharding import largest_change, local_part, whole_tensor

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, list[int]]
_STEPS = 2
# attributes to which TRL's trainers add with every loss
_COUNTERS = ("_metrics", "_total_train_tokens")


def run_trial_steps(trainer: Any) -> dict[str, object]:
    """Run two real optimizer steps on the longest rows and return their figures.

    Weights, random numbers and the trainer's counters are then restored bit for bit, so that the training is the same
    with and without them. On a GPU the batch is a whole micro-batch; on a CPU, where memory is rarely the limit, one
    row. An out-of-memory error is raised: the run falls back to less memory before it has trained a step.
    """
    import torch

    started = time.monotonic()
    on_gpu = trainer.args.device.type == "cuda"
    rows, tokens = _longest_rows(trainer, trainer.args.per_device_train_batch_size if on_gpu else 1)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with _restored(trainer) as (trained, before):
        losses, norms = _train_steps(trainer, trained, rows)
        change = largest_change(trained, before)
    memory = {"peak_memory": torch.cuda.max_memory_allocated()} if on_gpu else {}
    return {
        "losses": losses,
        "grad_norms": norms,
        "max_abs_adapter_delta": change,
        "rows": len(rows),
        "row_tokens": tokens,
        "seconds": round(time.monotonic() - started, 2),
        **memory,
    }


def _train_steps(trainer: Any, trained: list[Tensor], rows: list[Row]) -> tuple[list[float], list[float]]:
    """Return the loss and the gradient norm of each trial step."""
    import torch

    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    optimizer = optimizer_class(trained, **options)
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    losses: list[float] = []
    norms: list[float] = []
    for _ in range(_STEPS):
        with trainer.maybe_activation_offload_context:
            with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, dict(batch))
            loss.backward()
        norms.append(float(whole_tensor(torch.nn.utils.clip_grad_norm_(trained, trainer.args.max_grad_norm))))
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses, norms


@contextmanager
def _restored(trainer: Any) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield the trainable tensors and their copies; on leaving, restore tensors, random numbers and counters."""
    import torch

    model = trainer.model
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    copies = [local_part(tensor).to("cpu", copy=True) for tensor in trained]  # must not take the memory that is tested
    counters = {name: copy.deepcopy(vars(trainer)[name]) for name in _COUNTERS if name in vars(trainer)}
    training = model.training
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.train()
            if trainer.args.activation_checkpointing:
                model.activation_checkpointing_enable(trainer.args.activation_checkpointing_kwargs)
            yield trained, copies
    finally:
        with torch.no_grad():
            for tensor, value in zip(trained, copies, strict=True):
                local_part(tensor).copy_(value)
                tensor.grad = None
        model.train(training)
        vars(trainer).update(counters)


def _longest_rows(trainer: Any, count: int) -> tuple[list[Row], int]:
    """Return the longest rows and the tokens of the longest of them."""
    dataset = trainer.train_dataset
    lengths = row_lengths(dataset)
    order = sorted(range(len(lengths)), key=lambda n: lengths[n], reverse=True)
    return [dataset[n] for n in order[:count]], lengths[order[0]]
