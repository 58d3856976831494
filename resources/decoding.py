"""Tokens drawn from a causal language model: several texts of one prompt from one prefill, each with its own sampling.

A text depends on its key and not on the texts next to it: its random numbers are hashes of its key and the step.
"""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

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

    Each prompt is computed once, and a finished text leaves the batch.
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

        self._model, self._width = model, max(map(len, prompts))
        self._last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        # padding is on the left, where generation needs it
        ids = [[pad] * (self._width - len(one)) + list(one) for one in prompts]
        mask = [[0] * (self._width - len(one)) + [1] * len(one) for one in prompts]
        self._mask = torch.tensor(mask, device=model.device)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache: Any = None
        self._read(torch.tensor(ids, device=model.device), positions)
        self._position = positions[:, -1:]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; one may be there several times."""
        import torch

        index = torch.tensor(rows, device=self._mask.device, dtype=torch.long)
        self._cache.batch_select_indices(index)
        self._mask, self._position, self.logits = self._mask[index], self._position[index], self.logits[index]

    def advance(self, tokens: Any) -> None:
        """Read one more token in each row."""
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        self._position = self._position + 1
        self._read(tokens[:, None], self._position)

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
