"""A text source in this process: batched by length, each prompt computed once, adapters on one base."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from expectations.contracts.generator import GeneratorContract
from resources import memory
from resources.accelerator import Compute
from resources.decoding import TextWanted, decode
from resources.generator import Generator, render
from resources.text_source import BASE, Call, ModelReply, NoReply, Outcome, call_key

# "<think>\n" at the end of a prompt is at most this many tokens, also where it is no token of its own
_OPENING_TOKENS = 8


RenderedCall = tuple["array[int]", int, Call]
"""The token ids of its prompt, its number, and the call."""


class LocalModels(msgspec.Struct, frozen=True, kw_only=True):
    """The models of a source: the base and what was trained on it, as folders and as versions of their content."""

    name: str
    """The name of the base model, for contracts."""
    base: Path
    version: str
    trained: Mapping[str, tuple[Path, str]] = {}
    """Name -> folder and data version of the artifact."""


class LoadedModel(Protocol):
    """A model that can answer, with its tokenizer; a `Generator` is one."""

    model: Any
    tokenizer: Any
    stop_ids: list[int]
    pad_id: int


class LocalSource:
    """Answers calls with a `Generator`, which is loaded when the first of them comes."""

    def __init__(self, models: LocalModels, compute: Compute, batch_size: int) -> None:
        self._models, self._compute, self._batch_size = models, compute, batch_size
        self._loaded: Generator | None = None

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of the base or of what was trained on it."""
        return GeneratorContract(
            kind="local",
            name=self._models.name,
            weights=self._models.version,
            adapter="" if model == BASE else self._models.trained[model][1],
            dtype=f"{self._compute.dtype} on {self._compute.device}",
        )

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        """Answer the calls, the texts of one model after those of another."""
        for name in dict.fromkeys(call.model for call in calls):
            self._ask_one(name, [(n, call) for n, call in enumerate(calls) if call.model == name], on_outcome)

    def close(self) -> None:
        """Give the models' memory back."""
        if self._loaded is not None:
            self._loaded = None
            memory.free()

    def _ask_one(
        self, name: str, calls: Sequence[tuple[int, Call]], on_outcome: Callable[[int, Outcome], None]
    ) -> None:
        import torch

        contract, generator = self.contract(name).digest, self._generator()
        with torch.inference_mode(), generator.using(name):
            self._batch_size = answer_calls(generator, calls, on_outcome, contract, self._batch_size)

    def _generator(self) -> Generator:
        if self._loaded is None:
            folders = {name: folder for name, (folder, _) in self._models.trained.items()}
            self._loaded = Generator(self._models.base, folders, self._compute)
        return self._loaded


def sort_calls(tokenizer: Any, calls: Sequence[tuple[int, Call]]) -> list[RenderedCall]:
    """Return the calls in the order in which they are answered, a batch at a time: by length, so that a batch pads
    little; the texts of one prompt are next to each other."""
    rendered = [(array("I", render(tokenizer, call.messages)), n, call) for n, call in calls]
    return sorted(rendered, key=lambda one: (len(one[0]), one[0]))


def answer_calls(
    loaded: LoadedModel,
    calls: Sequence[tuple[int, Call]],
    on_outcome: Callable[[int, Outcome], None],
    contract: str,
    batch_size: int,
) -> int:
    """Answer calls, each with its number for `on_outcome`, by the model that is loaded. Return the batch size that
    memory was enough for. `contract`: the digest of the model's identity, which seeds sampled texts."""
    waiting = sort_calls(loaded.tokenizer, calls)

    def answer_next(size: int) -> int:
        _answer(loaded, contract, waiting[:size], on_outcome)
        del waiting[:size]
        return size

    while waiting:
        batch_size = memory.with_smaller_batches(answer_next, batch_size)
    return batch_size


def _answer(
    loaded: LoadedModel,
    contract: str,
    batch: Sequence[RenderedCall],
    on_outcome: Callable[[int, Outcome], None],
) -> None:
    longest = getattr(loaded.model.config, "max_position_embeddings", None)
    refused = {n: reply for prompt, n, call in batch if (reply := _refuse_long(longest, prompt, call))}
    batch = [one for one in batch if one[1] not in refused]
    prompts: dict[tuple[int, ...], int] = {}
    wanted: list[TextWanted] = []
    for prompt, _, call in batch:
        sampling = call.sampling
        wanted.append(
            TextWanted(
                prompt=prompts.setdefault(tuple(prompt), len(prompts)),
                key=call_key(call, contract),
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
            )
        )
    rows = decode(loaded.model, list(prompts), wanted, loaded.stop_ids, loaded.pad_id) if wanted else []
    for n, reply in refused.items():
        on_outcome(n, reply)
    for (prompt, n, _), row in zip(batch, rows, strict=True):
        ended = row[-1] in loaded.stop_ids
        tokens = row[:-1] if ended else row
        on_outcome(
            n,
            ModelReply(
                text=loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
                prompt_tokens=len(prompt),
                tokens=len(tokens),
                finish="stop" if ended else "length",
                opens_thought=loaded.tokenizer.decode(prompt[-_OPENING_TOKENS:].tolist()).rstrip().endswith("<think>"),
            ),
        )


def _refuse_long(longest: int | None, prompt: Sequence[int], call: Call) -> NoReply | None:
    """Return why a model that reads `longest` tokens (None: any number) cannot answer a call; None if it can."""
    needed = len(prompt) + call.sampling.max_new_tokens
    if not longest or needed <= longest:
        return None
    reason = f"prompt and answer need {needed} tokens, and the model reads {longest}"
    return NoReply(code="FT-GEN-005", reason=reason, attempts=0)
