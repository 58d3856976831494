"""Families of near-duplicates that another tool found, read from its files. Each family stays in one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import cast

import msgspec

from expectations.reading import Rejected, read_raw_rows
from expectations.text.cleaning import clean
from expectations.violations import Refused, Violation, violation
from ft_assets.graph.source_files import shown_path
from resources.parquet import read_rows

DUPLICATES = "duplicates.parquet"
"""File of the ledger with the rows of the lists it was made with; missing where config.yaml names none."""

_IDS = ("id", "_id", "record_id", "query_id", "_curator_dedup_id")
_GROUPS = ("group", "group_id", "cluster_id", "_duplicate_group_id", "minhash_cluster_id", "minhash_cluster")
_ALONE = (None, "", -1, "-1")  # datatrove gives -1 to a document without duplicates
_SHOWN = 20  # rows that are refused by name


class ListedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of duplicates.parquet: a record and its family."""

    record_id: str
    family: str
    source: str
    line_no: int


class _Unusable(Exception):
    """A row that is no part of a list: the field, what was found, and what was expected."""


def read_duplicate_lists(paths: Sequence[Path], root: Path) -> Iterator[ListedRecord]:
    """Yield the records of the lists with their families; rows that are alone have none, and are left out.

    A row is an id and a group (`group`, `group_id`, `cluster_id`; NeMo Curator's `_duplicate_group_id`; datatrove's
    `minhash_cluster_id`, which may be in `metadata`), or one family as `{"ids": [...]}`. Groups of all files have one
    numbering. Refused (FT-SPLIT-015) for rows that are neither, and for a file without any group, after the last
    record: what was read before that is of no use.
    """
    problems: list[Violation] = []
    for path in paths:
        name, grouped, before = shown_path(path, root), False, len(problems)
        for row in read_raw_rows(path, name=name):
            where = f"{name}:{row.line}"
            if isinstance(row, Rejected):
                problems.append(violation(row.code, where=where, message=row.reason))
                continue
            try:
                ids, group = _read_row(row.value)
            except _Unusable as unusable:
                problems.append(_refuse(where, *unusable.args))
                continue
            if group not in _ALONE:
                grouped = True
                for record_id in ids:
                    yield ListedRecord(record_id=record_id, family=str(group), source=name, line_no=row.line)
        if not grouped and len(problems) == before:
            problems.append(_refuse(name, "group", "no row with a group", _one_of(_GROUPS)))
    if problems:
        raise Refused("reading datasets.duplicates", problems[:_SHOWN])


def read_families(path: Path) -> dict[str, list[str]]:
    """Return record id -> the keys of its families, from duplicates.parquet; empty where there is no such file."""
    families: defaultdict[str, list[str]] = defaultdict(list)
    for row in read_rows(path, ["record_id", "family"]) if path.exists() else ():
        families[row["record_id"]].append(f"duplicates:{row['family']}")
    return families


def _read_row(value: object) -> tuple[list[str], object]:
    """Return the ids that a row names, and their group."""
    if not isinstance(value, dict):
        raise _Unusable("row", type(value).__name__, "an object, or a table with the names of its columns")
    row = cast("dict[str, object]", value)
    if "ids" in row:
        ids = _ids(row["ids"])
        return ids, f"ids {min(ids)}"
    name = next((name for name in _IDS if row.get(name) is not None), None)
    if name is None:
        raise _Unusable("id", sorted(row)[:_SHOWN], _one_of(_IDS))
    metadata = row.get("metadata")
    parts = [row, cast("dict[str, object]", metadata)] if isinstance(metadata, dict) else [row]
    group = next((part[key] for part, key in product(parts, _GROUPS) if part.get(key) is not None), None)
    if isinstance(group, bool | list | dict):
        raise _Unusable("group", cast("object", group), "a text or a number")
    if isinstance(group, float) and group.is_integer():  # pandas writes whole numbers with gaps as floats
        group = int(group)
    return [_id(row[name], name)], group


def _ids(value: object) -> list[str]:
    listed = cast("list[object]", value) if isinstance(value, list) else []
    if len(listed) < 2:
        raise _Unusable("ids", cast("object", value), "two ids or more")
    return [_id(part, "ids") for part in listed]


def _id(value: object, field: str) -> str:
    """Return an id as the records have it."""
    name = clean(str(value)).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not name:
        raise _Unusable(field, value, "a text or a whole number")
    return name


def _refuse(where: str, field: str, found: object, expected: str) -> Violation:
    return violation("FT-SPLIT-015", where=where, field=field, found=found, expected=expected)


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}"
