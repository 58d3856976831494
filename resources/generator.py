"""LLM text: one base model with any number of adapters on it, whole models one at a time, greedy batched answers."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from expectations.contracts.adapter import compare_base
from expectations.violations import Refused, Violation
from resources import memory
from resources.accelerator import Compute
from resources.text_source import BASE, ChatMessage
from resources.trained_model import (
    WHOLE_MODEL_FOLDER,
    describe_base,
    load_weights,
    put_adapter,
    read_adapter_contract,
)

# "<think>\n" at the end of a prompt is at most this many tokens, also where it is no token of its own
_OPENING_TOKENS = 8


class Generated(NamedTuple):
    """One generated text, stripped, without special tokens."""

    text: str
    tokens: int
    """Number of generated tokens, without the one that ends them."""
    cut: bool
    """True if max_new_tokens ended it."""
    opens_thought: bool
    """True if the prompt already ended with an open <think>."""


class Generator:
    """Answers chats with the base model or with what was trained on it: adapters, which share one base in memory, and
    whole models, each of which replaces it in memory while it answers.

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
        self._adapters = {name: folder for name, folder in trained.items() if contracts[name].method == "lora"}
        self._wholes = {
            BASE: base_folder,
            **{name: trained[name] / WHOLE_MODEL_FOLDER for name in trained if name not in self._adapters},
        }
        self._compute = compute
        self._loaded = ""  # nothing, until a model is asked

    def _load(self, whole: str) -> None:
        """Have these weights in memory instead of those that are; on the base, its adapters."""
        import torch

        self.model: Any = None
        memory.free()
        dtype = getattr(torch, self._compute.dtype)
        model: Any = load_weights(self._wholes[whole], dtype=dtype)
        for name, folder in self._adapters.items() if whole == BASE else ():
            model = put_adapter(model, folder, name, autocast_adapter_dtype=False)
        # adapters in the base's dtype: casting every activation up and back costs more than the product itself
        self.model = model.to(device=self._compute.device, dtype=dtype).eval()
        self._loaded = whole

    def generate(
        self,
        model_name: str,
        chats: Sequence[Sequence[ChatMessage]],
        max_new_tokens: int,
        batch_size: int,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Generated]:
        """Return greedy text for each chat, in the order given. `on_batch(done, total)` is called after every batch.

        Chats are sorted by length, so that a batch pads little; padding is on the left, where generation needs it.
        """
        import torch

        prompts = [render(self.tokenizer, chat) for chat in chats]
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
        answers: dict[int, Generated] = {}

        def answer_next(size: int) -> int:
            picked = order[len(answers) : len(answers) + size]
            answers.update(zip(picked, self._batch([prompts[n] for n in picked], max_new_tokens), strict=True))
            return size

        with torch.inference_mode(), self.using(model_name):
            while len(answers) < len(order):
                batch_size = memory.with_smaller_batches(answer_next, batch_size)
                on_batch(len(answers), len(order))
        return [answers[n] for n in range(len(prompts))]

    def _batch(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        import torch

        width = max(map(len, prompts))
        pad, device = self.pad_id, self.model.device
        ids = self.model.generate(
            input_ids=torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device),
            attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.stop_ids,
            pad_token_id=pad,
            # a model's own sampling defaults would only warn here
            temperature=None,
            top_p=None,
            top_k=None,
        )
        made: list[Generated] = []
        for prompt, row in zip(prompts, ids[:, width:].tolist(), strict=True):
            length = next((n for n, token in enumerate(row) if token in self.stop_ids), len(row))
            text = self.tokenizer.decode(row[:length], skip_special_tokens=True).strip()
            opens_thought = self.tokenizer.decode(prompt[-_OPENING_TOKENS:]).rstrip().endswith("<think>")
            made.append(Generated(text, tokens=length, cut=length == len(row), opens_thought=opens_thought))
        return made

    def using(self, model_name: str) -> AbstractContextManager[None]:
        """Return a context in which the model of that name answers."""
        if model_name not in self.names:
            raise KeyError(f"{model_name} is not loaded; there are {self.names}")
        whole = model_name if model_name in self._wholes else BASE
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
