"""A plan of training that fits, as near as possible to what is requested, and the speed of devices."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec
from msgspec.structs import replace

from resources.estimate import (
    GIB,
    Estimate,
    Method,
    TrainingSetup,
    TrainingTarget,
    estimate_training,
    largest_length,
    largest_micro_batch,
)
from resources.model_shape import ModelShape

_WHY: dict[str, list[str]] = {
    "single": [],
    "ddp": ["one process a GPU, each with the whole model (DDP): what fits on one GPU is quickest so"],
    "fsdp2": [
        "FSDP2: no GPU holds the whole model, and 4-bit weights are not for it",
    ],
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A way to train that fits, and the reasons for it."""

    strategy: Literal["single", "ddp", "fsdp2"]
    method: Method
    micro_batch: int
    tokens: int
    checkpointing: bool
    reasons: list[str]
    estimate: Estimate


def recommend(
    shape: ModelShape, target: TrainingTarget, setup: TrainingSetup, *, memory: int, gpus: int = 1
) -> Plan | None:
    """Return the plan nearest to what is requested that fits into `memory` bytes a device; None if nothing fits.

    Changes are tried in this order, since each costs more than the one before: activations computed again, fewer rows
    at a time, weights in shards over the GPUs, LoRA for full fine-tuning (on each GPU, then in shards), 4-bit weights,
    shorter rows.
    """
    reasons: list[str] = []
    for tried_target, tried, why in _ladder(shape, target, setup, memory, gpus):
        estimate = estimate_training(shape, tried_target, tried)
        if not estimate.fits(memory):
            reasons.append(_too_large(tried_target, tried, estimate, memory))
            continue
        # a later change may have made room for more rows again
        largest = largest_micro_batch(shape, tried_target, tried, memory=memory)
        plan = replace(tried, micro_batch=max(tried.micro_batch, min(setup.micro_batch, largest)))
        strategy = "fsdp2" if plan.shards > 1 else "ddp" if gpus > 1 else "single"
        return Plan(
            strategy=strategy,
            method=tried_target.method,
            micro_batch=plan.micro_batch,
            tokens=plan.tokens,
            checkpointing=plan.checkpointing,
            reasons=[*reasons, why, *_WHY[strategy]],
            estimate=estimate_training(shape, tried_target, plan),
        )
    return None


def _too_large(target: TrainingTarget, setup: TrainingSetup, estimate: Estimate, memory: int) -> str:
    sharded = f", 1/{setup.shards} of it a GPU" if setup.shards > 1 else ""
    kept = "" if setup.checkpointing else ", activations kept"
    return (
        f"{target.method}, {setup.micro_batch} x {setup.tokens} tokens{kept}{sharded}: needs "
        f"{estimate.total / GIB:.1f} GiB of {memory / GIB:.1f}"
    )


def _ladder(
    shape: ModelShape, target: TrainingTarget, setup: TrainingSetup, memory: int, gpus: int
) -> Iterator[tuple[TrainingTarget, TrainingSetup, str]]:
    """Yield what to try next, and why it fits if it does. Each change is made on top of those before."""
    yield target, setup, "it fits as requested"
    if not setup.checkpointing:
        setup = replace(setup, checkpointing=True)
        yield target, setup, "it fits when activations are computed again (gradient_checkpointing)"
    while setup.micro_batch > 1:
        setup = replace(setup, micro_batch=setup.micro_batch // 2)
        yield target, setup, f"it fits with {setup.micro_batch} at a time; the rest of the batch is accumulated"
    if gpus > 1 and target.method != "qlora":
        setup = replace(setup, shards=gpus)
        yield target, setup, f"it fits when weights, gradients and optimizer are spread over {gpus} GPUs"
    if target.method == "full":
        target, setup = replace(target, method="lora"), replace(setup, shards=1)
        yield target, setup, "it fits when only an adapter is trained"
        if gpus > 1:
            setup = replace(setup, shards=gpus)
            yield target, setup, f"it fits when only an adapter is trained, and the base is spread over {gpus} GPUs"
    if target.method == "lora":
        target, setup = replace(target, method="qlora"), replace(setup, shards=1)
        yield target, setup, "it fits when the frozen weights are kept in 4 bits"
    if length := largest_length(shape, target, setup, memory=memory):
        setup = replace(setup, tokens=length)
        yield target, setup, f"it fits with rows of at most {length} tokens; longer ones must be left out"


class GpuCard(msgspec.Struct, frozen=True):
    """A GPU's peak of dense bf16 products with fp32 accumulation (fp16 where it has no bf16) and its memory."""

    tflops: float
    gigabytes: float
    bf16: bool = True


# Peaks without sparsity, as data sheets and architecture white papers print them (RTX 30 and 40: twice the fp32 rate).
# Order matters: the first name found wins.
CARDS: Mapping[str, GpuCard] = {
    "B200": GpuCard(2250, 180), "MI300X": GpuCard(1307, 192),
    "H200": GpuCard(989, 140), "H100 PCIe": GpuCard(756, 80), "H100": GpuCard(989, 80), "A100": GpuCard(312, 40),
    "L40S": GpuCard(362, 48), "L40": GpuCard(181, 48), "A6000": GpuCard(155, 48), "A40": GpuCard(150, 48),
    "A30": GpuCard(165, 24), "A10": GpuCard(125, 24), "L4": GpuCard(121, 24),
    "RTX 5090": GpuCard(210, 32), "RTX 4090": GpuCard(165, 24), "RTX 4080": GpuCard(97, 16),
    "RTX 4070 Ti": GpuCard(80, 12), "RTX 4070": GpuCard(58, 12), "RTX 4060 Ti": GpuCard(44, 8),
    "RTX 4060": GpuCard(30, 8),
    "RTX 3090": GpuCard(71, 24), "RTX 3080": GpuCard(60, 10), "RTX 3060 Ti": GpuCard(32, 8),
    "RTX 3060": GpuCard(25, 12), "V100": GpuCard(125, 16, bf16=False),
    "T4": GpuCard(65, 16, bf16=False),
}  # fmt: skip
_GPU_SHARE = 0.35  # of the peak, which fine-tuning reaches (published: 0.3 to 0.5 for rows that fill the GPU)
_CPU_SHARE = 0.5  # of a plain matrix product's speed


def find_card(name: str) -> GpuCard | None:
    """Return the card of a name as the driver or a person writes it ("NVIDIA GeForce RTX 3080", "a100").

    Whole words are compared: an A4000 is not an A40.
    """
    return next((card for known, card in CARDS.items() if re.search(rf"\b{known}\b", name, re.IGNORECASE)), None)


def gpu_flops(card: GpuCard) -> float:
    """Return the operations a second that fine-tuning reaches on a card: an estimate."""
    return card.tflops * 1e12 * _GPU_SHARE


def probe_cpu_flops() -> float:
    """Return the operations a second that fine-tuning reaches on this CPU, measured on fp32 products for some 0.1 s."""
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
