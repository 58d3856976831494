"""A map of the columns of a file to the keys that are read: `{question: query}` reads the column `query` as `question`.

A mapped row is read by a dialect of its format whose keys have the names of the columns, so that every message names
the column, and whatever no key takes is found in the same way as in other files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from typing import Any, Literal, TypeGuard, cast

import msgspec

from expectations.formats.dialect import Dialect, Place, ReadPolicy, Record, RowError
from expectations.formats.dialogue import Message
from expectations.formats.registry import FORMATS
from expectations.reading import RawRow, escape
from expectations.violations import Refused, Violation, violation

Role = Literal["system", "user", "assistant"]

_NEAR = 0.7  # of difflib: `fragen` is 0.9 to `frage`, `version` 0.67 to `question`
_FIRST_KEY = re.compile(r"\$\.([^.\[]+)")


class ColumnMap(msgspec.Struct, frozen=True, kw_only=True):
    """The names that one file has for keys and roles."""

    columns: dict[str, str] = {}
    """Key that is read -> column of the file."""
    roles: dict[str, Role] = {}
    """Role of the file's messages -> role that it is read as."""

    def by_column(self) -> dict[str, str]:
        """Return column of the file -> key that it is read as."""
        return {column: key for key, column in self.columns.items()}


NO_MAP = ColumnMap()


def check_columns(columns: dict[str, str], formats: Sequence[str], where: str, at: str = "columns") -> list[Violation]:
    """Return violations of a map: a key that no dialect of the formats has (FT-MAP-001), a column for two keys (003).

    `formats`: any by default. `at`: the path of the map in the configuration.
    """
    names = formats or list(FORMATS)
    by_dialect = [*map(keys_of, chain.from_iterable(FORMATS[name].dialects for name in names))]
    known = set[str]().union(*by_dialect)
    found: list[Violation] = []
    for key, column in columns.items():
        if key not in known:
            near = next(iter(get_close_matches(key, sorted(known), 1, _NEAR)), "")
            found.append(
                violation(
                    "FT-MAP-001",
                    where=where,
                    field=f"{at}.{key}",
                    found=f"{key}: {column}",
                    expected=f"{near}: {column}" if near else _usual_keys(names),
                    fix=f"write `{near}: {column}`" if near else "",
                )
            )
        if (first := next(one for one in columns if columns[one] == column)) != key:
            found.append(
                violation(
                    "FT-MAP-003",
                    where=where,
                    field=f"{at}.{key}",
                    found=f"the column `{escape(column)}` for `{first}` and `{key}`",
                    expected="a column of its own for each key",
                )
            )
    if not found and not any(columns.keys() <= keys for keys in by_dialect):
        message = f"No rows of {' or '.join(formats) or 'one format'} have all of the keys {', '.join(columns)}."
        found.append(
            violation(
                "FT-MAP-001",
                where=where,
                message=message,
                field=at,
                found=sorted(columns),
                expected=_usual_keys(names),
            )
        )
    return found


def _usual_keys(formats: Iterable[str]) -> str:
    """Return the keys of the canonical forms, for people."""
    return "; ".join(f"{name}: {', '.join(sorted(keys_of(FORMATS[name].canonical)))}" for name in formats)


def keys_of(dialect: Dialect[Any]) -> frozenset[str]:
    """Return the keys of a dialect that columns can be mapped to; none where a row is a list or holds several."""
    return frozenset(field.encode_name for field in _fields(dialect.row)) if _is_struct(dialect) else frozenset()


def _is_struct(dialect: Dialect[Any]) -> bool:
    row = cast("object", dialect.row)
    return isinstance(row, type) and issubclass(row, msgspec.Struct) and dialect.parts is None


