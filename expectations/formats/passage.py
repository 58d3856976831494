"""Format `passage`: a document to be cut, embedded and found.

Dialects: BEIR's corpus.jsonl, UltraRAG's two forms of a corpus, an id and a text under other names (MTEB, T2Ranking,
DPR, MIRACL), MS MARCO's table of two columns, and the canonical form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.formats.build import content_id, stated_id, tidy
from expectations.formats.columns import (
    Names,
    has_training_keys,
    is_id_and_text,
    likely_passage,
    one_of,
    optional_row,
)
from expectations.formats.dialect import Dialect, Format, Keys, Place, ReadPolicy, Record, RowError, rename_line
from expectations.text.cleaning import comparison_key_of_clean as comparison_key


class PassageRecord(Record, frozen=True, kw_only=True, gc=False):
    """One document of the corpus."""

    document_id: str
    title: str
    text: str
    source: str
    line_no: int


class BeirPassageRow(msgspec.Struct, rename={"id": "_id"}, kw_only=True):
    id: str | int
    text: str
    title: str | None = None


class ContentsRow(msgspec.Struct, kw_only=True):
    id: str | int
    contents: str
    title: str | None = None


class TitledRow(msgspec.Struct, kw_only=True):
    """A document that may have no id: then its content is its name."""

    title: str
    content: str
    id: str | int | None = None


class PassageRow(msgspec.Struct, kw_only=True):
    document_id: str | int
    text: str
    title: str | None = None


_IDS = Names(
    "id pid docid doc_id doc-id did docno passage_id passage-id corpus-id corpus_id corpusid paragraph_id document_id"
)
_TEXTS = Names("text passage body paragraph segment")
_FILES = ("corpus", "passage", "document", "collection", "psgs", "docs")


ColumnsRow = optional_row("PassageColumnsRow", {_IDS: str | int, _TEXTS: str, Names("title"): str})


def _build(
    document_id: str | int, title: str | None, text: str, fields: tuple[str, str], place: Place
) -> PassageRecord:
    """Return the record of a document; `fields` are the dialect's names for the id and the text."""
    name, body = stated_id(document_id, place, f"$.{fields[0]}"), tidy(text, f"$.{fields[1]}", place)
    for value, field in zip((name, body), fields, strict=True):
        if not value:
            raise RowError("FT-PSG-002", f"$.{field}", "found an empty text")
    return PassageRecord(
        document_id=name, title=tidy(title, "$.title", place), text=body, source=place.source, line_no=place.line
    )


def _from_beir(row: BeirPassageRow, _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    return _build(row.id, row.title, row.text, ("_id", "text"), place)


def _from_contents(row: ContentsRow, _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    return _build(row.id, row.title, row.contents, ("id", "contents"), place)


def _from_titled(row: TitledRow, _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    name = content_id("passage", row.title.strip(), row.content.strip()) if row.id is None else row.id
    return _build(name, row.title, row.content, ("id", "content"), place)


def _from_columns(row: Any, _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    document_id, text = one_of(row, _IDS, "FT-PSG-001"), one_of(row, _TEXTS, "FT-PSG-001")
    return _build(document_id[1], row.title, text[1], (document_id[0], text[0]), place)


def _has_columns(value: Any) -> bool:
    """True for an id and a text, and nothing to train on: `document_id` with `text` is the canonical form."""
    return isinstance(value, dict) and not has_training_keys(value) and not {"document_id", "text"} <= value.keys()


def _from_cells(cells: list[str], _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    if len(cells) != 2:
        raise RowError("FT-PSG-001", "$", f"found {len(cells)} columns, expected 2 (id, text)")
    name, text = stated_id(cells[0], place, "$[0]"), tidy(cells[1], "$[1]", place)
    for value, path in ((name, "$[0]"), (text, "$[1]")):
        if not value:
            raise RowError("FT-PSG-002", path, "found an empty text")
    return PassageRecord(document_id=name, title="", text=text, source=place.source, line_no=place.line)


def _from_canonical(row: PassageRow, _raw: object, place: Place, _policy: ReadPolicy) -> PassageRecord:
    return _build(row.document_id, row.title, row.text, ("document_id", "text"), place)


def _keys(record: PassageRecord) -> Keys:
    # with its id, since judgements name it
    row = hash(("passage", record.document_id, comparison_key(record.title), comparison_key(record.text)))
    return Keys(record.document_id, "$.document_id", row)


PASSAGE = Format(
    name="passage",
    record=PassageRecord,
    wrong_type="FT-PSG-001",
    keys=_keys,
    migrations=(rename_line,),
    dialects=(
        Dialect(
            name="beir-corpus",
            file_names=_FILES,
            likely=likely_passage,
            marks=("_id", "text"),
            extra_marks=("title",),
            row=BeirPassageRow,
            convert=_from_beir,
        ),
        Dialect(
            name="ultrarag-contents",
            marks=("id", "contents"),
            row=ContentsRow,
            convert=_from_contents,
        ),
        Dialect(
            name="ultrarag-documents",
            marks=("title", "content"),
            row=TitledRow,
            convert=_from_titled,
        ),
        Dialect(
            name="passage-columns",
            file_names=_FILES,
            likely=likely_passage,
            suits=_has_columns,
            marks=(_IDS.mark, _TEXTS.mark),
            extra_marks=("title",),
            row=ColumnsRow,
            convert=_from_columns,
        ),
        Dialect(
            name="passages-tsv",
            file_names=_FILES,
            likely=likely_passage,
            suits=is_id_and_text,
            marks=(),
            row=list[str],
            convert=_from_cells,
        ),
        Dialect(
            name="passage",
            marks=("document_id", "text"),
            row=PassageRow,
            convert=_from_canonical,
            canonical=True,
        ),
    ),
)
