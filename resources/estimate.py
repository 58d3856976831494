"""The memory, disk and time that a fine-tuning takes, computed from the model's sizes before it is loaded.

Analytic, not measured: held to published figures in tests/resources/test_estimate.py. A card's GB are GiB here, as
cards are sold.
"""

from __future__ import annotations

from bisect import bisect
from typing import Literal

import msgspec
from msgspec.structs import replace

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
"""Most supervised tokens of a batch whose whole logits are kept on a CPU (trainer/cpu_loss.py)."""
EAGER_TOKENS = 512
"""While no row has more tokens, a CPU keeps whole attention scores (trainer/load_model.py)."""
_CONTEXT = int(0.8 * GIB)
"""CUDA context and library workspaces (0.5 to 1.4 GB have been reported)."""
_CPU_PROCESS = int(0.9 * GIB)
"""Python with torch, transformers and trl loaded."""
_NF4 = 0.5 + 1 / 64 + 4 / 16384  # bytes a weight: 4 bits, an 8-bit scale for 64 and a 32-bit one for 16384 of them
_NF4_SINGLE = 0.5 + 4 / 64
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 8192  # the tiles of TRL's fused head
_CPU_LOGIT = 44  # bytes a logit costs there with all that is made of it, measured


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one process at its peak, by part, and what a step costs. `formulas` shows how each part was found."""

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
        """Return whether it fits into `available` bytes, with a reserve for fragmentation."""
        return self.total <= available * (1 - RESERVE)

    def seconds(self, rows: int, epochs: float, flops: float, processes: int = 1) -> float:
        """Return the seconds of training at `flops` operations a second a device. Rows count at full length."""
        return rows * epochs * self.flops_per_row / (flops * processes)


class TrainingTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The weights that are trained, and by which loss.

    LoRA keeps the frozen base in bf16 (without bf16: fp32) under an fp32 adapter; QLoRA keeps it in nf4 under a bf16
    adapter; full fine-tuning keeps fp32 weights, and no second model next to them for DPO.
    """

    method: Method = "lora"
    r: int = 16
    """Rank of the adapter."""
    targets: str | list[str] = "all-linear"
    """Projections that get an adapter."""
    saved: list[str] = []
    """Modules that are trained as a whole with the adapter."""
    rows: bool = False
    """True if rows of the embedding and of the output head are trained with the adapter."""
    dpo: bool = False
    """True for DPO and KTO (with a reference), False for SFT."""
    kto: bool = False
    """True for KTO: one answer a row, not a pair; a mismatched one is scored without a backward pass."""

    @property
    def answers(self) -> int:
        """Answers of one row that have a backward pass."""
        return 2 if self.dpo and not self.kto else 1

    def parameters(self, shape: ModelShape) -> int:
        """Return the number of parameters that are trained."""
        if self.method == "full":
            return shape.parameters
        matrices = min(len(_VOCABULARY & {name.rpartition(".")[2] for name in self.saved}), 1 if shape.tied else 2)
        return shape.lora_parameters(self.r, self.targets) + matrices * shape.vocab * shape.hidden

    @property
    def width(self) -> int:
        """Bytes of a trained parameter."""
        return 2 if self.method == "qlora" else 4


class TrainingSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The way a training computes: its batches, its device and what it does to save memory."""

    tokens: int
    """Tokens of the longest row."""
    micro_batch: int = 1
    """Rows (DPO: pairs) at a time."""
    checkpointing: bool = True
    """Compute activations again in the backward pass."""
    device: Device = "cuda"
    bf16: bool = True
    double_quant: bool = True
    fused_head: bool = True
    state_bytes: int | None = None
    """Bytes of the optimizer's state for each trained parameter; None: Adam's two moments, as wide as the parameter."""
    shards: int = 1
    """GPUs that the weights are spread over (FSDP2), with the gradients and the optimizer of full fine-tuning."""
    context: int | None = None
    """Bytes that the process takes before anything is loaded, if they are known."""
    supervised: int | None = None
    """Tokens of a row that carry loss (default: all; it matters on CPUs)."""

    @property
    def width(self) -> int:
        """Bytes of a value in matrix products."""
        return 2 if self.bf16 else 4


_VOCABULARY = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out"}
"""Names of the matrices with a row for each token."""
Parts = dict[str, tuple[float, str]]
"""Part of the memory -> its bytes and how they were found."""


def estimate_training(shape: ModelShape, target: TrainingTarget, setup: TrainingSetup) -> Estimate:
    """Return what the training takes. Raises Refused (FT-EST-004) for 4-bit weights in shards."""
    if target.method == "qlora" and setup.shards > 1:
        raise Refused("estimating", [violation("FT-EST-004", where=shape.name or "model")])
    parts = {
        **_model_parts(shape, target, setup),
        **_batch_parts(shape, target, setup),
        **_process_parts(setup),
    }
    trained = target.parameters(shape)
    return Estimate(
        parts={name: int(size) for name, (size, _) in parts.items()},
        disk_parts={
            "checkpoints": CHECKPOINTS * trained * (target.width + _moments(target, setup)),
            "published": trained * target.width,
        },
        formulas={name: formula for name, (_, formula) in parts.items()},
        flops_per_row=_flops_per_row(shape, target, setup),
    )


def _moments(target: TrainingTarget, setup: TrainingSetup) -> int:
    """Return the bytes of the optimizer's state for each trained parameter."""
    return 2 * target.width if setup.state_bytes is None else setup.state_bytes


def _model_parts(shape: ModelShape, target: TrainingTarget, setup: TrainingSetup) -> Parts:
    """Return what the weights and all that belongs to them take, whatever the batch."""
    trained, moments = target.parameters(shape), _moments(target, setup)
    weights, formula = _weights(shape, target.method, setup.width, double_quant=setup.double_quant)
    parts: Parts = {"weights": (weights / setup.shards, formula)}
    if target.method == "full":
        each = 4 + moments
        parts["gradients and optimizer"] = (trained * each / setup.shards, f"{_m(trained)} x {each} B")
    else:
        each = 2 * target.width + moments
        parts["adapter and optimizer"] = (trained * each, f"{_m(trained)} x {each} B")
    if setup.device == "cpu" and target.method == "full":
        parts["weights before"] = (weights / setup.shards, "the weights again, to see which of them training changed")
    if target.dpo and target.method != "full":
        parts["reference"] = (trained * target.width, f"the adapter again, frozen: x {target.width} B")
    return parts


