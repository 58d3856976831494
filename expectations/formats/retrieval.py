"""Formats `query` and `qrels`: questions, and which passages answer them. Dialects: BEIR, the canonical form."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from expectations.formats.dialect import Dialect, Place, Policy, RowError, choose_language, stated_id, tidy

FORMAT = "retrieval"
VERSION = 1
QRELS_HEADER = ["query-id", "corpus-id", "score"]

Grade = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class QueryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One question to search with."""

    query_id: str
    query: str
    language: str
    source: str
    line_no: int


class QrelRecord(msgspec.Struct, frozen=True, kw_only=True):
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


class CanonicalQueryRow(msgspec.Struct, kw_only=True):
    query_id: str | int
    query: str
    language: str | None = None


class BeirQrelRow(msgspec.Struct, rename={"query_id": "query-id", "passage_id": "corpus-id"}, kw_only=True):
    query_id: str | int
    passage_id: str | int
    score: Grade


class CanonicalQrelRow(msgspec.Struct, kw_only=True):
    query_id: str | int
    passage_id: str | int
    score: Grade


_GRADE = re.compile(r"[+-]?\d{1,9}")


def _query(query_id: str | int, query: str, language: str | None, fields: tuple[str, str], place: Place) -> QueryRecord:
    name, text = stated_id(query_id, f"$.{fields[0]}"), tidy(query, f"$.{fields[1]}")
    for value, field in zip((name, text), fields, strict=True):
        if not value:
            raise RowError("FT-QRY-002", f"$.{field}", "found an empty text")
    return QueryRecord(
        query_id=name, query=text, language=choose_language(language, text), source=place.source, line_no=place.line
    )


def _qrel(query_id: str | int, passage_id: str | int, score: int, paths: tuple[str, str], place: Place) -> QrelRecord:
    ids = stated_id(query_id, paths[0]), stated_id(passage_id, paths[1])
    for value, path in zip(ids, paths, strict=True):
        if not value:
            raise RowError("FT-QREL-002", path, "found an empty id")
    return QrelRecord(query_id=ids[0], passage_id=ids[1], score=score, source=place.source, line_no=place.line)


def _from_beir_query(row: BeirQueryRow, _raw: Any, place: Place, _policy: Policy) -> QueryRecord:
    return _query(row.id, row.text, row.language, ("_id", "text"), place)


def _from_canonical_query(row: CanonicalQueryRow, _raw: Any, place: Place, _policy: Policy) -> QueryRecord:
    return _query(row.query_id, row.query, row.language, ("query_id", "query"), place)


def _from_cells(cells: list[str], _raw: Any, place: Place, _policy: Policy) -> QrelRecord:
    if len(cells) != len(QRELS_HEADER):
        raise RowError("FT-QREL-001", "$", f"found {len(cells)} columns, expected 3 (query-id, corpus-id, score)")
    score = cells[2].strip()
    if not _GRADE.fullmatch(score):
        raise RowError("FT-QREL-003", "$[2]", f"found {score[:40]!r}, expected a whole number")
    return _qrel(cells[0], cells[1], int(score), ("$[0]", "$[1]"), place)


def _from_beir_qrel(row: BeirQrelRow, _raw: Any, place: Place, _policy: Policy) -> QrelRecord:
    return _qrel(row.query_id, row.passage_id, row.score, ("$.query-id", "$.corpus-id"), place)


def _from_canonical_qrel(row: CanonicalQrelRow, _raw: Any, place: Place, _policy: Policy) -> QrelRecord:
    return _qrel(row.query_id, row.passage_id, row.score, ("$.query_id", "$.passage_id"), place)


DIALECTS = (
    Dialect(
        name="beir-queries",
        kind="query",
        marks=("_id", "text"),
        row=BeirQueryRow,
        convert=_from_beir_query,
        type_code="FT-QRY-001",
    ),
    Dialect(
        name="query",
        kind="query",
        marks=("query_id", "query"),
        row=CanonicalQueryRow,
        convert=_from_canonical_query,
        type_code="FT-QRY-001",
    ),
    Dialect(
        name="beir-qrels-tsv",
        kind="qrels",
        marks=(),
        row=list[str],
        convert=_from_cells,
        type_code="FT-QREL-001",
    ),
    Dialect(
        name="beir-qrels",
        kind="qrels",
        marks=("query-id", "corpus-id", "score"),
        row=BeirQrelRow,
        convert=_from_beir_qrel,
        type_code="FT-QREL-001",
    ),
    Dialect(
        name="qrels",
        kind="qrels",
        marks=("query_id", "passage_id", "score"),
        row=CanonicalQrelRow,
        convert=_from_canonical_qrel,
        type_code="FT-QREL-001",
    ),
)
