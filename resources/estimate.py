"""How much memory and disk a fine-tuning takes and what a step costs, told from the model's sizes before it is loaded.

Analytic, not measured: held to published figures in tests/resources/test_estimate.py. A card's GB are GiB here, as
cards are sold.
"""

from __future__ import annotations

from bisect import bisect
from typing import Any, Literal

import msgspec

from expectations.violations import Refused, violation
from resources.accelerator import Device
from resources.model_shape import ModelShape

Method = Literal["full", "lora", "qlora"]

GIB = 2**30
RESERVE = 0.05
"""Share of the memory that is left to fragmentation and to whoever else is there."""
CHECKPOINTS = 3
"""On disk at once: two are kept while the next is written."""
CPU_HEAD_TOKENS = 1024
"""Most supervised tokens of a batch whose whole logits are kept on a CPU (adapters/head.py)."""
EAGER_TOKENS = 512
"""While no row has more tokens, a CPU keeps whole attention scores (adapters/load.py)."""
_CONTEXT = int(0.8 * GIB)
"""CUDA context and library workspaces (0.5 to 1.4 GB have been reported)."""
_CPU_PROCESS = int(0.9 * GIB)
"""Python with torch, transformers and trl loaded."""
_NF4 = 0.5 + 1 / 64 + 4 / 16384  # bytes a weight: 4 bits, an 8-bit scale for 64 and a 32-bit one for 16384 of them
_NF4_SINGLE = 0.5 + 4 / 64
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 8192  # the tiles of TRL's fused head
_CPU_LOGIT = 44  # bytes a logit costs there with all that is made of it, measured


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one process at its peak, by part, and what a step costs. `formulas` says how each part was found."""

    parts: dict[str, int]
    disk_parts: dict[str, int]
    formulas: dict[str, str]
    flops_per_row: int
    """Floating-point operations for one row of full length."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def disk(self) -> int:
        return sum(self.disk_parts.values())

    def fits(self, available: int) -> bool:
        """Whether it fits into so many bytes, with a reserve for fragmentation."""
        return self.total <= available * (1 - RESERVE)

    def seconds(self, rows: int, epochs: float, flops: float, processes: int = 1) -> float:
        """Seconds of training on devices that reach `flops` operations a second. Rows are taken at full length."""
        return rows * epochs * self.flops_per_row / (flops * processes)


