"""Calls answered in their order, a window at a time: from the cache, or by a text source within a budget."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

import msgspec

from expectations.contracts.generator import GeneratorContract
from expectations.violations import Refused, violation
from resources import accelerator, models
from resources.artifacts import Artifact
from resources.call_cache import CallCache
from resources.endpoint import EndpointSource
from resources.launcher import RAY_GENERATORS, ComputeParams
from resources.local_source import LocalModels, LocalSource
from resources.ray_source import RaySource
from resources.telemetry import Metrics
from resources.text_source import (
    BASE,
    PASSING,
    Call,
    CallFigures,
    GeneratorParams,
    NoReply,
    Outcome,
    TextSource,
    call_key,
)

WINDOW = 256
"""Calls that are in memory at once."""
LOCAL_WINDOW = 2048
"""The same for a local model: they are sorted by length to be cut into batches, and actors of a cluster share these. It
does not depend on the number of actors, so that the batches do not."""
_FIRST_TOKENS = 512
"""Tokens of a call, as long as none was made."""
_LOG_SECONDS = 2.0


class Usage(msgspec.Struct, kw_only=True):
    """The work of an asker so far. Tokens and seconds are those of new calls."""

    calls: int = 0
    """Calls that the source answered."""
    cached: int = 0
    """Calls that were answered before."""
    failed: int = 0
    """Calls without a reply."""
    retries: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.tokens

    def figures(self) -> CallFigures:
        """Return the figures that the summary of an artifact holds."""
        return CallFigures(
            calls=self.calls,
            cached=self.cached,
            prompt_tokens=self.prompt_tokens,
            tokens=self.tokens,
            seconds=round(self.seconds, 1),
        )


class _Position(msgspec.Struct, kw_only=True):
    """The calls answered so far of those to come."""

    phase: str
    total: int
    """0: not known."""
    done: int = 0


class Asker:
    """A text source, asked through its cache and within its budget. A context manager."""

    def __init__(
        self,
        source: TextSource,
        cache: CallCache | None = None,
        *,
        max_tokens_total: int | None = None,
        metrics: Metrics | None = None,
        window: int = WINDOW,
    ) -> None:
        self._source, self._cache, self._budget, self._metrics = source, cache, max_tokens_total, metrics
        self._window = window
        self._digests: dict[str, str] = {}  # of the contracts
        self._logged_at = 0.0
        self.usage = Usage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
        if self._cache is not None:
            self._cache.close()

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of a model of the source."""
        return self._source.contract(model)

    def key(self, call: Call) -> str:
        """Return the call's key: the hash of all that decides its text."""
        if call.model not in self._digests:
            self._digests[call.model] = self.contract(call.model).digest
        return call_key(call, self._digests[call.model])

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
        of calls to come, progress is logged in `phase`. Raises Refused: FT-GEN-010 the budget is spent, FT-GEN-001
        calls failed for a passing reason. The next run asks only what is missing.
        """
        remaining, position = iter(calls), _Position(phase=phase, total=total)
        done = 0
        while window := list(islice(remaining, self._window)):
            keys = [self.key(call) for call in window]
            outcomes: dict[str, Outcome] = dict(self._cache.get(keys)) if self._cache else {}
            missing = {key: call for key, call in zip(keys, window, strict=True) if key not in outcomes}
            self.usage.cached += len(window) - len(missing)
            position.done = done + len(window) - len(missing)
            waiting = list(missing.items())
            while waiting:
                number = self._affordable(len(waiting), position)
                self._ask_new(waiting[:number], outcomes, position)
                del waiting[:number]
            done += len(window)
            on_window(done)
            self._log(position, now=done == total)
            yield from (outcomes[key] for key in keys)

    def _ask_new(self, asked: Sequence[tuple[str, Call]], outcomes: dict[str, Outcome], position: _Position) -> None:
        """Have the source answer these calls, and keep each reply as it arrives."""
        started, seconds = time.monotonic(), self.usage.seconds

        def keep(n: int, outcome: Outcome) -> None:
            key, _ = asked[n]
            outcomes[key] = self._count(key, outcome)
            self.usage.seconds = seconds + time.monotonic() - started
            position.done += 1
            self._log(position)

        self._source.ask([call for _, call in asked], keep)
        _refuse_passing([outcomes[key] for key, _ in asked])

    def _count(self, key: str, outcome: Outcome) -> Outcome:
        usage = self.usage
        usage.retries += max(outcome.attempts - 1, 0)
        if isinstance(outcome, NoReply):
            usage.failed += 1
            return outcome
        usage.calls += 1
        usage.prompt_tokens += outcome.prompt_tokens
        usage.tokens += outcome.tokens
        return self._cache.put(key, outcome) if self._cache else outcome

    def _affordable(self, number: int, position: _Position) -> int:
        """Return as many of `number` calls as the budget has tokens for. Raises Refused (FT-GEN-010) for none."""
        if self._budget is None:
            return number
        usage = self.usage
        if not usage.calls:
            number = min(number, WINDOW)
        mean = usage.total_tokens / usage.calls if usage.calls else _FIRST_TOKENS
        left = self._budget - usage.total_tokens
        if left <= 0:
            missing = max(position.total - position.done, number)
            message = (
                f"{usage.total_tokens:,} tokens are spent, and generator.max_tokens_total is {self._budget:,}; "
                f"the rest needs about {round(missing * mean):,} tokens"
            )
            where = f"{position.done} of {position.total or 'an unknown number of'} calls are answered"
            spent = violation("FT-GEN-010", where=where, message=message)
            raise Refused("asking the generator", [spent])
        return max(1, min(number, int(left / mean)))

    def _log(self, position: _Position, now: bool = False) -> None:
        if self._metrics is None or not position.total:
            return
        if not now and time.monotonic() - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        usage = self.usage
        figures: dict[str, float] = {"cached": usage.cached}
        if usage.retries:
            figures["retries"] = usage.retries
        if usage.calls:
            # without the cached calls, which take no time
            figures["seconds_per_step"] = round(usage.seconds / usage.calls, 4)
            figures["tokens_per_second"] = round(usage.total_tokens / max(usage.seconds, 1e-3), 1)
            figures |= {"prompt_tokens": usage.prompt_tokens, "tokens": usage.tokens}
        self._metrics.log(position.phase, position.done, position.total, **figures)


def _refuse_passing(outcomes: Sequence[Outcome]) -> None:
    """Refuse (FT-GEN-001) where calls failed for a reason that may pass: published, they would never be asked again."""
    failed = [one for one in outcomes if isinstance(one, NoReply) and one.code == PASSING]
    if failed:
        where, first = f"{len(failed)} of {len(outcomes)} calls", failed[0]
        message = f"No answer after {first.attempts} attempts: {first.reason}"
        refusal = violation(PASSING, where=where, message=message)
        raise Refused("asking the generator", [refusal])


def identify(params: GeneratorParams, state: Path) -> GeneratorContract:
    """Return the identity of the generator itself, for a recipe. No model is loaded; an endpoint is probed."""
    if params.kind == "endpoint":
        source = EndpointSource(params)
        try:
            return source.contract()
        finally:
            source.close()
    return GeneratorContract(
        kind="local",
        name=params.base_model,
        weights=models.version(params.base_model, state, params.revision),
    )


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
    state = Path(compute.state_dir)
    source = EndpointSource(params) if params.kind == "endpoint" else _local(params, compute, trained or {})
    # the last requests of a window are alone: many at one time need a longer window
    window = max(WINDOW, 16 * params.concurrency) if params.kind == "endpoint" else LOCAL_WINDOW
    return Asker(source, CallCache(state), max_tokens_total=params.max_tokens_total, metrics=metrics, window=window)


def _local(params: GeneratorParams, compute: ComputeParams, trained: Mapping[str, Artifact]) -> TextSource:
    """Return the source of a model in this process, or in actors where the worker is a job of a cluster that shares
    it."""
    state = Path(compute.state_dir)
    local = LocalModels(
        name=params.base_model,
        base=models.locate(params.base_model, state, params.revision),
        version=models.version(params.base_model, state, params.revision),
        trained={name: (one.folder(), one.data_version) for name, one in trained.items()},
    )
    chosen = accelerator.choose(compute.device, compute.dtype)
    if RAY_GENERATORS in os.environ:
        return RaySource(local, chosen, params, state)
    return LocalSource(local, chosen, params.batch_size)
