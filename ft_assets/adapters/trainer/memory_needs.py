"""The memory and disk that a training needs, as `estimate_training` takes it: as configured, and at least."""

from __future__ import annotations

import msgspec

from expectations.contracts.adapter import LoraShape
from ft_assets.adapters.trainer.oom_ladder import take_all_fallbacks
from ft_assets.config.model import AdapterSettings, DpoSettings, TrainSettings, rows_on_a_cpu
from resources.accelerator import Device
from resources.estimate import TrainingSetup, TrainingTarget, estimate_training
from resources.model_shape import ModelShape

# an optimizer's bytes for each trained parameter, where they are not two moments as wide as it; Adafactor has two
# vectors for each matrix, which is less than a byte for each number of it
_STATE_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1, "adafactor": 1}


def needs_of(
    settings: TrainSettings,
    lora: AdapterSettings | LoraShape | None,
    *,
    tokens: int,
    device: Device,
    bf16: bool,
    processes: int = 1,
) -> tuple[TrainingTarget, TrainingSetup]:
    """Return the needs of the settings, decided as the trainer decides them.

    `lora`: the adapter's shape; `tokens`: of the longest row; `processes`: of the training, over which `sharding`
    spreads the weights.
    """
    target = TrainingTarget(method=settings.method, dpo=isinstance(settings, DpoSettings), kto=settings.is_kto)
    if lora is not None:
        trained = {"saved": lora.modules_to_save, "rows": bool(lora.train_tokens)}
        target = msgspec.structs.replace(target, r=lora.r, targets=lora.targets, **trained)
    setup = TrainingSetup(
        tokens=tokens,
        micro_batch=settings.rows_at_once,
        checkpointing=settings.recomputes_on(device),
        device=device,
        bf16=bf16,
        state_bytes=_STATE_BYTES.get(settings.optimizer),
        shards=processes if settings.sharding == "fsdp2" else 1,
    )
    return target, setup


def least_needs(
    settings: TrainSettings,
    lora: AdapterSettings | LoraShape | None,
    *,
    tokens: int,
    device: Device,
    bf16: bool,
    processes: int = 1,
) -> tuple[TrainingTarget, TrainingSetup]:
    """Return the needs after every fallback that a run takes by itself when memory runs out."""
    least = take_all_fallbacks(settings, device)
    shortest = min(tokens, least.max_length)
    return needs_of(least, lora, tokens=shortest, device=device, bf16=bf16, processes=processes)


def fitting_rows(
    settings: TrainSettings,
    lora: AdapterSettings | LoraShape | None,
    shape: ModelShape,
    *,
    device: Device,
    bf16: bool,
    memory: int,
    processes: int = 1,
) -> int:
    """Return the micro-batch for `auto`: the most rows of `max_length` that fit into `memory` bytes of a GPU.

    It divides a process's share of the global batch; 1 if not even one row fits. On a CPU it is 4 at most.
    """
    if settings.micro_batch_size != "auto" or settings.sorts_answers:
        return settings.rows_at_once  # the same on any hardware
    share = max(settings.global_batch_size // processes, 1)
    if device == "cpu":
        return rows_on_a_cpu(share)
    tokens = settings.max_length
    target, setup = needs_of(settings, lora, tokens=tokens, device=device, bf16=bf16, processes=processes)

    def fits(rows: int) -> bool:
        return estimate_training(shape, target, msgspec.structs.replace(setup, micro_batch=rows)).fits(memory)

    divisors = (rows for rows in range(share, 1, -1) if share % rows == 0)
    return next(filter(fits, divisors), 1)
