"""LLM text: one base model loaded once, any number of adapters on it, greedy batched answers."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec

from expectations.canonical import text_digest
from expectations.contracts.adapter import AdapterContract, BaseModel, compare_base, violations
from expectations.violations import Refused
from resources import models
from resources.accelerator import Compute
from resources.memory import with_smaller_batches

BASE = "base"
ADAPTER_FOLDER = "adapter"
ADAPTER_NAME = "default"  # what PEFT calls the adapter that is trained
CONTRACT_FILE = "contract.json"


# "<think>\n" at the end of a prompt is at most this many tokens, also where it is no token of its own
_OPENING_TOKENS = 8


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class Generated(NamedTuple):
    """One generated text, stripped, without special tokens."""

    text: str
    tokens: int
    """How many were generated, without the one that ends them."""
    cut: bool
    """Whether max_new_tokens ended it."""
    opens_thought: bool
    """Whether the prompt already ended with an open <think>."""


class Generator:
    """Answers chats with the base model or with one of its adapters.

    `adapters` maps a name to an adapter artifact's folder (adapter/, contract.json). Loading refuses (FT-ADP-001) an
    adapter whose contract names another base, tokenizer or chat template than what lies in `base_folder`.
    """

    def __init__(self, base_folder: Path, adapters: Mapping[str, Path], compute: Compute) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        models.silence_progress_bars()

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base_folder, trust_remote_code=False)
        base = describe_base(base_folder, self.tokenizer)
        broken = [
            violation
            for name, folder in adapters.items()
            for violation in violations(compare_base(read_contract(folder), base), f"adapter {name} on {base_folder}")
        ]
        if broken:
            raise Refused("loading adapters", broken)
        self.stop_ids = base.stop_token_ids
        dtype = getattr(torch, compute.dtype)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base_folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        for name, folder in adapters.items():
            path = folder / ADAPTER_FOLDER
            if isinstance(model, PeftModel):
                model.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
            else:
                model = PeftModel.from_pretrained(model, path, adapter_name=name, autocast_adapter_dtype=False)
        # adapters in the base's dtype: casting every activation up and back costs more than the product itself
        self.model: Any = model.to(device=compute.device, dtype=dtype).eval()
        self.names = [BASE, *adapters]

    def answer(
        self,
        model_name: str,
        chats: Sequence[Sequence[Message]],
        max_new_tokens: int,
        batch_size: int,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str]:
        """The greedy answer to each chat, in the order given: the text of `generate`."""
        return [made.text for made in self.generate(model_name, chats, max_new_tokens, batch_size, on_batch)]

    def generate(
        self,
        model_name: str,
        chats: Sequence[Sequence[Message]],
        max_new_tokens: int,
        batch_size: int,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Generated]:
        """Greedy text for each chat, in the order given. `on_batch(done, total)` after every batch.

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

        with torch.inference_mode(), self._using(model_name):
            while len(answers) < len(order):
                batch_size = with_smaller_batches(answer_next, batch_size)
                on_batch(len(answers), len(order))
        return [answers[n] for n in range(len(prompts))]

    def _batch(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        import torch

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop_ids[0]
        device = self.model.device
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

    def _using(self, model_name: str) -> Any:
        """The base alone, or the named adapter, for the length of a `with` block."""
        import contextlib

        if model_name not in self.names:
            raise KeyError(f"{model_name} is not loaded; there are {self.names}")
        if model_name != BASE:
            self.model.set_adapter(model_name)
            return contextlib.nullcontext()
        return self.model.disable_adapter() if len(self.names) > 1 else contextlib.nullcontext()


def render(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """Token ids of a chat by the tokenizer's own template."""
    return list(
        tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
        )["input_ids"]
    )


def describe_base(folder: Path, tokenizer: Any, name: str = "", revision: str | None = None) -> BaseModel:
    """The base model's identity for a contract: content hashes, chat template, the tokens that end an answer."""
    from transformers import GenerationConfig

    stops = {tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(folder).eos_token_id
        stops |= set(configured if isinstance(configured, list) else [configured])
    prints = models.fingerprint(folder)
    return BaseModel(
        name=name,
        revision=revision,
        weights_sha256=prints["weights"],
        tokenizer_sha256=prints["tokenizer"],
        chat_template_sha256=text_digest(tokenizer.chat_template or ""),
        stop_token_ids=sorted(token for token in stops if token is not None),
    )


def read_contract(folder: Path) -> AdapterContract:
    """The contract beside an adapter."""
    return msgspec.json.decode((folder / CONTRACT_FILE).read_bytes(), type=AdapterContract)