def _fields(row: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(row)


def map_dialects(mapping: ColumnMap, dialects: Sequence[Dialect[Any]], formats: Sequence[str]) -> list[Dialect[Any]]:
    """Return the dialects that read mapped rows, canonical ones first. Refused (FT-MAP-001, 003) when no rows fit."""
    if not mapping.columns:
        return [_mapped(dialect, mapping) for dialect in dialects] if mapping.roles else list(dialects)
    if problems := check_columns(mapping.columns, [name for name in formats if name in FORMATS], "the column map"):
        raise Refused("the column map", problems)
    fitting = [dialect for dialect in dialects if mapping.columns.keys() <= keys_of(dialect)]
    choices = Counter(dialect.format.name for dialect in fitting)
    return [
        _mapped(dialect, mapping, is_only=choices[dialect.format.name] == 1)
        for dialect in sorted(fitting, key=lambda dialect: not dialect.canonical)
    ]


def _mapped(dialect: Dialect[Any], mapping: ColumnMap, *, is_only: bool = False) -> Dialect[Any]:
    """Return a dialect whose keys have the names that the map gives them. `is_only`: its format has no other."""
    columns = mapping.columns

    def their_mark(mark: str) -> str:
        return "|".join(columns.get(key, key) for key in mark.split("|"))

    mapped = replace(
        dialect,
        convert=_converter(dialect, mapping),
        their_path=_path_finder(columns) if columns else None,
        canonical=dialect.canonical and not columns,
    )
    if columns:
        mapped.row = _renamed(dialect.row, columns)
        mapped.marks = tuple(map(their_mark, dialect.marks))
        mapped.extra_marks = tuple(map(their_mark, dialect.extra_marks))
        by_column, keys, suits, likely = mapping.by_column(), keys_of(dialect), dialect.suits, dialect.likely

        def known(value: Any) -> Any:
            """Return what the dialect reads of a raw row: other columns decide nothing under a map."""
            ours = _with_our_keys(value, by_column)
            return {key: cell for key, cell in ours.items() if key in keys} if _is_object(ours) else ours

        mapped.suits = None if is_only or suits is None else lambda value: suits(known(value))
        mapped.likely = likely and (lambda value: likely(known(value)))
    mapped.format = dialect.format
    return mapped


def _renamed(row: type[msgspec.Struct], columns: dict[str, str]) -> type[msgspec.Struct]:
    """Return a typed row in which the mapped keys have the names of their columns."""
    fields: list[Any] = []
    rename: dict[str, str] = {}
    taken = set(columns.values())
    for field in _fields(row):
        key = field.encode_name
        if key in columns:
            rename[field.name] = columns[key]
        elif key in taken:  # a column of this name is read as another key
            rename[field.name] = f"{key} (has no column)"
        else:
            continue
        if field.required:
            fields.append((field.name, field.type))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(row.__name__, fields, bases=(row,), rename=rename, kw_only=True)


def _converter(dialect: Dialect[Any], mapping: ColumnMap) -> Callable[[Any, Any, Place, ReadPolicy], Record]:
    """Return the dialect's own conversion, for a row whose columns and roles have other names."""
    by_column = mapping.by_column()
    roles: dict[str, Role] = {role.strip().lower(): own for role, own in mapping.roles.items()}
    their_path = _path_finder(mapping.columns)

    def convert(row: Any, raw: Any, place: Place, policy: ReadPolicy) -> Record:
        if roles:
            _rename_roles(row, roles)
        try:
            return dialect.convert(row, _with_our_keys(raw, by_column), place, policy)
        except RowError as error:
            error.path = their_path(error.path)
            raise

    return convert


def _path_finder(columns: dict[str, str]) -> Callable[[str], str]:
    """Return the function that turns a JSON path with our keys into one with the names of the columns."""

    def replaced(match: re.Match[str]) -> str:
        return f"$.{columns.get(match[1], match[1])}"

    return lambda path: _FIRST_KEY.sub(replaced, path, 1)


def _with_our_keys(value: Any, by_column: dict[str, str]) -> Any:
    """Return a raw row under our keys; a column that has the name of a key by chance is left out."""
    if not by_column or not _is_object(value):
        return value
    taken = set(by_column.values())
    return {by_column.get(key, key): cell for key, cell in value.items() if key in by_column or key not in taken}


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _rename_roles(value: object, roles: dict[str, Role]) -> None:
    """Give every message of a typed row the role that the map says."""
    if isinstance(value, Message):
        value.role = _role(value.role, roles)
        value.sender = _role(value.sender, roles)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _rename_roles(item, roles)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _rename_roles(getattr(value, name), roles)


def _role(role: str | None, roles: dict[str, Role]) -> str | None:
    return role and roles.get(role.strip().lower(), role)


def columns_of(row: RawRow) -> Iterable[str]:
    """Return the columns of a row; none where it has no names for them."""
    value: object = row.value
    return value.keys() if _is_object(value) else ()


def missing_columns(missing: Iterable[str], mapping: ColumnMap, rows: Sequence[RawRow], where: str) -> Refused:
    """Return the refusal (FT-MAP-002) for columns that no row of a file has."""
    by_column, found = mapping.by_column(), list(dict.fromkeys(chain.from_iterable(map(columns_of, rows))))
    problems: list[Violation] = []
    for column in missing:
        free = [name for name in found if name not in by_column]
        lower = {name.lower(): name for name in free}
        longer = [name for name in lower if column.lower() in name]
        near = next(iter(get_close_matches(column.lower(), list(lower), 1, _NEAR) or longer), "")
        fix = f"write `{by_column[column]}: {escape(lower[near])}`" if near else ""
        problems.append(
            violation(
                "FT-MAP-002",
                where=where,
                message=f"No row has the column `{escape(column)}`, which is to be read as `{by_column[column]}`.",
                field=f"columns.{by_column[column]}",
                found=column,
                expected=found[:20],
                fix=fix,
            )
        )
    return Refused(where, problems)
