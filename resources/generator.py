"""LLMs in memory: one base model with any number of adapters on it; whole and merged models one at a time."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from expectations.contracts.adapter import compare_base
from expectations.violations import Refused, Violation
from resources import memory
from resources.accelerator import Compute
from resources.model_check import is_quantised
from resources.text_source import BASE, ChatMessage
from resources.trained_model import describe_base, load_trained, put_adapter, read_adapter_contract


class Generator:
    """Has the base model in memory, or what was trained on it: adapters, which share one base in memory, and whole
    models, each of which replaces it in memory while it answers. In float32 an adapter is merged into the base and so
    becomes a whole model: a third faster, and equal but for rounding. In 16 or 4 bits a merge would round small
    changes of the weights away.

    `trained` maps a name to an artifact's folder (resources/trained_model.py). Loading refuses (FT-ADP-001) what was
    trained on another base, tokenizer or chat template than those in `base_folder`.
    """

    def __init__(self, base_folder: Path, trained: Mapping[str, Path], compute: Compute) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base_folder, trust_remote_code=False)
        base = describe_base(base_folder, self.tokenizer)
        contracts = {name: read_adapter_contract(folder) for name, folder in trained.items()}
        violations: list[Violation] = []
        for name, contract in contracts.items():
            violations += compare_base(contract, base).violations(f"{name} on {base_folder}")
        if violations:
            raise Refused("loading adapters", violations)
        self.stop_ids = base.stop_token_ids
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else self.stop_ids[0]
        self.names = [BASE, *trained]
        loras = {name: folder for name, folder in trained.items() if contracts[name].method == "lora"}
        merges = compute.dtype == "float32" and not is_quantised(base_folder)
        self._base, self._trained = base_folder, trained
        self._merged, self._adapters = (loras, {}) if merges else ({}, loras)
        self._compute = compute
        self._loaded = ""  # nothing, until a model is asked

    def _load(self, whole: str) -> None:
        """Have this model in memory instead of the one that is; on the base, the adapters that are not merged."""
        import torch

        self.model: Any = None
        self._loaded = ""  # if this fails, no model is taken for another one
        memory.free()
        dtype = getattr(torch, self._compute.dtype)
        model: Any = load_trained(self._base, self._trained.get(whole), dtype=dtype)
        if whole in self._merged:
            model = model.merge_and_unload(safe_merge=True)
        for name, folder in self._adapters.items() if whole == BASE else ():
            model = put_adapter(model, folder, name, autocast_adapter_dtype=False)
        # adapters in the base's dtype: casting every activation up and back costs more than the product itself
        self.model = model.to(device=self._compute.device, dtype=dtype).eval()
        self._loaded = whole

    def using(self, model_name: str) -> AbstractContextManager[None]:
        """Return a context in which the model of that name answers."""
        if model_name not in self.names:
            raise KeyError(f"{model_name} is not loaded; there are {self.names}")
        whole = BASE if model_name in self._adapters else model_name
        if whole != self._loaded:
            self._load(whole)
        if model_name in self._adapters:
            self.model.set_adapter(model_name)
        elif whole == BASE and self._adapters:
            return self.model.disable_adapter()
        return contextlib.nullcontext()


def render(tokenizer: Any, messages: Sequence[ChatMessage], add_generation_prompt: bool = True) -> list[int]:
    """Return the token ids of a chat, rendered by the tokenizer's own template."""
    return list(
        tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
        )["input_ids"]
    )