def _batch_parts(shape: ModelShape, target: TrainingTarget, setup: TrainingSetup) -> Parts:
    """Return what one micro-batch takes on its way through the model and back."""
    tokens = setup.tokens * setup.micro_batch * target.answers
    kept = 1 if setup.checkpointing else shape.layers
    has_inputs = target.method != "full" and not setup.checkpointing
    inputs = sum(shape.matrices[name][0] for name in shape.chosen(target.targets)) if has_inputs else 0
    parts: Parts = {"activations": _activations(shape, tokens, setup, inputs, kept)}
    if setup.device == "cpu" and setup.tokens <= EAGER_TOKENS:
        # with checkpointing one layer at a time, but with all of its gradients
        each = (5 if setup.bf16 else 8) * (4 if setup.checkpointing else 2)
        formula = f"{kept} layers x {tokens} x {setup.tokens} x {shape.heads} x {each} B"
        parts["attention"] = (kept * tokens * setup.tokens * shape.heads * each, formula)
    supervised = setup.tokens if setup.supervised is None else setup.supervised
    scored = min(tokens * supervised // setup.tokens, tokens)
    parts["logits"] = _logits(shape.vocab, tokens, scored, setup.device, fused_head=setup.fused_head)
    if target.method == "qlora":
        largest = max(rows * columns for rows, columns in shape.matrices.values())
        parts["dequantised matrix"] = (largest * 2, "the largest projection x 2 B")
    if target.rows:
        # PEFT puts the rows into a copy; TRL takes the gradient of the whole head in fp32, then as the weights are
        parts["rows of tokens"] = (shape.vocab * shape.hidden * 8, "a copy of the output head and its gradient x 8 B")
    if setup.shards > 1:
        width = 4 if target.method == "full" else setup.width
        gathered = (2 * shape.linear / shape.layers + shape.embedding) * width
        parts["gathered layers"] = (gathered, f"two layers and the embeddings x {width} B")
    return parts


def _process_parts(setup: TrainingSetup) -> Parts:
    """Return what the process takes before anything is loaded."""
    if setup.device == "cuda":
        return {"context": (_CONTEXT if setup.context is None else setup.context, "CUDA context and workspaces")}
    return {"process": (_CPU_PROCESS if setup.context is None else setup.context, "Python with its libraries")}


def _weights(shape: ModelShape, method: Method, width: int, *, double_quant: bool) -> tuple[float, str]:
    if method == "qlora":
        nf4 = _NF4 if double_quant else _NF4_SINGLE
        size = shape.linear * nf4 + shape.embedding * 2
        return size, f"{_m(shape.linear)} x {nf4:.4g} B (nf4) + {_m(shape.embedding)} x 2 B"
    width = 4 if method == "full" else width
    return shape.parameters * width, f"{_m(shape.parameters)} x {width} B"


def _activations(shape: ModelShape, tokens: int, setup: TrainingSetup, inputs: int, kept: int) -> tuple[int, str]:
    """Return what `kept` layers keep for their backward pass, with `inputs` values a token for the adapters.

    With checkpointing that is one layer at a time, and the input of every layer.
    """
    width = setup.width
    # a layer that is computed again holds its gradients as well; measured on a GPU
    wide = 7 if setup.checkpointing and setup.device == "cuda" else 4
    layer = 6 * shape.hidden + 3 * shape.queries + 4 * shape.keys + wide * shape.ffn + inputs
    if kept < shape.layers:
        each = f"{shape.layers} layers x {shape.hidden} x 2 B + {layer} x {width} B"
        return tokens * (shape.layers * shape.hidden * 2 + layer * width), f"{tokens} tokens x ({each})"
    return tokens * kept * layer * width, f"{tokens} tokens x {kept} layers x {layer} x {width} B"


def _logits(vocab: int, tokens: int, scored: int, device: Device, *, fused_head: bool) -> tuple[int, str]:
    """Return what the logits take.

    `scored` of the `tokens` carry loss; a CPU projects only those, as long as they are few (trainer/cpu_loss.py).
    """
    if not fused_head:
        return tokens * vocab * 10, f"{tokens} tokens x {vocab} x 10 B"
    if device == "cpu":
        most = min(scored, CPU_HEAD_TOKENS)
        return most * vocab * _CPU_LOGIT, f"at most {most} tokens with loss x {vocab} x {_CPU_LOGIT} B"
    tile = min(tokens, _TILE_TOKENS)
    return tile * _TILE_VOCABULARY * 8, f"tiles of {tile} x {_TILE_VOCABULARY} x 8 B"


def _flops_per_row(shape: ModelShape, target: TrainingTarget, setup: TrainingSetup) -> int:
    """Return the operations for one row of full length.

    A matrix product costs 2 operations a parameter and token; its backward pass 4, or 2 where the matrix is frozen.
    """
    tokens, again = setup.tokens, setup.checkpointing
    # DPO: the reference's forward pass; KTO: that of both models on a mismatched answer, too
    forward = 3 if target.kto else int(target.dpo)
    products = (6 if target.method == "full" else 4) + 2 * again + 2 * forward
    attention = 2 * shape.layers * shape.queries * tokens * (3 + again + forward)  # causal: half of the square
    return tokens * target.answers * (products * (shape.linear + shape.vocab * shape.hidden) + attention)


def largest_micro_batch(
    shape: ModelShape, target: TrainingTarget, setup: TrainingSetup, *, memory: int, most: int = 256
) -> int:
    """Return the largest power of two of rows at a time that fits into `memory` bytes, up to `most`; 0 if one does not.

    `setup.micro_batch` is not read.
    """
    rows = 1
    while rows <= most and estimate_training(shape, target, replace(setup, micro_batch=rows)).fits(memory):
        rows *= 2
    return rows // 2


def largest_length(
    shape: ModelShape, target: TrainingTarget, setup: TrainingSetup, *, memory: int, most: int = 131072
) -> int:
    """Return the most tokens (a multiple of 128, up to `most`) of a row that fits into `memory` bytes; 0 if none does.

    `setup.tokens` is not read.
    """

    def is_too_long(tokens: int) -> bool:
        return not estimate_training(shape, target, replace(setup, tokens=tokens)).fits(memory)

    lengths = range(128, most + 1, 128)
    too_long = bisect(lengths, False, key=is_too_long)
    return lengths[too_long - 1] if too_long else 0


def _m(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}G" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
