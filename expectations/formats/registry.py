"""The record formats. A new format is one file with its `Format`, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from expectations.formats.dialect import Dialect, Format, Record
from expectations.formats.instruction import INSTRUCTION
from expectations.formats.pairs import RETRIEVAL_PAIR
from expectations.formats.passage import PASSAGE
from expectations.formats.preference import PREFERENCE
from expectations.formats.qa import QA
from expectations.formats.retrieval import QRELS, QUERY
from expectations.formats.unpaired import UNPAIRED_PREFERENCE

Bridge = Callable[[Any], Record]
_ALL: tuple[Format[Any], ...] = (
    INSTRUCTION,
    PREFERENCE,
    UNPAIRED_PREFERENCE,
    QA,
    RETRIEVAL_PAIR,
    QRELS,
    QUERY,
    PASSAGE,
)
"""Where dialects of several formats fit a row equally well, the first one is taken."""

FORMATS: dict[str, Format[Any]] = {format.name: format for format in _ALL}
"""Name -> format."""

DIALECTS: tuple[Dialect[Any], ...] = tuple(chain.from_iterable(format.dialects for format in _ALL))

FORMAT_OF: dict[type[Record], Format[Any]] = {format.record: format for format in _ALL}
"""Type of record -> format."""


def targets_of(name: str) -> list[str]:
    """Return the formats that a file of this format can be converted to, its own first."""
    return [name, *(to for to in FORMATS if bridge_of(name, to))]


def bridge_of(name: str, to: str) -> Bridge | None:
    """Return how a record of format `name` becomes one of format `to`, in one step or two; None if it cannot.

    A bridge raises RowError for a record that lacks what `to` needs.
    """
    direct = FORMATS[name].bridges
    if name == to or to in direct:
        return direct.get(to)
    for between, first in direct.items():
        if second := FORMATS[between].bridges.get(to):
            return _chain(first, second)
    return None


def _chain(first: Bridge, second: Bridge) -> Bridge:
    return lambda record: second(first(record))
