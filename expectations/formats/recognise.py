"""What a file is: the dialect that its first rows speak, and what speaks against that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec

from expectations.formats import instruction, passage, preference, retrieval
from expectations.formats.codes import CODES
from expectations.formats.dialect import Dialect, Kind
from expectations.reading import Row, read_rows
from expectations.violations import Refused, Violation

DIALECTS: tuple[Dialect, ...] = (
    *instruction.DIALECTS,
    *preference.DIALECTS,
    *retrieval.DIALECTS,
    *passage.DIALECTS,
)
KINDS: tuple[Kind, ...] = ("instruction", "preference", "query", "qrels", "passage")
SAMPLE = 100
"""Rows that are looked at."""

_LEAST_SHARE = 0.5  # of a dialect's marks: a row that forgot one of two fields is still told so
_LEAST_SHARE_UNASKED = 0.51  # where nobody named a format, half of two marks is a coincidence


class Recognition(msgspec.Struct, frozen=True):
    """The dialect of a file; `notes` say what is ambiguous or mixed in it."""

    dialect: Dialect
    notes: list[str]


def recognise(path: Path) -> Dialect:
    """The dialect of a file, from its first rows and its name. Refused when it is none of ours (FT-DIALECT-001)."""
    rows = [row for row in islice(read_rows(path), SAMPLE) if isinstance(row, Row)]
    found = recognise_rows([row.value for row in rows], name=path.name)
    if found is None:
        raise Refused(str(path), [unknown(str(path), [row.value for row in rows])])
    return found.dialect


def recognise_rows(values: Sequence[Any], *, name: str, kind: str | None = None) -> Recognition | None:
    """The dialect that most of the values speak, of `kind` if one is asked for (a kind or a dialect's name).

    The file's name decides between equals. None when no dialect fits.
    """
    candidates = [dialect for dialect in DIALECTS if kind in (None, dialect.kind, dialect.name)]
    least = _LEAST_SHARE if kind else _LEAST_SHARE_UNASKED
    votes: Counter[str] = Counter()
    tied: set[str] = set()
    for value in values:
        fits = {dialect.name: dialect.fit(value) for dialect in candidates}
        best = max(fits.values(), default=(0.0, 0))
        if best[0] < least:
            continue
        equals = [dialect for dialect, fit in fits.items() if fit == best]
        named = next((dialect for dialect in equals if _is_named(dialect, name)), None)
        votes[named or equals[0]] += 1
        if len(equals) > 1 and not named:
            tied.update(equals)
    if not votes:
        return None
    winner, count = votes.most_common(1)[0]
    notes = [
        f"{other} of the first {len(values)} rows look like `{dialect}`"
        for dialect, other in votes.most_common()
        if dialect != winner
    ]
    tied -= {winner}
    if tied:
        notes.insert(0, f"`{winner}` could also be {' or '.join(f'`{other}`' for other in sorted(tied))}; say which")
    if count < len(values) and not notes:
        notes.append(f"{len(values) - count} of the first {len(values)} rows look like no dialect that is read here")
    return Recognition(next(dialect for dialect in candidates if dialect.name == winner), notes)


def unknown(where: str, values: Sequence[Any], kind: str | None = None) -> Violation:
    """The violation for a file, or rows, of no known dialect: what was found and what would be read."""
    return Violation(
        code="FT-DIALECT-001",
        where=where,
        message=f"the keys {_keys(values)} are those of no dialect that is read here",
        expected=describe_dialects(kind),
        mend=CODES["FT-DIALECT-001"].mend,
    )


def describe_dialects(kind: str | None = None) -> str:
    """The dialects of a kind with their keys: `alpaca (instruction, output), messages (messages)`."""
    return ", ".join(
        f"{dialect.name} ({', '.join(dialect.marks) or 'tab-separated columns'})"
        for dialect in DIALECTS
        if kind in (None, dialect.kind, dialect.name)
    )


def _keys(values: Iterable[Any]) -> str:
    for value in values:
        if isinstance(value, dict):
            return ", ".join(f"`{key}`" for key in list(cast("dict[str, Any]", value))[:8]) or "(none)"
    return "(none)"


def _is_named(dialect: str, file_name: str) -> bool:
    """Whether the file's name speaks for a dialect that others equal."""
    hints = {"beir-queries": ("quer", "question"), "beir-corpus": ("corpus", "passage", "document")}
    return any(hint in file_name.lower() for hint in hints.get(dialect, ()))
