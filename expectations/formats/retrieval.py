"""Formats `query` and `qrels`: questions, and which passages answer them.

Dialects: BEIR, columns under other usual names (MTEB, T2Ranking, MS MARCO), tables of two, three and four columns
(TREC), the canonical form.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from expectations.formats.build import choose_language, simplified, stated_id, tidy
from expectations.formats.columns import (
    GRADE_MAX,
    Names,
    has_training_keys,
    is_bare_id,
    is_grade,
    is_id,
    is_id_and_text,
    is_table_row,
    likely_query,
    one_of,
    optional_row,
    read_whole,
)
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
_QUERY_FILES = ("quer", "question", "topic")


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


class QrelRow(msgspec.Struct, kw_only=True):
    query_id: str | int
    passage_id: str | int
    score: int | float


_QUERY_IDS = Names("id query-id query_id queryid qid q_id question_id topic_id")
_QUERY_TEXTS = Names("text query question")
_JUDGED_QUERIES = Names("query-id query_id queryid qid q_id topic_id topic")
_JUDGED_PASSAGES = Names(
    "corpus-id corpus_id corpusid pid p_id passage-id passage_id docid doc_id doc-id did docno document_id document-id "
    "paragraph_id"
)
_SCORES = Names("score rel relevance relevancy grade judgment judgement rating label")
_ITERATIONS = Names("iteration iter")
_JUDGEMENT_FILES = ("qrel", "judg")

QueryColumnsRow = optional_row(
    "QueryColumnsRow", {_QUERY_IDS: str | int, _QUERY_TEXTS: str, Names("language lang"): str}
)
QrelColumnsRow = optional_row(
    "QrelColumnsRow",
    {_JUDGED_QUERIES: str | int, _JUDGED_PASSAGES: str | int, _SCORES: int | float | str, _ITERATIONS: str | int},
)


def _has_query_columns(value: Any) -> bool:
    """True for an id and a text, and nothing to train on: `query_id` with `query` is the canonical form.

    A row with lists has more than a query. `id` and `question` are keys of rows that lack an answer, too.
    """
    if not isinstance(value, dict) or has_training_keys(value) or {"query_id", "query"} <= value.keys():
        return False
    row = cast("dict[str, Any]", value)
    if any(isinstance(part, list) for part in row.values()):
        return False
    return "text" in row or "id" not in row


def _has_qrel_columns(value: Any) -> bool:
    """True for two ids and no text: `query_id`, `passage_id` and `score` are the canonical form."""
    if not isinstance(value, dict):
        return False
    keys = cast("dict[str, Any]", value).keys()
    if has_training_keys(keys - {"label"}) or keys & _TEXT_KEYS or {"query_id", "passage_id", "score"} <= keys:
        return False
    return not keys.isdisjoint(_JUDGED_QUERIES.keys) and not keys.isdisjoint(_JUDGED_PASSAGES.keys)


_TEXT_KEYS = frozenset(("text", "query", "question", "passage", "body", "contents", "content", "title"))


def _has_three_columns(row: Any) -> bool:
    return is_table_row(row, 3) and (row in HEADERS or (is_id(row[0]) and is_id(row[1]) and is_grade(row[2])))


def _is_trec(row: Any) -> bool:
    return is_table_row(row, 4) and (row in HEADERS or (is_id(row[0]) and is_id(row[2]) and is_grade(row[3])))


def _names_two(row: Any) -> bool:
    return is_table_row(row, 2) and (row in HEADERS or all(is_bare_id(cell) for cell in row))


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
    """Return the grade in a table without a header; RowError (FT-QREL-005) for one that may be an id or a rank."""
    score = read_whole(cell, path)
    if abs(score) > GRADE_MAX:
        reason = f"found {score}: without a header a number above {GRADE_MAX} may be an id or a rank, and no grade"
        raise RowError("FT-QREL-005", path, reason)
    return score


def _from_query_columns(row: Any, _raw: object, place: Place, policy: ReadPolicy) -> QueryRecord:
    query_id, text = one_of(row, _QUERY_IDS, "FT-QRY-001"), one_of(row, _QUERY_TEXTS, "FT-QRY-001")
    return _query(query_id[1], text[1], row.language or row.lang, (query_id[0], text[0]), place, policy)


def _from_qrel_columns(row: Any, _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    query_id = one_of(row, _JUDGED_QUERIES, "FT-QREL-001")
    passage_id = one_of(row, _JUDGED_PASSAGES, "FT-QREL-001")
    if all(getattr(row, name) is None for name in _SCORES.keys):
        _refuse_unjudged(query_id[0], passage_id[0], place)
        score = 1
    else:
        name, value = one_of(row, _SCORES, "FT-QREL-001")
        score = read_whole(value, f"$.{name}")
    return _qrel(query_id[1], passage_id[1], score, (f"$.{query_id[0]}", f"$.{passage_id[0]}"), place)


def _refuse_unjudged(query: str, passage: str, place: Place) -> None:
    """Refuse two ids without a score, but in a file that is named for judgements: negatives are lists of ids too."""
    name = place.source.rpartition("/")[2].lower()
    if "neg" in name or not any(part in name for part in _JUDGEMENT_FILES):
        reason = f"the columns `{query}`, `{passage}` have no score: whether the passage answers the query is not said"
        raise RowError("FT-QREL-006", "$.score", reason)


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


def _from_canonical_qrel(row: QrelRow, _raw: object, place: Place, _policy: ReadPolicy) -> QrelRecord:
    return _qrel(row.query_id, row.passage_id, read_whole(row.score, "$.score"), ("$.query_id", "$.passage_id"), place)


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
            likely=likely_query,
        ),
        Dialect(
            name="query-columns",
            marks=(_QUERY_IDS.mark, _QUERY_TEXTS.mark),
            suits=_has_query_columns,
            row=QueryColumnsRow,
            convert=_from_query_columns,
            file_names=_QUERY_FILES,
            likely=likely_query,
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
            suits=is_id_and_text,
            row=list[str],
            convert=_from_query_cells,
            file_names=_QUERY_FILES,
            likely=likely_query,
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
            file_names=_JUDGEMENT_FILES,
            only_named=True,
            headers=HEADERS,
        ),
        Dialect(
            name="beir-qrels",
            marks=(_JUDGED_QUERIES.mark, _JUDGED_PASSAGES.mark, _SCORES.mark),
            suits=_has_qrel_columns,
            row=QrelColumnsRow,
            convert=_from_qrel_columns,
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
