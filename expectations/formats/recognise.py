"""Recognise the dialect of a file by its first rows, and note the rows that do not fit it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from expectations.formats.column_map import NO_MAP, ColumnMap, map_dialects
from expectations.formats.columns import describe_table
from expectations.formats.dialect import PASSAGE_KEYS, REASONING_KEYS, SYSTEM_KEYS, Dialect
from expectations.formats.registry import DIALECTS
from expectations.formats.wrapped import WRAPPED, explain_wrapper
from expectations.reading import RawRow, read_raw_rows
from expectations.violations import Refused, Violation, violation

SAMPLE = 100
"""The number of rows by which a file is recognised."""

_SEVERAL_NAMES = re.compile(
    "|".join((*SYSTEM_KEYS, *PASSAGE_KEYS, *REASONING_KEYS, "Complex_CoT", "margin", "label", "kto_tag", "desired"))
    + r"|\w+[_-](?:score|rating|reward)|(?:score|rating|reward)_\w+"
)
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


def recognise_rows(
    rows: Sequence[RawRow], *, name: str, formats: Sequence[str] = (), mapping: ColumnMap = NO_MAP
) -> Recognition | None:
    """Return the dialect of most of the rows; None when no dialect fits.

    `formats`: names of formats or of dialects that the file may have; any by default. The file's name decides between
    dialects that fit equally well. Refused where `mapping` names keys that no dialect has.
    """
    if not mapping.columns and explain_wrapper(rows):
        return None
    candidates = [
        dialect
        for dialect in DIALECTS
        if (_is_one_of(dialect, formats) if formats else not dialect.only_named or _is_named(dialect, name))
    ]
    candidates = map_dialects(mapping, candidates, formats)
    least = _LEAST_SHARE if formats else _LEAST_SHARE_UNNAMED
    alike: dict[tuple[Dialect[Any], ...], list[RawRow]] = {}
    for row in rows:
        equals = _best_fits(row.value, candidates, least)
        if not equals:
            continue
        if named := next((dialect for dialect in equals if _is_named(dialect, name)), None):
            equals = [named]
        alike.setdefault(tuple(equals), []).append(row)
    fits: list[tuple[int, Sequence[Dialect[Any]]]] = []
    tied: set[str] = set()
    for equals, found in alike.items():
        kept, is_sure = _choose(equals, [row.value for row in found])
        fits += [(row.line, kept) for row in found]
        if not is_sure:
            tied.update(dialect.name for dialect in equals)
    if not fits:
        return None
    winner = Counter(equals[0] for _, equals in fits).most_common(1)[0][0]
    lines: dict[str, list[int]] = {winner.name: []}
    for line, equals in fits:
        lines.setdefault((winner if winner in equals else equals[0]).name, []).append(line)
    if not formats and _is_guess(rows, lines):
        return None
    ranked = [(winner.name, lines.pop(winner.name)), *sorted(lines.items(), key=lambda vote: -len(vote[1]))]
    notes = _notes(rows, ranked, tied - {winner.name}) + [winner.note] * bool(winner.note)
    if used := _used_keys(winner, rows):
        notes.append(f"also used: {', '.join(f'`{key}`' for key in used)}")
    if mapping != NO_MAP:
        renamed = [f"`{theirs}` as `{ours}`" for theirs, ours in (mapping.by_column() | mapping.roles).items()]
        notes.append(f"mapped: {', '.join(renamed)}")
    return Recognition(winner, notes)


def _choose(equals: Sequence[Dialect[Any]], values: Sequence[Any]) -> tuple[Sequence[Dialect[Any]], bool]:
    """Return the dialects that rows may have, of several that fit equally well, and whether the first one is sure."""
    likely = [sum(dialect.likely(value) for value in values) if dialect.likely else 0.0 for dialect in equals]
    best = max(likely)
    if best > 0:
        return [equals[likely.index(best)]], best >= _SURE_SHARE * len(values)
    # a row that lacks a key fits many dialects, and is refused in any of them
    return equals, len(equals) == 1 or equals[0].fit(values[0])[0] < 1.0


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


def _used_keys(dialect: Dialect[Any], rows: Sequence[RawRow]) -> list[str]:
    """Return the optional keys with several names that are read from these rows: system text, passages, scores."""
    if dialect.canonical:
        return []
    named = (key for key in _field_keys(dialect) if key not in dialect.marks and _SEVERAL_NAMES.fullmatch(key))
    raw: list[object] = [row.value for row in rows]
    values = [cast("dict[str, object]", value) for value in raw if isinstance(value, dict)]
    return [key for key in named if any(value.get(key) not in (None, "", []) for value in values)]


def _field_keys(dialect: Dialect[Any]) -> list[str]:
    """Return the keys that a dialect's typed row has fields for; none for a row of cells."""
    row = cast("object", dialect.row)
    if not (isinstance(row, type) and issubclass(row, msgspec.Struct)):
        return []
    return [field.encode_name for field in msgspec.structs.fields(row)]


def _mark_keys(marks: Iterable[str]) -> set[str]:
    """Return the keys of marks; a mark may name several, of which a row has one (`qid|query_id`)."""
    return set(chain.from_iterable(mark.split("|") for mark in marks))


def better_fit(value: Any, dialect: Dialect[Any]) -> Dialect[Any] | None:
    """Return another dialect all of whose marks a row has, where it does not have all of `dialect`; None without one.

    A dialect whose marks are all keys of this dialect does not count: such a row lacks a key.
    """
    if dialect.fit(value)[0] == 1.0:
        return None
    own = {*_mark_keys(dialect.marks), *_field_keys(dialect)}
    for other in DIALECTS:
        if other.marks and other.name != dialect.name and other.fit(value)[0] == 1.0:
            found = {key for key in _mark_keys((*other.marks, *other.extra_marks)) if key in value}
            if not own.issuperset(found):
                return other
    return None


def _some(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")


def unknown(where: str, rows: Sequence[RawRow], formats: Sequence[str] = ()) -> Violation:
    """Return the violation for a file, or rows, of no known dialect: the keys found, and the dialects that are read."""
    if wrapper := explain_wrapper(rows):
        return violation(WRAPPED, where=where, message=wrapper)
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
