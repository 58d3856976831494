"""The record formats. A new format is one file with its `Format`, and one line here."""

from __future__ import annotations

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
    return [name, *(to for to in FORMATS if to in FORMATS[name].bridges)]
