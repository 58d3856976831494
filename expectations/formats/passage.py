"""Format `passage`: a document to be cut, embedded and found. Dialects: BEIR's corpus.jsonl and the canonical form."""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.formats.dialect import Dialect, Place, Policy, RowError, stated_id, tidy

FORMAT = "passage"
VERSION = 1


class PassageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One document of the corpus."""

    document_id: str
    title: str
    text: str
    source: str
    line_no: int


class BeirRow(msgspec.Struct, rename={"id": "_id"}, kw_only=True):
    id: str | int
    text: str
    title: str | None = None


class CanonicalRow(msgspec.Struct, kw_only=True):
    document_id: str | int
    text: str
    title: str | None = None


def _build(document_id: str | int, title: str | None, text: str, id_field: str, place: Place) -> PassageRecord:
    name, body = stated_id(document_id, f"$.{id_field}"), tidy(text, "$.text")
    for value, field in ((name, id_field), (body, "text")):
        if not value:
            raise RowError("FT-PSG-002", f"$.{field}", "found an empty text")
    return PassageRecord(
        document_id=name, title=tidy(title, "$.title"), text=body, source=place.source, line_no=place.line
    )


def _from_beir(row: BeirRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    return _build(row.id, row.title, row.text, "_id", place)


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    return _build(row.document_id, row.title, row.text, "document_id", place)


DIALECTS = (
    Dialect(
        name="beir-corpus",
        kind=FORMAT,
        marks=("_id", "text"),
        tells=("title",),
        row=BeirRow,
        convert=_from_beir,
        type_code="FT-PSG-001",
    ),
    Dialect(
        name="passage",
        kind=FORMAT,
        marks=("document_id", "text"),
        row=CanonicalRow,
        convert=_from_canonical,
        type_code="FT-PSG-001",
    ),
)