def estimate_training(
    shape: ModelShape,
    *,
    method: Method = "lora",
    r: int = 16,
    targets: str | list[str] = "all-linear",
    tokens: int,
    micro_batch: int = 1,
    dpo: bool = False,
    checkpointing: bool = True,
    device: Device = "cuda",
    bf16: bool = True,
    double_quant: bool = True,
    fused_head: bool = True,
    optimizer_8bit: bool = False,
    shards: int = 1,
    context: int | None = None,
    supervised: int | None = None,
) -> Estimate:
    """What training rows of at most `tokens` tokens takes, `micro_batch` rows (DPO: pairs) at a time.

    LoRA keeps the frozen base in bf16 (`bf16=False`: fp32) under an fp32 adapter; QLoRA keeps it in nf4 under a bf16
    adapter; full fine-tuning keeps fp32 weights, and no second model beside them for DPO. `shards` spreads weights,
    gradients and optimizer over so many GPUs (FSDP2, ZeRO-3). `context` is what the process takes before anything is
    loaded; `supervised` is how many tokens of a row carry loss (default: all; it matters on CPUs). Refuses nf4 in
    shards (FT-EST-004).
    """
    if method == "qlora" and shards > 1:
        raise Refused("estimating", [violation("FT-EST-004", where=shape.name or "model")])
    parts: dict[str, int] = {}
    formulas: dict[str, str] = {}

    def part(name: str, size: float, formula: str) -> None:
        parts[name], formulas[name] = int(size), formula

    width = 2 if bf16 else 4  # bytes of a value in matrix products
    batch_tokens = tokens * micro_batch * (2 if dpo else 1)
    trained = shape.parameters if method == "full" else shape.lora_parameters(r, targets)
    trained_width = 2 if method == "qlora" else 4
    moments = 2 if optimizer_8bit else 2 * trained_width  # Adam's two, for each trained parameter

    weights, formula = _weights(shape, method, width, double_quant=double_quant)
    part("weights", weights / shards, formula)
    if method == "full":
        part("gradients and optimizer", trained * (4 + moments) / shards, f"{_m(trained)} x {4 + moments} B")
    else:
        each = 2 * trained_width + moments
        part("adapter and optimizer", trained * each / shards, f"{_m(trained)} x {each} B")
    if device == "cpu" and method == "full":
        part("weights before", weights, "the weights again, to tell what was trained")
    if dpo and method != "full":
        part("reference", trained * trained_width / shards, f"the adapter again, frozen: x {trained_width} B")

    kept = 1 if checkpointing else shape.layers
    inputs = 0 if method == "full" else sum(shape.matrices[name][0] for name in shape.chosen(targets))
    part("activations", *_activations(shape, batch_tokens, width, 0 if checkpointing else inputs, kept))
    if device == "cpu" and tokens <= EAGER_TOKENS:
        each = (5 if bf16 else 8) * (4 if checkpointing else 2)  # one layer at a time: with all of its gradients
        scores = batch_tokens * tokens * shape.heads
        part("attention", kept * scores * each, f"{kept} layers x {batch_tokens} x {tokens} x {shape.heads} x {each} B")
    scored = batch_tokens if supervised is None else min(batch_tokens * supervised // tokens, batch_tokens)
    part("logits", *_logits(shape.vocab, batch_tokens, scored, device, fused_head=fused_head))
    if method == "qlora":
        part("dequantised matrix", max(a * b for a, b in shape.matrices.values()) * 2, "the largest projection x 2 B")
    if shards > 1:
        gathered = (2 * shape.linear / shape.layers + shape.embedding) * 2
        part("gathered layers", gathered, "two layers and the embeddings x 2 B")
    if device == "cuda":
        part("context", _CONTEXT if context is None else context, "CUDA context and workspaces")
    else:
        part("process", _CPU_PROCESS if context is None else context, "Python with its libraries")

    return Estimate(
        parts=parts,
        disk_parts={
            "checkpoints": CHECKPOINTS * trained * (trained_width + moments),
            "published": trained * trained_width,
        },
        formulas=formulas,
        flops_per_row=_flops_per_row(shape, method, tokens, dpo=dpo, checkpointing=checkpointing),
    )


def _weights(shape: ModelShape, method: Method, width: int, *, double_quant: bool) -> tuple[float, str]:
    if method == "qlora":
        nf4 = _NF4 if double_quant else _NF4_SINGLE
        size = shape.linear * nf4 + shape.embedding * 2
        return size, f"{_m(shape.linear)} x {nf4:.4g} B (nf4) + {_m(shape.embedding)} x 2 B"
    width = 4 if method == "full" else width
    return shape.parameters * width, f"{_m(shape.parameters)} x {width} B"


def _activations(shape: ModelShape, tokens: int, width: int, inputs: int, kept: int) -> tuple[int, str]:
    """What `kept` layers need for their backward pass, `inputs` values a token for adapters among it; where that is one
    layer at a time (checkpointing), also the input of every layer."""
    layer = 6 * shape.hidden + 3 * shape.queries + 4 * shape.keys + 4 * shape.ffn + inputs
    if kept < shape.layers:
        each = f"{shape.layers} layers x {shape.hidden} x 2 B + {layer} x {width} B"
        return tokens * (shape.layers * shape.hidden * 2 + layer * width), f"{tokens} tokens x ({each})"
    return tokens * kept * layer * width, f"{tokens} tokens x {kept} layers x {layer} x {width} B"


def _logits(vocab: int, tokens: int, scored: int, device: Device, *, fused_head: bool) -> tuple[int, str]:
    """`scored` of the `tokens` carry loss; a CPU projects only those, as long as they are few (adapters/head.py)."""
    if not fused_head:
        return tokens * vocab * 10, f"{tokens} tokens x {vocab} x 10 B"
    if device == "cpu":
        most = min(scored, CPU_HEAD_TOKENS)
        return most * vocab * _CPU_LOGIT, f"at most {most} tokens with loss x {vocab} x {_CPU_LOGIT} B"
    tile = min(tokens, _TILE_TOKENS)
    return tile * _TILE_VOCABULARY * 8, f"tiles of {tile} x {_TILE_VOCABULARY} x 8 B"


def _flops_per_row(shape: ModelShape, method: Method, tokens: int, *, dpo: bool, checkpointing: bool) -> int:
    """A product costs 2 operations a parameter and token; its backward pass 4, or 2 where the matrix is frozen."""
    products = (6 if method == "full" else 4) + 2 * checkpointing + 2 * dpo  # DPO: the reference's forward pass
    attention = 2 * shape.layers * shape.queries * tokens * (3 + checkpointing + dpo)  # causal: half of the square
    return tokens * (2 if dpo else 1) * (products * (shape.linear + shape.vocab * shape.hidden) + attention)


def largest_micro_batch(shape: ModelShape, *, memory: int, most: int = 256, **settings: Any) -> int:
    """The largest power of two of rows at a time that fits into `memory` bytes, up to `most`; 0 if one does not."""
    rows = 1
    while rows <= most and _fits(shape, memory, settings, micro_batch=rows):
        rows *= 2
    return rows // 2


def largest_length(shape: ModelShape, *, memory: int, most: int = 131072, **settings: Any) -> int:
    """The most tokens a row may have (a multiple of 128, up to `most`) to fit into `memory` bytes; 0 if none."""
    lengths = range(128, most + 1, 128)
    too_long = bisect(lengths, False, key=lambda tokens: not _fits(shape, memory, settings, tokens=tokens))
    return lengths[too_long - 1] if too_long else 0


def _fits(shape: ModelShape, memory: int, settings: dict[str, Any], **change: Any) -> bool:
    return estimate_training(shape, **(settings | change)).fits(memory)


def _m(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}G" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
