"""Name a file that is one object around its rows: `{"data": [...]}`, a dictionary by id, a table by columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from expectations.formats.dialect import Dialect, RowError
from expectations.formats.registry import DIALECTS
from expectations.reading import RawRow, escape

WRAPPED = "FT-ROW-019"
_USUAL_KEYS = frozenset((
    "data", "rows", "train", "test", "validation", "dev", "items", "examples", "samples", "records", "instances",
    "dataset", "entries", "results", "questions", "list", "content",
))  # fmt: skip
_LOOKED_AT = 20
_LEAST_ROWS = 2  # of a dictionary by id


def explain_wrapper(rows: Sequence[RawRow]) -> str:
    """Return where the rows of a file are, if its only row is an object around them; else an empty text."""
    only: Any = rows[0].value if len(rows) == 1 else None
    if not isinstance(only, dict):
        return ""
    value = cast("dict[str, Any]", only)
    whole = _fits(value)
    lists = [key for key, inner in value.items() if _holds_rows(inner, must_fit=whole or key not in _USUAL_KEYS)]
    squad = whole and any("paragraphs" in inner[0] for inner in map(value.__getitem__, lists))
    if lists and not squad and (not whole or _USUAL_KEYS.issuperset(lists)):
        named = ", ".join(f"`{escape(key)}`" for key in lists)
        take = ", ".join(f".{key}" if key.isidentifier() else f'."{escape(key)}"' for key in lists)
        keys = "key" if len(lists) == 1 else "keys"
        return f"the rows are under the {keys} {named} of one object: `jq -c '{take} | .[]' FILE > NEW.jsonl`"
    if whole and any(_accepts(dialect, value) for dialect in DIALECTS if dialect.fit(value)[0] == 1.0):
        return ""
    return _explain_table(value) or ("" if whole else _explain_ids(value))


def _explain_table(value: dict[str, Any]) -> str:
    """Explain columns in place of rows: lists of one length, or what pandas writes, `{"column": {"0": …}}`."""
    columns = list(value.values())
    if len(columns) < _LEAST_ROWS or not _fits(dict.fromkeys(value, "")):
        return ""
    if all(isinstance(column, dict) and "0" in column for column in columns):
        reason = "the file is a table by columns, as pandas writes it: write rows, "
        return reason + "`df.to_json(NEW, orient='records', lines=True, force_ascii=False)`"
    lengths = {len(cast("list[Any]", column)) for column in columns if isinstance(column, list)}
    if len(lengths) == 1 and all(isinstance(column, list) for column in columns):
        return "the file is a table by columns, each a list: write one object for each row"
    return ""


def _explain_ids(value: dict[str, Any]) -> str:
    """Explain a dictionary whose keys are ids and whose values are rows."""
    if len(value) < _LEAST_ROWS or not _holds_rows(list(value.values()), must_fit=False):
        return ""
    inner = [cast("dict[str, Any]", row) for row in value.values() if isinstance(row, dict)]
    if len(inner) < len(value) or not set(inner[0]).intersection(*inner[1:_LOOKED_AT]):
        return ""
    first, second = (f"`{escape(key)}`" for key in list(value)[:2])
    reason = f"the file is a dictionary by id ({first}, {second} …), the rows are its {len(value)} values: "
    return reason + "`jq -c '.[]' FILE > NEW.jsonl`"


def _holds_rows(value: object, *, must_fit: bool) -> bool:
    """Return whether a value is a list of objects; `must_fit`: of objects that a dialect fits."""
    if not isinstance(value, list) or not value:
        return False
    rows = cast("list[Any]", value)[:_LOOKED_AT]
    if not all(isinstance(row, dict) for row in rows):
        return False
    return not must_fit or _most_fit(rows)


def _most_fit(rows: Iterable[Any]) -> bool:
    fits = [_fits(row) for row in rows]
    return 2 * sum(fits) > len(fits)


def _accepts(dialect: Dialect[Any], value: dict[str, Any]) -> bool:
    """Return whether the values of an object have the types of a dialect."""
    if dialect.parts:
        return True
    try:
        dialect.type(value)
    except RowError:
        return False
    return True


def _fits(value: Any) -> bool:
    return any(dialect.fit(value)[0] == 1.0 for dialect in DIALECTS)
