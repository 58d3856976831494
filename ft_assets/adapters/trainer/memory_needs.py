"""The memory and disk that a training needs, as `estimate_training` takes it: as configured, and at least."""

from __future__ import annotations

import msgspec

from expectations.contracts.adapter import LoraShape
from ft_assets.adapters.trainer.oom_ladder import take_all_fallbacks
from ft_assets.config.model import DpoSettings, LoraSettings, TrainSettings
from resources.accelerator import Device
from resources.estimate import TrainingSetup, TrainingTarget


def needs_of(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> tuple[TrainingTarget, TrainingSetup]:
    """Return the needs of the settings, decided as the trainer decides them.

    `lora`: the adapter's shape; `tokens`: of the longest row.
    """
    target = TrainingTarget(method=settings.method, dpo=isinstance(settings, DpoSettings), kto=settings.is_kto)
    if lora is not None:
        target = msgspec.structs.replace(target, r=lora.r, targets=lora.targets)
    setup = TrainingSetup(
        tokens=tokens,
        micro_batch=settings.micro_batch_size,
        checkpointing=settings.recomputes_on(device),
        device=device,
        bf16=bf16,
        optimizer_8bit=settings.optimizer == "paged_adamw_8bit" and device == "cuda",
    )
    return target, setup


def least_needs(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> tuple[TrainingTarget, TrainingSetup]:
    """Return the needs after every fallback that a run takes by itself when memory runs out."""
    least = take_all_fallbacks(settings, device)
    return needs_of(least, lora, tokens=min(tokens, least.max_length), device=device, bf16=bf16)
