"""Calls answered in their order, a window at a time, each asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import msgspec

from expectations.contracts.generator import GeneratorContract
from resources.artifacts import Artifact
from resources.launcher import ComputeParams
from resources.telemetry import Metrics
from resources.text_source import BASE, Call, Outcome, TextSource, call_key

WINDOW = 256
"""Calls that are in memory at once."""


class GeneratorParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `generator` of config.yaml as a worker takes it. No secret is in it."""

    kind: Literal["local", "endpoint"] = "local"
    base_model: str = ""
    """Local: a hub name, a folder or `package:NAME`."""
    revision: str | None = None
    url: str = ""
    """Endpoint: its address up to /v1."""
    model: str = ""
    context_tokens: int = 0
    concurrency: int = 8
    timeout: float = 120.0
    max_retries: int = 5
    batch_size: int = 16
    max_tokens_total: int | None = None


class Asker:
    """A text source, asked through its cache and within its budget. A context manager."""

    def __init__(self, source: TextSource, metrics: Metrics | None = None) -> None:
        self._source, self._metrics = source, metrics

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of a model of the source."""
        return self._source.contract(model)

    def key(self, call: Call) -> str:
        """Return the call's key: the hash of all that decides its text."""
        return call_key(call, self.contract(call.model).digest)

    def ask(
        self,
        calls: Iterable[Call],
        on_window: Callable[[int], None] = lambda done: None,
        *,
        phase: str = "generate",
        total: int = 0,
    ) -> Iterator[Outcome]:
        """Yield the outcome of each call, in the order given; memory holds one window of them.

        `on_window(done)` is called after each window with the number of calls answered so far. With `total`, the number
        of calls to come, progress is logged in `phase`.
        """
        remaining, done = iter(calls), 0
        while window := list(islice(remaining, WINDOW)):
            outcomes: dict[int, Outcome] = {}
            self._source.ask(window, outcomes.__setitem__)
            done += len(window)
            on_window(done)
            if self._metrics and total:
                self._metrics.log(phase, done, total)
            yield from (outcomes[n] for n in range(len(window)))


def open_asker(
    params: GeneratorParams,
    compute: ComputeParams,
    trained: Mapping[str, Artifact] | None = None,
    metrics: Metrics | None = None,
) -> Asker:
    """Return the asker of a worker: `with open_asker(...) as asker`.

    `trained` names the artifacts of trainings on the base model (`Call.model`); only a local generator has them. The
    progress goes to `metrics`. Models are loaded when the first call comes that is not in the cache.
    """
    from resources import accelerator, models
    from resources.local_source import LocalModels, LocalSource

    state = Path(compute.state_dir)
    local = LocalModels(
        name=params.base_model,
        base=models.locate(params.base_model, state, params.revision),
        version=models.version(params.base_model, state, params.revision),
        trained={name: (one.folder(), one.data_version) for name, one in (trained or {}).items()},
    )
    return Asker(LocalSource(local, accelerator.choose(compute.device, compute.dtype), params.batch_size), metrics)
