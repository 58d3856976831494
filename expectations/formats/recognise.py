"""What a file is: the dialect that its first rows speak, and what speaks against that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec

from expectations.codes import CODES
from expectations.formats import instruction, pairs, passage, preference, qa, retrieval
from expectations.formats.dialect import Dialect, Kind
from expectations.reading import Row, read_rows
from expectations.violations import Refused, Violation

DIALECTS: tuple[Dialect, ...] = (
    *instruction.DIALECTS,
    *preference.DIALECTS,
    *qa.DIALECTS,
    *pairs.DIALECTS,
    *retrieval.DIALECTS,
    *passage.DIALECTS,
)
KINDS: tuple[Kind, ...] = ("instruction", "preference", "qa", "retrieval_pair", "query", "qrels", "passage")
SAMPLE = 100
"""Rows that are looked at."""

_LEAST_SHARE = 0.5  # of a dialect's marks: a row that forgot one of two fields is still told so
_LEAST_SHARE_UNASKED = 0.51  # where nobody named a format, half of two marks is a coincidence


class Recognition(msgspec.Struct, frozen=True):
    """The dialect of a file; `notes` say what is ambiguous or mixed in it, and which rows disagree."""

    dialect: Dialect
    notes: list[str]


def recognise(path: Path) -> Dialect:
    """The dialect of a file, from its first rows and its name. Refused when it is none of ours (FT-DIALECT-001)."""
    rows = [row for row in islice(read_rows(path), SAMPLE) if isinstance(row, Row)]
    found = recognise_rows(rows, name=path.name)
    if found is None:
        raise Refused(str(path), [unknown(str(path), rows)])
    return found.dialect


def recognise_rows(rows: Sequence[Row], *, name: str, kinds: Sequence[str] = ()) -> Recognition | None:
    """The dialect that most of the rows speak, of `kinds` if some are asked for (kinds, or names of dialects).

    The file's name decides between equals. None when no dialect fits.
    """
    candidates = [dialect for dialect in DIALECTS if not kinds or dialect.kind in kinds or dialect.name in kinds]
    least = _LEAST_SHARE if kinds else _LEAST_SHARE_UNASKED
    votes: dict[str, list[int]] = {}
    tied: set[str] = set()
    for row in rows:
        fits = {dialect.name: dialect.fit(row.value) for dialect in candidates}
        best = max(fits.values(), default=(0.0, 0))
        if best[0] < least:
            continue
        equals = [dialect for dialect, fit in fits.items() if fit == best]
        named = next((dialect for dialect in equals if _is_named(dialect, name)), None)
        votes.setdefault(named or equals[0], []).append(row.line)
        if len(equals) > 1 and not named:
            tied.update(equals)
    if not votes:
        return None
    ranked = sorted(votes.items(), key=lambda vote: -len(vote[1]))
    winner = ranked[0][0]
    notes = [
        f"mixed: {len(lines)} of the first {len(rows)} rows look like `{dialect}`, at line {_some(lines)}"
        for dialect, lines in ranked[1:]
    ]
    tied -= {winner}
    if tied:
        others = " or ".join(f"`{other}`" for other in sorted(tied))
        notes.insert(0, f"ambiguous: `{winner}` could also be {others}; say which with --format")
    strange = {row.line for row in rows} - {line for lines in votes.values() for line in lines}
    if strange:
        notes.append(
            f"{len(strange)} of the first {len(rows)} rows look like no dialect, at line {_some(sorted(strange))}"
        )
    return Recognition(next(dialect for dialect in candidates if dialect.name == winner), notes)


def better_fit(value: Any, dialect: Dialect) -> Dialect | None:
    """Another dialect all of whose marks a row has, which `dialect` does not find in it; None without one.

    A format whose keys are some of this dialect's own is none: such a row forgot a key.
    """
    if dialect.fit(value)[0] == 1.0:
        return None
    others = (other for other in DIALECTS if other.marks and other.fit(value)[0] == 1.0)
    own = set(dialect.marks)
    return next((other for other in others if other.kind == dialect.kind or not own.issuperset(other.marks)), None)


def _some(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")


def unknown(where: str, rows: Sequence[Row], kinds: Sequence[str] = ()) -> Violation:
    """The violation for a file, or rows, of no known dialect: what was found and what would be read."""
    return Violation(
        code="FT-DIALECT-001",
        where=where,
        message=f"the keys {_keys(row.value for row in rows)} are those of no dialect that is read here",
        expected=describe_dialects(kinds),
        fix=CODES["FT-DIALECT-001"].fix,
    )


def describe_dialects(kinds: Sequence[str] = ()) -> str:
    """The dialects of a kind with their keys: `alpaca (instruction, output), messages (messages)`."""
    return ", ".join(
        f"{dialect.name} ({', '.join(dialect.marks) or 'tab-separated columns'})"
        for dialect in DIALECTS
        if not kinds or dialect.kind in kinds or dialect.name in kinds
    )


def _keys(values: Iterable[Any]) -> str:
    for value in values:
        if isinstance(value, dict):
            return ", ".join(f"`{key}`" for key in list(cast("dict[str, Any]", value))[:8]) or "(none)"
    return "(none)"


def _is_named(dialect: str, file_name: str) -> bool:
    """Whether the file's name speaks for a dialect that others equal."""
    questions = ("quer", "question")
    hints = {
        "beir-queries": questions,
        "beir-corpus": ("corpus", "passage", "document"),
        "queries-tsv": questions,
        "qrels-tsv": ("qrel", "judg"),
    }
    return any(hint in file_name.lower() for hint in hints.get(dialect, ()))
