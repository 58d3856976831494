"""The sizes of a model, from its config.json or a GGUF header: memory and time follow from them. Loads no weights."""

# huggingface_hub and gguf are untyped here
# pyright: basic
from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from expectations.violations import Refused, violation
from resources import hub, models

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_FIELDS = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads",
    "ffn": "intermediate_size", "vocab": "vocab_size",
}  # fmt: skip


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
    """True if the output head is the embedding matrix."""
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
        """Return the shape. Defaults: as many kv heads as heads, head_dim = hidden / heads."""
        return cls(
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads or heads,
            head_dim=head_dim or hidden // heads,
            ffn=ffn,
            vocab=vocab,
            tied=tied,
            name=name,
        )

    @classmethod
    def from_config(cls, folder: Path, name: str = "") -> Self:
        """Return the shape that the config.json in a model's folder gives. Raises Refused (FT-EST-002, FT-EST-003)."""
        path = folder / "config.json"
        if not path.is_file():
            raise _refused("FT-EST-002", name or str(folder), "there is no config.json")
        try:
            config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise _refused("FT-EST-002", str(path), f"it is not JSON ({error})", "fetch the model again") from error
        tied = config.get("tie_word_embeddings")
        config = config.get("text_config", config)  # models that also read images keep the decoder's sizes below
        where = name or str(path)
        if lacking := [field for field in _FIELDS.values() if not isinstance(config.get(field), int)]:
            raise _refused("FT-EST-002", where, f"config.json lacks {', '.join(lacking)}", _by_sizes(config))
        if experts := next((field for field in _EXPERTS if config.get(field)), None):
            raise _refused("FT-EST-003", where, f"a model with experts ({experts}) cannot be estimated")
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
        """Parameters of the projections of all layers; QLoRA keeps these in 4 bits."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embedding matrix and, where it is not the same one, the head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters except the norms, which are a few in ten thousand."""
        return self.linear + self.embedding

    def lora_parameters(self, r: int, targets: str | list[str] = "all-linear") -> int:
        """Return the number of parameters of an adapter of rank `r` on those projections."""
        return self.layers * r * sum(sum(self.matrices[name]) for name in self.chosen(targets))

    def chosen(self, targets: str | list[str]) -> Collection[str]:
        """Return the projections that get an adapter. Names that are not known here count as all of them."""
        named = [targets] if isinstance(targets, str) else targets
        return named if all(name in self.matrices for name in named) else _PROJECTIONS


def find_shape(name: str, revision: str | None = None) -> ModelShape:
    """Return the shape of a model named as `base_model` is: a hub name, a folder, or `package:NAME`. Loads no weights.

    Raises Refused: FT-MODEL-001 not found, FT-EST-001 the hub gave nothing, FT-EST-002 no sizes, FT-EST-003 a kind that
    is not estimated.
    """
    place = models.look_up(name, revision)
    path = place.path or _hub_config(name, revision)
    return _gguf_shape(path, name) if place.kind == "gguf" else ModelShape.from_config(path, name)


def _hub_config(name: str, revision: str | None) -> Path:
    """Download the config.json of a hub model, and return its folder in the local cache."""
    from huggingface_hub import hf_hub_download

    fix = f"name a folder, set HF_ENDPOINT to a mirror, or {_by_sizes()}"
    if problem := hub.why_unreachable():  # the client would try for half a minute
        raise _refused("FT-EST-001", name, f"it is not in the local cache, and {hub.endpoint()}: {problem}", fix)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except Exception as error:  # as in models.py
        message = f"{hub.endpoint()} did not give its config.json ({type(error).__name__})"
        raise _refused("FT-EST-001", name, message, f"check the name and HF_TOKEN, or {fix}") from error


def _gguf_shape(path: Path, name: str) -> ModelShape:
    from gguf import GGUFReader

    reader: Any = GGUFReader(path)
    kind = reader.fields["general.architecture"].contents()
    sizes = {
        "layers": "block_count",
        "hidden": "embedding_length",
        "heads": "attention.head_count",
        "ffn": "feed_forward_length",
        "kv_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
    }
    found = {
        size: reader.fields[f"{kind}.{key}"].contents()
        for size, key in sizes.items()
        if f"{kind}.{key}" in reader.fields
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    vocab = int(tensors["token_embd.weight"].n_elements) // found["hidden"]
    return ModelShape.from_sizes(**found, vocab=vocab, tied="output.weight" not in tensors, name=name)


def _by_sizes(config: Mapping[str, object] | None = None) -> str:
    """Return the command that names a model's sizes: those in its configuration, and the field of each other one."""
    known = config or {}
    sizes = " ".join(f"--{size} {known.get(field, field.upper())}" for size, field in _FIELDS.items())
    return f"name its sizes, as its config.json has them: ft estimate {sizes}"


def _refused(code: str, where: str, message: str, fix: str = "") -> Refused:
    return Refused("estimating", [violation(code, where=where, message=message, fix=fix)])
