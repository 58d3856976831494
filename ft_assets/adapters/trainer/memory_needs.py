"""What a training asks of memory and disk, as keywords of `estimate_training`: as configured, and at the least."""

from __future__ import annotations

from typing import Any

from expectations.contracts.adapter import LoraShape
from ft_assets.adapters.trainer.oom_ladder import at_the_bottom
from ft_assets.config.model import DpoSettings, LoraSettings, TrainSettings
from resources.accelerator import Device


def asked_of(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> dict[str, Any]:
    """What the settings ask, decided as the trainer decides it. `lora` is the adapter's shape, `tokens` the longest
    row's."""
    return {
        "method": settings.method, "tokens": tokens, "micro_batch": settings.micro_batch_size,
        "dpo": isinstance(settings, DpoSettings), "checkpointing": settings.recomputes_on(device), "device": device,
        "bf16": bf16, "optimizer_8bit": settings.optimizer == "paged_adamw_8bit" and device == "cuda",
        **({"r": lora.r, "targets": lora.targets} if lora is not None else {}),
    }  # fmt: skip


def least_of(
    settings: TrainSettings, lora: LoraSettings | LoraShape | None, *, tokens: int, device: Device, bf16: bool
) -> dict[str, Any]:
    """As `asked_of`, of what a run falls back on by itself when memory runs out."""
    least = at_the_bottom(settings, device)
    return asked_of(least, lora, tokens=min(tokens, least.max_length), device=device, bf16=bf16)
