"""Versions of the record formats: an older row is brought up to date, a newer one is refused, nothing is guessed.

A canonical row may say its version as `format_version`; a row that does not is of the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Migration = Callable[[dict[str, Any]], dict[str, Any]]


class WrongVersion(Exception):
    """A row of a version that is not read here."""


def _add_history(row: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: a record may have earlier turns; those of version 1 had none. `line` is called `line_no`."""
    line = {"line_no": row["line"]} if "line" in row else {}
    return {key: value for key, value in row.items() if key != "line"} | line | {"history": []}


def _rename_line(row: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: `line` is called `line_no`."""
    line = {"line_no": row["line"]} if "line" in row else {}
    return {key: value for key, value in row.items() if key != "line"} | line


MIGRATIONS: dict[str, dict[int, Migration]] = {
    "instruction": {1: _add_history},
    "preference": {1: _add_history},
    "passage": {1: _rename_line},
    "query": {1: _rename_line},
    "qrels": {1: _rename_line},
    "qa": {},
    "retrieval_pair": {},
}
"""Format -> version -> how a row of that version becomes one of the next."""

VERSIONS: Mapping[str, int] = {name: 1 + len(steps) for name, steps in MIGRATIONS.items()}
"""The current version of each format."""


def migrate(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """A canonical row with a `format_version`, as a row of the current version. WrongVersion for any other."""
    version, current = row["format_version"], VERSIONS[kind]
    if type(version) is not int or not 1 <= version <= current:
        raise WrongVersion(f"found version {version!r} of the format `{kind}`, read are 1 to {current}")
    row = {key: value for key, value in row.items() if key != "format_version"}
    for step in range(version, current):
        row = MIGRATIONS[kind][step](row)
    return row
