"""Recognise the dialect of a file by its first rows, and note the rows that do not fit it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from expectations.formats.columns import describe_table
from expectations.formats.dialect import Dialect
from expectations.formats.registry import DIALECTS
from expectations.reading import RawRow, read_raw_rows
from expectations.violations import Refused, Violation, violation

SAMPLE = 100
"""The number of rows by which a file is recognised."""

_LEAST_SHARE = 0.5  # of a dialect's marks: a row without one of two fields is still refused as a row of this dialect
_LEAST_SHARE_UNNAMED = 0.51  # where no format was named, half of two marks may be a coincidence
_SURE_SHARE = 0.85  # of what the texts of a file say


class Recognition(NamedTuple):
    """The dialect of a file; `notes` name what is ambiguous or mixed in it, and the rows that do not fit."""

    dialect: Dialect[Any]
    notes: list[str]


def recognise(path: Path) -> Dialect[Any]:
    """Return the dialect of a file, by its first rows and its name. Refused (FT-DIALECT-001) when none fits."""
    rows = [row for row in islice(read_raw_rows(path), SAMPLE) if isinstance(row, RawRow)]
    recognition = recognise_rows(rows, name=path.name)
    if recognition is None:
        raise Refused(str(path), [unknown(str(path), rows)])
    return recognition.dialect


def recognise_rows(rows: Sequence[RawRow], *, name: str, formats: Sequence[str] = ()) -> Recognition | None:
    """Return the dialect of most of the rows; None when no dialect fits.

    `formats`: names of formats or of dialects that the file may have; any by default. The file's name decides between
    dialects that fit equally well.
    """
    candidates = [
        dialect
        for dialect in DIALECTS
        if (_is_one_of(dialect, formats) if formats else not dialect.only_named or _is_named(dialect, name))
    ]
    least = _LEAST_SHARE if formats else _LEAST_SHARE_UNNAMED
    lines: dict[str, list[int]] = {}
    tied: set[str] = set()
    undecided: dict[tuple[Dialect[Any], ...], list[RawRow]] = {}
    for row in rows:
        equals = _best_fits(row.value, candidates, least)
        if not equals:
            continue
        named = next((dialect for dialect in equals if _is_named(dialect, name)), None)
        if named or len(equals) == 1:
            lines.setdefault((named or equals[0]).name, []).append(row.line)
        else:
            undecided.setdefault(tuple(equals), []).append(row)
    for equals, alike in undecided.items():
        dialect, is_sure = _most_likely(equals, [row.value for row in alike])
        lines.setdefault(dialect.name, []).extend(row.line for row in alike)
        if not is_sure:
            tied.update(dialect.name for dialect in equals)
    if not lines or (not formats and _is_guess(rows, lines)):
        return None
    ranked = sorted(lines.items(), key=lambda vote: -len(vote[1]))
    winner = next(dialect for dialect in candidates if dialect.name == ranked[0][0])
    return Recognition(winner, _notes(rows, ranked, tied - {winner.name}))


def _most_likely(equals: Sequence[Dialect[Any]], values: Sequence[Any]) -> tuple[Dialect[Any], bool]:
    """Return the dialect that rows probably have, of several that fit equally well, and whether that is sure."""
    likely = [sum(dialect.likely(value) if dialect.likely else 0.0 for value in values) for dialect in equals]
    best = max(likely)
    return equals[likely.index(best)], best >= _SURE_SHARE * len(values)


def _is_guess(rows: Sequence[RawRow], lines: dict[str, list[int]]) -> bool:
    """Return whether most rows of a table without a header fit no dialect: the others may fit by chance."""
    cells = sum(isinstance(row.value, list) for row in rows)
    return cells * 2 > len(rows) and max(map(len, lines.values())) * 2 < len(rows)


def _best_fits(value: Any, candidates: Sequence[Dialect[Any]], least: float) -> list[Dialect[Any]]:
    """Return the dialects that fit a value best; none when it has less than the share `least` of their marks."""
    fits = [dialect.fit(value) for dialect in candidates]
    best = max(fits, default=(0.0, 0))
    if best[0] < least:
        return []
    return [dialect for dialect, fit in zip(candidates, fits, strict=True) if fit == best]


def _notes(rows: Sequence[RawRow], ranked: Sequence[tuple[str, list[int]]], tied: set[str]) -> list[str]:
    """Return what a person should know of a file that was recognised; `ranked`: (dialect, its lines), most first."""
    notes: list[str] = []
    if tied:
        others = " or ".join(f"`{other}`" for other in sorted(tied))
        notes.append(f"ambiguous: `{ranked[0][0]}` could also be {others}; choose one with --format")
    for dialect, lines in ranked[1:]:
        notes.append(f"mixed: {len(lines)} of the first {len(rows)} rows look like `{dialect}`, at line {_some(lines)}")
    strange = {row.line for row in rows}.difference(*(lines for _, lines in ranked))
    if strange:
        lines = _some(sorted(strange))
        notes.append(f"{len(strange)} of the first {len(rows)} rows look like no dialect, at line {lines}")
    return notes


def better_fit(value: Any, dialect: Dialect[Any]) -> Dialect[Any] | None:
    """Return another dialect all of whose marks a row has, where it does not have all of `dialect`; None without one.

    A dialect of another format whose marks are some of this dialect's own does not count: such a row lacks a key.
    """
    if dialect.fit(value)[0] == 1.0:
        return None
    own = {key for mark in dialect.marks for key in mark.split("|")}
    for other in DIALECTS:
        fits = other.marks and other.fit(value)[0] == 1.0
        covered = all(not own.isdisjoint(mark.split("|")) for mark in other.marks)
        if fits and (other.format is dialect.format or not covered):
            return other
    return None


def _some(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")


def unknown(where: str, rows: Sequence[RawRow], formats: Sequence[str] = ()) -> Violation:
    """Return the violation for a file, or rows, of no known dialect: the keys found, and the dialects that are read."""
    if rows and all(isinstance(row.value, list) for row in rows) and rows[0].data[:1] != b"[":
        code, reason = describe_table([row.value for row in rows])
        return violation(code, where=where, message=reason, expected=describe_dialects(formats))
    if rows and rows[0].named:
        return violation(
            "FT-TAB-001",
            where=where,
            message=f"the columns {_keys(row.value for row in rows)} are those of no format that is read here",
            expected=describe_dialects(formats),
        )
    return violation(
        "FT-DIALECT-001",
        where=where,
        message=f"no dialect that is read here has the keys {_keys(row.value for row in rows)}",
        expected=describe_dialects(formats),
    )


def describe_dialects(formats: Sequence[str] = ()) -> str:
    """Return the dialects of some formats with their keys: `alpaca (instruction, output), messages (messages)`."""
    return ", ".join(
        f"{dialect.name} ({', '.join(mark.partition('|')[0] for mark in dialect.marks) or 'tab-separated columns'})"
        for dialect in DIALECTS
        if not formats or _is_one_of(dialect, formats)
    )


def _is_one_of(dialect: Dialect[Any], names: Sequence[str]) -> bool:
    if dialect.format.name in names or dialect.name in names:
        return True
    # under a header the rows of a table are objects, and another dialect of the same format reads them
    return any(other.name in names and not other.marks and other is not dialect for other in dialect.format.dialects)


def _keys(values: Iterable[Any]) -> str:
    for value in values:
        if isinstance(value, dict):
            return ", ".join(f"`{key}`" for key in list(cast("dict[str, Any]", value))[:8]) or "(none)"
    return "(none)"


def _is_named(dialect: Dialect[Any], file_name: str) -> bool:
    """True if the file's name decides for a dialect."""
    return any(part in file_name.lower() for part in dialect.file_names)
