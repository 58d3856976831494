"""Calls answered in their order, a window at a time, each asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from expectations.contracts.generator import GeneratorContract
from resources.text_source import BASE, Call, Outcome, TextSource

WINDOW = 256
"""Calls that are in memory at once."""


class Asker:
    """A text source, asked through its cache and within its budget."""

    def __init__(self, source: TextSource) -> None:
        self._source = source

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return the identity of a model of the source."""
        return self._source.contract(model)

    def ask(self, calls: Iterable[Call], on_window: Callable[[int], None] = lambda done: None) -> Iterator[Outcome]:
        """Yield the outcome of each call, in the order given; memory holds one window of them.

        `on_window(done)` is called after each window with the number of calls answered so far.
        """
        remaining, done = iter(calls), 0
        while window := list(islice(remaining, WINDOW)):
            outcomes: dict[int, Outcome] = {}
            self._source.ask(window, outcomes.__setitem__)
            done += len(window)
            on_window(done)
            yield from (outcomes[n] for n in range(len(window)))
