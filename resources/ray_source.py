"""A text source whose calls are answered by actors of a Ray cluster, each with the models in its own memory.

Batches are cut here as a `LocalSource` cuts them, and an actor answers one at a time: a text has the same texts next to
it as in one process, and so the same errors of rounding. An endpoint needs no actors: one process keeps as many
requests under way as the server takes.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.generator import GeneratorContract
from expectations.violations import Refused, violation
from resources import models
from resources.accelerator import Compute
from resources.launcher import RAY_GENERATORS
from resources.local_source import LocalModels, LocalSource, sort_calls
from resources.ray_pool import ActorPool
from resources.text_source import BASE, Call, GeneratorParams, Outcome

_SETTING = "launcher.ray.generators"


class RaySource:
    """Answers calls as a `LocalSource` of the same parameters does. The pool starts when the first of them come.

    `local`: the models as this process finds them; each actor finds the base on its own node.
    """

    def __init__(self, local: LocalModels, compute: Compute, params: GeneratorParams, state: Path) -> None:
        self._local, self._compute, self._params, self._state = local, compute, params, state
        self._identity = LocalSource(local, compute, params.batch_size)  # loads nothing unless it is asked
        self._tokenizer: Any = None
        self._pool: ActorPool | None = None

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of the base or of what was trained on it."""
        return self._identity.contract(model)

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        """Answer the calls. Raises Refused as `ActorPool` does, and FT-RAY-007 where a node has another base model."""
        if self._pool is None:
            actors = int(os.environ[RAY_GENERATORS])
            arguments = self._local, self._compute, self._params, self._state
            self._pool = ActorPool(_SETTING, actors, _Answerer, *arguments)
        batches = self._cut(calls)
        for number, outcomes in self._pool.run([[calls[n] for n in batch] for batch in batches]):
            for n, outcome in zip(batches[number], outcomes, strict=True):
                on_outcome(n, outcome)

    def close(self) -> None:
        """End the actors."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _cut(self, calls: Sequence[Call]) -> list[list[int]]:
        """Return the numbers of the calls of each batch, the longest texts first: none is waited for at the end."""
        from transformers import AutoTokenizer

        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self._local.base, trust_remote_code=False)
        size = self._params.batch_size
        batches: list[list[int]] = []
        for name in dict.fromkeys(call.model for call in calls):
            of_model = [(n, call) for n, call in enumerate(calls) if call.model == name]
            numbers = [n for _, n, _ in sort_calls(self._tokenizer, of_model)]
            cut = [numbers[start : start + size] for start in range(0, len(numbers), size)]
            batches += reversed(cut)
        return batches


class _Answerer:
    """Answers batches in a process of the cluster."""

    def __init__(self, local: LocalModels, compute: Compute, params: GeneratorParams, state: Path) -> None:
        name, revision = params.base_model, params.revision
        if (found := models.version(name, state, revision)) != local.version:
            other = violation("FT-RAY-007", where=name, field="version", found=found, expected=local.version)
            raise Refused("answering on Ray", [other])
        here = msgspec.structs.replace(local, base=models.locate(name, state, revision))
        self._source = LocalSource(here, compute, params.batch_size)

    def __call__(self, calls: Sequence[Call]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        self._source.ask(calls, outcomes.__setitem__)
        return [outcomes[n] for n in range(len(calls))]
