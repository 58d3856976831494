"""The memory and disk that a training needs, as keywords of `estimate_training`: as configured, and at least."""

from __future__ import annotations

from typing import Any

from expectations.contracts.adapter import LoraShape
from ft_assets.adapters.trainer.oom_ladder import take_all_fallbacks
from ft_assets.config.model import DpoSettings, LoraSettings, TrainSettings
from resources.accelerator import Device


def needs_of(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> dict[str, Any]:
    """Return the needs of the settings, decided as the trainer decides them.

    `lora`: the adapter's shape; `tokens`: of the longest row.
    """
    shape = {"r": lora.r, "targets": lora.targets} if lora is not None else {}
    return {
        "method": settings.method,
        "tokens": tokens,
        "micro_batch": settings.micro_batch_size,
        "dpo": isinstance(settings, DpoSettings),
        "checkpointing": settings.recomputes_on(device),
        "device": device,
        "bf16": bf16,
        "optimizer_8bit": settings.optimizer == "paged_adamw_8bit" and device == "cuda",
        **shape,
    }


def least_needs(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> dict[str, Any]:
    """Return the needs after every fallback that a run takes by itself when memory runs out."""
    least = take_all_fallbacks(settings, device)
    return needs_of(least, lora, tokens=min(tokens, least.max_length), device=device, bf16=bf16)
