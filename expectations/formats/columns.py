"""Rows of tables for retrieval: columns with several usual names, and the meaning of tables that name no columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import msgspec

from expectations.formats.dialect import RowError

GRADE_MAX = 10
"""The highest grade that three or four columns without a header may have: above it they are ids, ranks or counts."""

_ID = re.compile(r"\S{1,80}")
_BARE_ID = re.compile(r"(?=.*\d)[A-Za-z0-9_.:#/-]{1,80}")
"""One word of ASCII with a digit in it: an id, and no text."""
_WHOLE = re.compile(r"[+-]?\d{1,9}(\.0+)?")
_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,18})?")

_TRAINING_WORDS = """
messages conversations conversation instruction output response completion prompt chosen rejected answer answers
golden_answers questions paragraphs data pos neg positive negative positives positive_passages negative_passages
anchor ground_truth user_input answer_paragraphs rejected_response label kto_tag desirable
"""
_TRAINING_KEYS = frozenset(_TRAINING_WORDS.split())


class Names(msgspec.Struct, frozen=True):
    """The usual names of one column, in a text with blanks between them."""

    text: str

    @property
    def keys(self) -> list[str]:
        """The names."""
        return self.text.split()

    @property
    def mark(self) -> str:
        """The names as one mark of a dialect: one of them is there."""
        return "|".join(self.keys)


def optional_row(name: str, columns: Mapping[Names, Any]) -> Any:
    """Return a typed row with an optional field for each name of each column; `-` is `_0` in the name of a field."""
    fields: list[tuple[str, Any, None]] = []
    renamed: dict[str, str] = {}
    for names, kind in columns.items():
        for key in names.keys:
            renamed[_field(key)] = key
            fields.append((_field(key), kind | None, None))
    return msgspec.defstruct(name, fields, rename=renamed, kw_only=True)


def _field(key: str) -> str:
    return key.replace("-", "_0")


def one_of(row: Any, names: Names, wrong_type: str) -> tuple[str, Any]:
    """Return (name, value) of a column under the name that the row has; RowError (`wrong_type`) for none or several."""
    found = [(key, value) for key in names.keys if (value := getattr(row, _field(key))) is not None]
    if len(found) == 1 or (found and all(value == found[0][1] for _, value in found)):
        return found[0]
    if found:
        values = ", ".join(f"`{key}`: {str(value)[:40]!r}" for key, value in found)
        raise RowError(wrong_type, f"$.{found[1][0]}", f"found {values}, expected one of them")
    raise RowError(wrong_type, "$", f"the column `{names.keys[0]}` is missing (or one of {', '.join(names.keys[1:6])})")


def has_training_keys(value: Any) -> bool:
    """Return whether a row has a key of data to train on: then its id and its text are no passage and no query."""
    return not _TRAINING_KEYS.isdisjoint(value)


def is_table_row(row: Any, columns: int) -> bool:
    """Return whether a raw value is a row of so many cells, the first one of text."""
    return isinstance(row, list) and len(cells := cast("list[Any]", row)) == columns and isinstance(cells[0], str)


def is_id(cell: Any) -> bool:
    """Return whether a cell is one word, as an id is."""
    return isinstance(cell, str) and _ID.fullmatch(cell.strip()) is not None


def is_bare_id(cell: Any) -> bool:
    """Return whether a cell is one word of ASCII with a digit in it, which is hardly a text."""
    return isinstance(cell, str) and _BARE_ID.fullmatch(cell.strip()) is not None


def is_id_and_text(row: Any) -> bool:
    """Return whether a row without a header has an id and a text: a query, or a passage."""
    return is_table_row(row, 2) and is_id(row[0]) and isinstance(row[1], str) and _is_text(row[1])


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell.strip()) and not is_bare_id(cell)


def is_grade(cell: Any) -> bool:
    """Return whether a cell is a number that a grade can be."""
    return isinstance(cell, str) and _NUMBER.fullmatch(cell.strip()) is not None and abs(float(cell)) <= GRADE_MAX


def read_whole(value: object, path: str) -> int:
    """Return a grade: a whole number, also as 1.0; RowError (FT-QREL-003) for another value."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(float(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1 and abs(value) < 2**31:
        return int(value)
    shown = repr(value[:40]) if isinstance(value, str) else str(value)[:40]
    raise RowError("FT-QREL-003", path, f"found {shown}, expected a whole number")


_STOPS = (".", "。", "！", "!", ")", "”", '"', "」", "؟", "…", "．", "；", ";", ":", "：", "।")
_ASKS = ("?", "？", "吗", "呢", "؟")


def _text_of(value: Any) -> str:
    if isinstance(value, list):
        return str(cast("list[Any]", value)[1]).strip()
    fields = cast("dict[str, Any]", value)
    return next((text.strip() for key in ("text", "query", "question") if isinstance(text := fields.get(key), str)), "")


def likely_query(value: Any) -> float:
    """Return how probable it is that the text of a row is a question, and not a passage."""
    text = _text_of(value)
    if text.endswith(_ASKS):
        return 1.0
    if len(text) > 120 or text.endswith(_STOPS):
        return 0.0
    return 0.9 if len(text.split()) > 2 or len(text) > 20 else 0.6  # a word or two may be a title


def likely_passage(value: Any) -> float:
    """Return how probable it is that the text of a row is a passage: a short sentence may be a claim to be checked."""
    text = _text_of(value)
    if likely_query(value):
        return 0.0
    return 1.0 if len(text) > 120 or (len(text) > 60 and not text.isascii()) else 0.6


def describe_table(rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return the code and the reason why a table without a header is not read."""
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        listed = ", ".join(str(width) for width in sorted(widths)[:5])
        return "FT-TAB-005", f"the first row names no columns, and rows have {listed} cells"
    width = widths.pop() if widths else 0
    if width == 6 and all(isinstance(row[4], str) and _NUMBER.fullmatch(row[4].lstrip("-")) for row in rows):
        return "FT-TAB-006", "it is a TREC run (query, Q0, passage, rank, score, tag): what a search system found"
    if width == 2:
        return "FT-TAB-005", _describe_two(rows)
    if width == 3 and all(is_id(row[0]) and is_id(row[1]) for row in rows):
        return "FT-TAB-005", _describe_three_ids(rows)
    if width == 3 and all(_is_text(cell) for cell in rows[0]):
        reason = "three texts a row and no header: query, positive, negative (MS MARCO triples), or something else"
        return "FT-TAB-005", reason
    return "FT-TAB-005", f"the first row names no columns, and {width} cells have no meaning of their own"


def _describe_two(rows: Sequence[Sequence[Any]]) -> str:
    if all(map(is_id, chain.from_iterable(rows))):
        return "two ids a row and no header: judgements, negatives and other lists of pairs look the same"
    return "two texts a row and no header: question and answer, query and passage, or another pair"


def _describe_three_ids(rows: Sequence[Sequence[Any]]) -> str:
    if all(isinstance(row[2], str) and _NUMBER.fullmatch(row[2].strip()) for row in rows):
        highest = max(abs(float(row[2])) for row in rows)
        return (
            f"three columns of ids, or grades up to {highest:g}: a third column above {GRADE_MAX} may be an id "
            "(MS MARCO's triples of ids) or a rank"
        )
    return "three ids a row and no header, the third one is no grade"
