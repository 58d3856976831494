"""The generator contract: the model that wrote a text, by content. A changed contract is another model."""

from __future__ import annotations

from typing import Literal

import msgspec

from expectations.canonical import digest


class GeneratorContract(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a generator. Sampling is not in it: each call states its own."""

    version: int = 1
    kind: Literal["local", "endpoint"]
    name: str
    """The name of the base model, or the model's name at the endpoint. Equal content under another name is the same
    generator."""
    weights: str = ""
    """Local: the version of the base model's content (weights, tokenizer and template)."""
    adapter: str = ""
    """Local: the data version of the adapter on the base; empty without one."""
    dtype: str = ""
    """Local: the dtype and the device, `bfloat16 on cpu`. Another one gives other texts now and then."""
    probe: str = ""
    """Endpoint: the digest of its greedy answers to fixed prompts. A server does not say what it has loaded."""

    @property
    def digest(self) -> str:
        """The hash of all fields but the name of a local model."""
        fields = msgspec.to_builtins(self)
        return digest(fields if self.kind == "endpoint" else {**fields, "name": ""})
