"""How to train so that it fits: the nearest plan to what was asked, and how fast devices are."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from resources.accelerator import Device
from resources.estimate import GIB, Estimate, Method, estimate_training, largest_length, largest_micro_batch
from resources.model_shape import ModelShape

_WHY: dict[str, list[str]] = {
    "single": [],
    "ddp": ["one process a GPU, each with the whole model (DDP): what fits on one GPU is quickest so"],
    "fsdp2": [
        "FSDP2 (DeepSpeed: ZeRO-3): no GPU holds the whole model, and 4-bit weights are not for it",
        "start it with accelerate: launcher.kind torchrun keeps a whole model on each GPU",
    ],
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to train so that it fits, and why so."""

    strategy: Literal["single", "ddp", "fsdp2"]
    method: Method
    micro_batch: int
    tokens: int
    checkpointing: bool
    reasons: list[str]
    estimate: Estimate


def recommend(shape: ModelShape, *, memory: int, gpus: int = 1, device: Device = "cuda", **asked: Any) -> Plan | None:
    """The plan nearest to what was asked (keywords of `estimate_training`) that fits into `memory` bytes a device.

    In this order, since each step costs more than the one before: activations computed again, fewer rows at a time,
    weights in shards over the GPUs, LoRA for full fine-tuning, 4-bit weights, shorter rows. None: nothing fits.
    """
    wish: dict[str, Any] = {"method": "lora", "micro_batch": 1, "checkpointing": True, "shards": 1, **asked}
    rows, reasons = wish["micro_batch"], list[str]()
    for changes, why in _ladder(shape, wish, memory, gpus, device):
        wish |= changes
        estimate = estimate_training(shape, device=device, **wish)
        if estimate.fits(memory):
            # what came after may have made room for more rows again
            largest = largest_micro_batch(shape, memory=memory, device=device, **wish)
            wish["micro_batch"] = max(wish["micro_batch"], min(rows, largest))
            estimate = estimate_training(shape, device=device, **wish)
            strategy = "fsdp2" if wish["shards"] > 1 else "ddp" if gpus > 1 else "single"
            return Plan(
                strategy=strategy, method=wish["method"], micro_batch=wish["micro_batch"], tokens=wish["tokens"],
                checkpointing=wish["checkpointing"], reasons=[*reasons, why, *_WHY[strategy]], estimate=estimate,
            )  # fmt: skip
        sharded = f", 1/{gpus} of it a GPU" if wish["shards"] > 1 else ""
        recomputed = "" if wish["checkpointing"] else ", activations kept"
        reasons.append(
            f"{wish['method']}, {wish['micro_batch']} x {wish['tokens']} tokens{recomputed}{sharded}: needs "
            f"{estimate.total / GIB:.1f} GiB of {memory / GIB:.1f}"
        )
    return None


def _ladder(
    shape: ModelShape, wish: dict[str, Any], memory: int, gpus: int, device: Device
) -> Iterator[tuple[dict[str, Any], str]]:
    """What to change next, and why it fits if it does. `wish` holds every change so far."""
    yield {}, "it fits as asked"
    if not wish["checkpointing"]:
        yield {"checkpointing": True}, "it fits when activations are computed again (gradient_checkpointing)"
    while (rows := wish["micro_batch"] // 2) >= 1:
        yield {"micro_batch": rows}, f"it fits with {rows} at a time; the rest of the batch is accumulated"
    if gpus > 1 and wish["method"] != "qlora":
        yield {"shards": gpus}, f"it fits when weights, gradients and optimizer are spread over {gpus} GPUs"
    if wish["method"] == "full":
        yield {"method": "lora", "shards": 1}, "it fits when only an adapter is trained"
    if wish["method"] == "lora":
        yield {"method": "qlora", "shards": 1}, "it fits when the frozen weights are kept in 4 bits"
    if length := largest_length(shape, memory=memory, device=device, **wish):
        yield {"tokens": length}, f"it fits with rows of at most {length} tokens; longer ones must be left out"


class Card(msgspec.Struct, frozen=True):
    """A GPU's peak of dense bf16 products with fp32 accumulation (fp16 where it has no bf16) and its memory."""

    tflops: float
    gigabytes: float
    bf16: bool = True


# Peaks as NVIDIA's data sheets and architecture white papers print them. Order matters: the first name found wins.
CARDS: Mapping[str, Card] = {
    "H200": Card(989, 140), "H100 PCIe": Card(756, 80), "H100": Card(989, 80), "A100": Card(312, 40),
    "L40S": Card(362, 48), "A6000": Card(155, 48), "A40": Card(150, 48), "A10": Card(125, 24), "L4": Card(121, 24),
    "RTX 5090": Card(210, 32), "RTX 4090": Card(165, 24), "RTX 4080": Card(97, 16),
    "RTX 3090": Card(71, 24), "RTX 3080": Card(60, 10), "V100": Card(125, 16, bf16=False),
    "T4": Card(65, 16, bf16=False),
}  # fmt: skip
_GPU_SHARE = 0.35  # of the peak, which fine-tuning reaches (published: 0.3 to 0.5 for rows that fill the GPU)
_CPU_SHARE = 0.5  # of a plain matrix product's speed


def find_card(name: str) -> Card | None:
    """The card that a name as the driver or a person writes it means ("NVIDIA GeForce RTX 3080", "a100"), by whole
    words: an A4000 is no A40."""
    return next((card for known, card in CARDS.items() if re.search(rf"\b{known}\b", name, re.IGNORECASE)), None)


def gpu_flops(card: Card) -> float:
    """Operations a second that fine-tuning reaches on a card: an estimate."""
    return card.tflops * 1e12 * _GPU_SHARE


def probe_cpu_flops() -> float:
    """Operations a second that fine-tuning reaches on this CPU: measured on fp32 matrix products for some 0.1 s."""
    import numpy as np

    side = 1024
    left, right = np.ones((side, side), np.float32), np.ones((side, side), np.float32)
    np.matmul(left, right)  # the first one starts the threads
    best = min(_seconds(lambda: np.matmul(left, right)) for _ in range(6))
    return 2 * side**3 / best * _CPU_SHARE


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
