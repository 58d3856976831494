"""Tokens drawn from a causal language model: several texts of one prompt from one prefill, each with its own sampling,
and the beginning that all prompts of a batch share from one.

A text depends on its key and not on the texts next to it: its random numbers are hashes of its key and the step.
"""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

_FEW = 8
"""Tokens that prompts must share to be read together first: a pass of the model for fewer gains nothing."""
_LIKELIEST = 256
"""Tokens that are sorted at first: nearly every draw is among them, and to sort a whole vocabulary takes as long as a
step of a small model."""


class TextWanted(NamedTuple):
    """One text that is wanted of a prompt."""

    prompt: int
    """The prompt's number."""
    key: str
    max_new_tokens: int
    temperature: float
    top_p: float


def decode(
    model: Any, prompts: Sequence[Sequence[int]], wanted: Sequence[TextWanted], stop_ids: Sequence[int], pad: int
) -> list[list[int]]:
    """Return the new tokens of each text wanted; the last one is a stop token, unless max_new_tokens ended the text.

    Each prompt is computed once, the tokens with which all begin once for all, and a finished text leaves the batch.
    """
    batch = _Batch(model, prompts, pad)
    batch.select([one.prompt for one in wanted])
    made: list[list[int]] = [[] for _ in wanted]
    unfinished = list(range(len(wanted)))
    while unfinished:
        tokens = draw(batch.logits, [wanted[n] for n in unfinished], step=len(made[unfinished[0]]))
        going: list[int] = []
        for row, (n, token) in enumerate(zip(unfinished, tokens.tolist(), strict=True)):
            made[n].append(token)
            if token not in stop_ids and len(made[n]) < wanted[n].max_new_tokens:
                going.append(row)
        if len(going) < len(unfinished):
            batch.select(going)
            unfinished = [unfinished[row] for row in going]
        if unfinished:
            batch.advance(tokens[going])
    return made


class _Batch:
    """Rows of one batch: what the model has read of them, and the logits of their next token."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        import torch

        self._model = model
        self._cache: Any = None
        self._last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        shared = self._read_shared(prompts)
        # padding is on the left of what is not shared: the last tokens are side by side, where generation needs them
        rests = [one[shared:] for one in prompts]
        width = max(map(len, rests))
        ids = [[pad] * (width - len(one)) + list(one) for one in rests]
        mask = [[1] * shared + [0] * (width - len(one)) + [1] * len(one) for one in rests]
        self._mask = torch.tensor(mask, device=model.device)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        self._penalty = float(model.generation_config.repetition_penalty or 1.0)
        self._seen: Any = None  # row x token, where the model has a penalty on those that were there before
        self._read(torch.tensor(ids, device=model.device), positions)
        self._position = positions[:, -1:]
        if self._penalty != 1:
            self._seen = torch.zeros(self.logits.shape, dtype=torch.bool, device=model.device)
            for row, one in enumerate(prompts):
                self._seen[row, list(one)] = True
            self._penalise()

    def _read_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Read the tokens with which all prompts begin, once for all. Return their number; 0 where they are few, or the
        model has layers that cannot skip the padding behind them (windows, recurrent ones)."""
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        ordered = sorted(map(tuple, prompts))
        first, last = ordered[0], ordered[-1]  # what these two share, all do
        most = min(len(one) for one in prompts) - 1  # the last token is read by each: its logits are wanted
        shared = next((n for n in range(most) if first[n] != last[n]), most)
        if len(prompts) == 1 or shared < _FEW:
            return 0
        ids = torch.tensor([first[:shared]], device=self._model.device)
        self._mask = torch.ones_like(ids)
        self._read(ids, torch.arange(shared, device=ids.device)[None])
        cache = self._cache
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            self._cache = None
            return 0
        cache.batch_repeat_interleave(len(prompts))
        return shared

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; one may be there several times."""
        import torch

        index = torch.tensor(rows, device=self._mask.device, dtype=torch.long)
        self._cache.reorder_cache(index)  # the selection that every kind of layer has, also a recurrent one
        self._mask, self._position, self.logits = self._mask[index], self._position[index], self.logits[index]
        if self._seen is not None:
            self._seen = self._seen[index]

    def advance(self, tokens: Any) -> None:
        """Read one more token in each row."""
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self._position = self._position + 1
        self._read(tokens[:, None], self._position)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
            self._penalise()

    def _penalise(self) -> None:
        """Lower the logits of tokens that were there before, as the model's own generation_config.json wants it."""
        import torch

        logits = self.logits.float()
        lowered = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        self.logits = torch.where(self._seen, lowered, logits)

    def _read(self, ids: Any, positions: Any) -> None:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        self._cache, self.logits = output.past_key_values, output.logits[:, -1]


def draw(logits: Any, wanted: Sequence[TextWanted], step: int) -> Any:
    """Return the next token of each row: the likeliest, or one drawn by temperature and top_p."""
    import torch

    tokens = logits.argmax(-1)
    drawn = [row for row, one in enumerate(wanted) if one.temperature > 0]
    if not drawn:
        return tokens

    def column(values: list[float]) -> Any:
        return torch.tensor(values, device=logits.device)[:, None]

    temperature = column([wanted[row].temperature for row in drawn])
    top_p = column([wanted[row].top_p for row in drawn])
    chance = column([_chance(wanted[row].key, step) for row in drawn])
    probabilities = (logits[drawn].float() / temperature).softmax(-1)
    likeliest, order = probabilities.topk(min(_LIKELIEST, probabilities.shape[-1]))
    # their sum is top_p at least, or what is drawn is among them: all but few rows
    total = likeliest.sum(-1, keepdim=True)
    enough = (total >= top_p) | ((top_p >= 1) & (chance < total))
    picked = order.gather(-1, _invert(likeliest, top_p, chance, whole=1.0))
    if few := (~enough[:, 0]).nonzero()[:, 0].tolist():
        ranked, order = probabilities[few].sort(descending=True)
        picked[few] = order.gather(-1, _invert(ranked, top_p[few], chance[few]))
    tokens[drawn] = picked[:, 0]
    return tokens


def _invert(ranked: Any, top_p: Any, chance: Any, whole: float | None = None) -> Any:
    """Return the rank at which the cumulated probability passes `chance` of the nucleus: the likeliest tokens with a
    sum of top_p. `whole`: the sum of all tokens, where `ranked` has not all."""
    import torch

    cumulated = ranked.cumsum(-1)
    nucleus = ranked.masked_fill(cumulated - ranked >= top_p, 0)
    mass = nucleus.sum(-1, keepdim=True)
    if whole is not None:
        mass = torch.where(top_p >= 1, whole, mass)
    return torch.searchsorted(nucleus.cumsum(-1), chance * mass).clamp(max=ranked.shape[-1] - 1)


def _chance(key: str, step: int) -> float:
    """Return a number in [0, 1) that only the text's key and the step decide."""
    return int.from_bytes(blake2b(f"{key}:{step}".encode(), digest_size=6).digest(), "big") / 2**48
