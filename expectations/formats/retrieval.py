"""Formats `query` and `qrels`: questions, and which passages answer them.

Dialects: BEIR, tables of two, three and four columns (TREC), the canonical form.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, cast

import msgspec

from expectations.formats.build import choose_language, simplified, stated_id, tidy
from expectations.formats.dialect import Dialect, Format, Keys, Place, ReadPolicy, Record, RowError, rename_line
from expectations.text.cleaning import comparison_key_of_clean as comparison_key

QRELS_HEADER = ["query-id", "corpus-id", "score"]
HEADERS = (
    QRELS_HEADER,
    QRELS_HEADER[:2],
    ["query-id", "iteration", "corpus-id", "score"],
    ["query-id", "text"],
    ["query_id", "text"],
    ["_id", "text"],
)
"""First lines of tables that are no rows."""
_QUERY_FILES = ("quer", "question")

Grade = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class QueryRecord(Record, frozen=True, kw_only=True, gc=False):
    """One question to search with."""

    query_id: str
    query: str
    language: str
    source: str
    line_no: int


class QrelRecord(Record, frozen=True, kw_only=True, gc=False):
    """One judgement: how well a passage answers a query; 0 means it does not."""

    query_id: str
    passage_id: str
    score: int
    source: str
    line_no: int


class BeirQueryRow(msgspec.Struct, rename={"id": "_id"}, kw_only=True):
    id: str | int
    text: str
    language: str | None = None


class QueryRow(msgspec.Struct, kw_only=True):
    query_id: str | int
    query: str
    language: str | None = None


class BeirQrelRow(msgspec.Struct, rename={"query_id": "query-id", "passage_id": "corpus-id"}, kw_only=True):
    query_id: str | int
    passage_id: str | int
    score: Grade


class QrelRow(msgspec.Struct, kw_only=True):
    query_id: str | int
    passage_id: str | int
    score: Grade


_GRADE = re.compile(r"[+-]?\d{1,9}")
_NAME = re.compile(r"(?=.*\d)[A-Za-z0-9_.:#/-]{1,80}")
"""The form of an id: one word of ASCII with a digit in it."""


def _has_three_columns(row: Any) -> bool:
    return _is_table_row(row, 3)


def _is_trec(row: Any) -> bool:
    return _is_table_row(row, 4) and (row in HEADERS or _GRADE.fullmatch(row[3].strip()) is not None)


def _names_two(row: Any) -> bool:
    return _is_table_row(row, 2) and (row in HEADERS or all(_NAME.fullmatch(cell.strip()) for cell in row))


def _names_text(row: Any) -> bool:
    return _is_table_row(row, 2)


def _is_table_row(row: Any, columns: int) -> bool:
    return isinstance(row, list) and len(cells := cast("list[Any]", row)) == columns and isinstance(cells[0], str)


def _query(  # noqa: PLR0917 - a row of a table
    query_id: str | int, query: str, language: str | None, fields: tuple[str, str], place: Place, policy: ReadPolicy
) -> QueryRecord:
    name, text = stated_id(query_id, place, f"$.{fields[0]}"), tidy(query, f"$.{fields[1]}", place)
    for value, field in zip((name, text), fields, strict=True):
        if not value:
            raise RowError("FT-QRY-002", f"$.{field}", "found an empty text")
    text = simplified(text, policy) if policy.traditional != "keep" else text
    return QueryRecord(
        query_id=name, query=text, language=choose_language(language, text), source=place.source, line_no=place.line
    )


def _qrel(query_id: str | int, passage_id: str | int, score: int, paths: tuple[str, str], place: Place) -> QrelRecord:
    ids = stated_id(query_id, place, paths[0]), stated_id(passage_id, place, paths[1])
    for value, path in zip(ids, paths, strict=True):
        if not value:
            raise RowError("FT-QREL-002", path, "found an empty id")
    return QrelRecord(query_id=ids[0], passage_id=ids[1], score=score, source=place.source, line_no=place.line)


def _from_beir_query(row: BeirQueryRow, _raw: object, place: Place, policy: ReadPolicy) -> QueryRecord:
    return _query(row.id, row.text, row.language, ("_id", "text"), place, policy)


def _from_canonical_query(row: QueryRow, _raw: object, place: Place, policy: ReadPolicy) -> QueryRecord:
    return _query(row.query_id, row.query, row.language, ("query_id", "query"), place, policy)


def _from_cells(cells: list[str], _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    if len(cells) != 3:
        raise RowError("FT-QREL-001", "$", f"found {len(cells)} columns, expected 3 (query-id, corpus-id, score)")
    return _qrel(cells[0], cells[1], _grade(cells[2], "$[2]"), ("$[0]", "$[1]"), place)


def _from_pair(cells: list[str], _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    """Two columns: whatever is named answers the query."""
    if len(cells) != 2:
        raise RowError("FT-QREL-001", "$", f"found {len(cells)} columns, expected 2 (query-id, corpus-id)")
    return _qrel(cells[0], cells[1], 1, ("$[0]", "$[1]"), place)


def _from_trec(cells: list[str], _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    if len(cells) != 4:
        reason = f"found {len(cells)} columns, expected 4 (query-id, iteration, corpus-id, score)"
        raise RowError("FT-QREL-001", "$", reason)
    return _qrel(cells[0], cells[2], _grade(cells[3], "$[3]"), ("$[0]", "$[2]"), place)


def _grade(cell: str, path: str) -> int:
    score = cell.strip()
    if not _GRADE.fullmatch(score):
        raise RowError("FT-QREL-003", path, f"found {score[:40]!r}, expected a whole number")
    return int(score)


def _from_query_cells(cells: list[str], _raw: object, place: Place, policy: ReadPolicy) -> QueryRecord:
    if len(cells) != 2:
        raise RowError("FT-QRY-001", "$", f"found {len(cells)} columns, expected 2 (query-id, text)")
    name, text = stated_id(cells[0], place, "$[0]"), tidy(cells[1], "$[1]", place)
    for value, path in ((name, "$[0]"), (text, "$[1]")):
        if not value:
            raise RowError("FT-QRY-002", path, "found an empty text")
    text = simplified(text, policy) if policy.traditional != "keep" else text
    return QueryRecord(
        query_id=name, query=text, language=choose_language(None, text), source=place.source, line_no=place.line
    )


def _from_beir_qrel(row: BeirQrelRow, _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    return _qrel(row.query_id, row.passage_id, row.score, ("$.query-id", "$.corpus-id"), place)


def _from_canonical_qrel(row: QrelRow, _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    return _qrel(row.query_id, row.passage_id, row.score, ("$.query_id", "$.passage_id"), place)


def _query_keys(record: QueryRecord) -> Keys:
    # with its id, since judgements name it
    return Keys(record.query_id, "$.query_id", hash(("query", record.query_id, comparison_key(record.query))))


def _qrel_keys(record: QrelRecord) -> Keys:
    row = hash(("qrels", record.query_id, record.passage_id, record.score))
    return Keys(f"{record.query_id}\t{record.passage_id}", "$", row)


QUERY = Format(
    name="query",
    record=QueryRecord,
    wrong_type="FT-QRY-001",
    keys=_query_keys,
    migrations=(rename_line,),
    dialects=(
        Dialect(
            name="beir-queries",
            marks=("_id", "text"),
            row=BeirQueryRow,
            convert=_from_beir_query,
            file_names=_QUERY_FILES,
        ),
        Dialect(
            name="query",
            marks=("query_id", "query"),
            row=QueryRow,
            convert=_from_canonical_query,
            canonical=True,
        ),
        Dialect(
            name="queries-tsv",
            marks=(),
            suits=_names_text,
            row=list[str],
            convert=_from_query_cells,
            file_names=_QUERY_FILES,
            headers=HEADERS,
        ),
    ),
)
QRELS = Format(
    name="qrels",
    record=QrelRecord,
    wrong_type="FT-QREL-001",
    keys=_qrel_keys,
    migrations=(rename_line,),
    same_id=("FT-QREL-004", "the pair is judged otherwise in {place}"),
    dialects=(
        Dialect(
            name="beir-qrels-tsv",
            marks=(),
            suits=_has_three_columns,
            row=list[str],
            convert=_from_cells,
            headers=HEADERS,
        ),
        Dialect(
            name="trec-qrels-tsv",
            marks=(),
            suits=_is_trec,
            row=list[str],
            convert=_from_trec,
            headers=HEADERS,
        ),
        Dialect(
            name="qrels-tsv",
            marks=(),
            suits=_names_two,
            row=list[str],
            convert=_from_pair,
            file_names=("qrel", "judg"),
            headers=HEADERS,
        ),
        Dialect(
            name="beir-qrels",
            marks=("query-id", "corpus-id", "score"),
            row=BeirQrelRow,
            convert=_from_beir_qrel,
        ),
        Dialect(
            name="qrels",
            marks=("query_id", "passage_id", "score"),
            row=QrelRow,
            convert=_from_canonical_qrel,
            canonical=True,
        ),
    ),
)
