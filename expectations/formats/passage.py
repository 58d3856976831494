"""Format `passage`: a document to be cut, embedded and found.

Dialects: BEIR's corpus.jsonl, UltraRAG's two forms of a corpus, and the canonical form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.formats.dialect import Dialect, Place, Policy, RowError, content_id, stated_id, tidy
from expectations.formats.versions import VERSIONS

FORMAT = "passage"
VERSION = VERSIONS[FORMAT]


class PassageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class ContentsRow(msgspec.Struct, kw_only=True):
    id: str | int
    contents: str
    title: str | None = None


class TitledRow(msgspec.Struct, kw_only=True):
    """A document that has no id: it is named by what it says."""

    title: str
    content: str
    id: str | int | None = None


class CanonicalRow(msgspec.Struct, kw_only=True):
    document_id: str | int
    text: str
    title: str | None = None


def _build(
    document_id: str | int, title: str | None, text: str, fields: tuple[str, str], place: Place
) -> PassageRecord:
    """The rules that hold for every dialect; `fields` are what it calls the id and the text."""
    name, body = stated_id(document_id, place, f"$.{fields[0]}"), tidy(text, f"$.{fields[1]}", place)
    for value, field in zip((name, body), fields, strict=True):
        if not value:
            raise RowError("FT-PSG-002", f"$.{field}", "found an empty text")
    return PassageRecord(
        document_id=name, title=tidy(title, "$.title", place), text=body, source=place.source, line_no=place.line
    )


def _from_beir(row: BeirRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    return _build(row.id, row.title, row.text, ("_id", "text"), place)


def _from_contents(row: ContentsRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    return _build(row.id, row.title, row.contents, ("id", "contents"), place)


def _from_titled(row: TitledRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    name = content_id(FORMAT, row.title.strip(), row.content.strip()) if row.id is None else row.id
    return _build(name, row.title, row.content, ("id", "content"), place)


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, _policy: Policy) -> PassageRecord:
    return _build(row.document_id, row.title, row.text, ("document_id", "text"), place)


DIALECTS = (
    Dialect(
        name="beir-corpus",
        kind=FORMAT,
        marks=("_id", "text"),
        tells=("title",),
        row=BeirRow,
        convert=_from_beir,
    ),
    Dialect(
        name="ultrarag-contents",
        kind=FORMAT,
        marks=("id", "contents"),
        row=ContentsRow,
        convert=_from_contents,
    ),
    Dialect(
        name="ultrarag-documents",
        kind=FORMAT,
        marks=("title", "content"),
        row=TitledRow,
        convert=_from_titled,
    ),
    Dialect(
        name="passage",
        kind=FORMAT,
        marks=("document_id", "text"),
        row=CanonicalRow,
        convert=_from_canonical,
        canonical=True,
    ),
)
