"""Sections become passages: cut at sentence ends, each with its own id, its content and its place in the source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from expectations.canonical import text_digest
from expectations.reading import Rejected
from expectations.text import clean, language_of, sentences
from ft_assets.corpus.documents import Section
from ft_assets.corpus.quarantine import set_aside


class Passage(msgspec.Struct, frozen=True):
    """A row of passages.parquet. `source[start:end]`, cleaned, is `text`; offsets are characters of the document."""

    passage_id: str
    document_id: str
    heading: str
    text: str
    content: str
    """Heading and text: what is embedded, and what the generator reads."""
    content_sha256: str
    source: str
    start: int
    end: int
    language: str


def cut_sections(
    sections: Iterable[Section | Rejected], max_chars: int, min_chars: int
) -> Iterator[Passage | Rejected]:
    """Passages of at most about `max_chars` characters. A section that is empty or shorter than `min_chars`, an id or
    a content that an earlier passage has, and whatever the reader rejected, is quarantined."""
    seen = _Seen()
    for section in sections:
        if isinstance(section, Rejected):
            yield section
            continue
        file, line = section.file, section.line
        text = clean(section.whole[section.start : section.end]).strip()
        if len(text) < min_chars:
            code, reason = ("FT-CORPUS-003", f"the section has {len(text)} characters, fewer than {min_chars}.")
            if not text:
                code, reason = "FT-CORPUS-002", "the section has no text."
            yield set_aside(
                code, file, line, reason, "write the section, take it out, or lower corpus.min_chars",
                path=section.section_id, raw=text,
            )  # fmt: skip
            continue
        for number, (start, end) in enumerate(cut(section.whole, section.start, section.end, max_chars, min_chars), 1):
            passage = _passage(section, number, start, end)
            twin = seen.add(passage)
            if twin:
                code, reason, mend = twin
                yield set_aside(code, file, line, reason, mend, path=passage.passage_id, raw=passage.text)
            else:
                yield passage


def cut(whole: str, start: int, end: int, max_chars: int, min_chars: int) -> list[tuple[int, int]]:
    """Offsets of the pieces of `whole[start:end]`: whole sentences up to `max_chars`, never across.

    A sentence longer than `max_chars` is cut at white space where it has any. A rest shorter than `min_chars` stays
    with the piece before it.
    """
    pieces: list[tuple[int, int]] = []
    for left, right in sentences(whole[start:end]):
        for low, high in _split_long(whole, start + left, start + right, max_chars):
            if pieces and high - pieces[-1][0] <= max_chars:
                pieces[-1] = (pieces[-1][0], high)
            else:
                pieces.append((low, high))
    if len(pieces) > 1 and pieces[-1][1] - pieces[-1][0] < min_chars:
        (low, _), (_, high) = pieces[-2:]
        pieces[-2:] = [(low, high)]
    return pieces


def _split_long(whole: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    while end - start > max_chars:
        space = whole.rfind(" ", start + max_chars // 2, start + max_chars)
        stop = space + 1 if space >= 0 else start + max_chars
        yield start, stop
        start = stop
    yield start, end


def _passage(section: Section, number: int, start: int, end: int) -> Passage:
    text = passage_text(section.whole, start, end)
    heading = " > ".join(section.headings)
    content = f"{heading}\n{text}" if heading else text
    if section.numbered:
        passage_id = f"{section.document_id}#{number}"
    else:
        passage_id = section.section_id if number == 1 else f"{section.section_id}~{number}"
    return Passage(
        passage_id=passage_id, document_id=section.document_id, heading=heading, text=text, content=content,
        content_sha256=text_digest(content), source=section.source, start=start, end=end, language=language_of(text),
    )  # fmt: skip


def passage_text(whole: str, start: int, end: int) -> str:
    """What a passage says: its stretch of the document, cleaned."""
    return clean(whole[start:end]).strip()


class _Seen:
    """Ids and contents met so far, as 16-byte digests."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._texts: dict[bytes, str] = {}

    def add(self, passage: Passage) -> tuple[str, str, str] | None:
        """Remembers a passage; (code, reason, mend) if its id or its text was there before."""
        id_key, text_key = _short(passage.passage_id), _short(passage.text)
        if id_key in self._ids:
            reason = f"the id {passage.passage_id} is already used in {self._ids[id_key]}."
            return "FT-CORPUS-004", reason, "rename the file or the heading"
        if text_key in self._texts:
            return "FT-CORPUS-005", f"the text is also in {self._texts[text_key]}.", "keep one of the two"
        self._ids[id_key] = passage.source
        self._texts[text_key] = passage.passage_id
        return None


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
