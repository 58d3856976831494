"""Cut sections into passages at sentence ends, each with its own id, its content and its place in the source."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec

from expectations.canonical import text_digest
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.text.cleaning import clean, language_of, sentences
from expectations.text.documents import Section
from expectations.text.traditional import Traditional, simplify

# Places to cut a sentence that is too long, best first: between clauses, after a comma, at white space.
_PLACES = tuple(
    re.compile(pattern)
    for pattern in (r"(?:[；：]|[;:](?=\s))[”’」』）)\"']*", r"(?:[，、]|,(?=\s))[”’」』）)\"']*", r"\s+")
)


class Passage(msgspec.Struct, frozen=True):
    """A row of passages.parquet. `text` is `source[start:end]`, cleaned; offsets are characters of the document."""

    passage_id: str
    document_id: str
    heading: str
    text: str
    content: str
    """Heading and text: embedded for retrieval, and read by the generator."""
    content_sha256: str
    source: str
    start: int
    end: int
    language: str


class Alias(msgspec.Struct, frozen=True):
    """A row of aliases.parquet: a passage whose text another passage has already. Its names mean that other passage."""

    alias: str
    """The passage id, which is not in the table."""
    document_id: str
    passage_id: str
    """The passage that is kept."""


class Twin(msgspec.Struct, frozen=True):
    """A passage that is quarantined because another has its text, and the alias that its id becomes."""

    alias: Alias
    rejected: Rejected


def cut_sections(
    sections: Iterable[Section | Rejected], max_chars: int, min_chars: int, traditional: Traditional = "keep"
) -> Iterator[Passage | Twin | Rejected]:
    """Yield passages of at most about `max_chars` characters.

    Quarantined: a section that is empty or shorter than `min_chars`, an id that an earlier passage has, and whatever
    the reader rejected. A text that an earlier passage has is quarantined too, and its id becomes an alias.
    """
    seen = _Seen()
    for section in sections:
        if isinstance(section, Rejected):
            yield section
            continue
        file, line = section.file, section.line
        text = clean(section.whole[section.start : section.end]).strip()
        if len(text) < min_chars:
            code, reason = "FT-CORPUS-003", f"the section has {len(text)} characters, fewer than {min_chars}."
            if not text:
                code, reason = "FT-CORPUS-002", "the section has no text."
            fix = "write the section, delete it, or lower corpus.min_chars"
            yield set_aside(code, file, line, reason, fix, path=section.section_id, raw=text)
            continue
        for number, (start, end) in enumerate(cut(section.whole, section.start, section.end, max_chars, min_chars), 1):
            passage = _passage(section, number, start, end, traditional)
            name = passage.passage_id
            if used := seen.id_is_used(passage):
                reason = f"the id {name} is already used in {used}."
                yield set_aside(
                    "FT-CORPUS-004", file, line, reason, "rename the file or the heading", path=name, raw=passage.text
                )
            elif kept := seen.twin_of(passage):
                reason = f"{kept} has the same text; {name} becomes an alias of it."
                fix = "nothing, or keep one of the two"
                rejected = set_aside("FT-CORPUS-005", file, line, reason, fix, path=name, raw=passage.text)
                yield Twin(Alias(name, passage.document_id, kept), rejected)
            else:
                yield passage


def cut(whole: str, start: int, end: int, max_chars: int, min_chars: int) -> list[tuple[int, int]]:
    """Return the offsets of the pieces of `whole[start:end]`: whole sentences up to `max_chars`, in order.

    White space between pieces is left out. A longer sentence is cut between clauses (；), else after a comma (，、),
    else at white space, else inside a word, never before half of `max_chars`. A last piece shorter than `min_chars`
    is joined with the piece before it.
    """
    text = whole[start:end]
    left, right = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
    if left < right <= left + max_chars:  # most sections: the sentence ends are not needed
        return [(left, right)]
    pieces: list[tuple[int, int]] = []
    for left, right in sentences(text):
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
        stop = _best_place(whole, start, start + max_chars)
        yield start, start + len(whole[start:stop].rstrip())
        start = next(at for at in range(stop, end) if not whole[at].isspace())
    yield start, end


def _best_place(whole: str, start: int, stop: int) -> int:
    """Return where to cut `whole[start:]` so that the piece ends at `stop` or before."""
    least = start + (stop - start) // 2
    for place in _PLACES:
        ends = [match.end() for match in place.finditer(whole, least, stop + 1) if least < match.end() <= stop]
        if ends:
            return ends[-1]
    for at in range(stop, least, -1):
        if not _belongs_together(whole[at - 1], whole[at]):
            return at
    while stop - start > 1 and unicodedata.combining(whole[stop]):
        stop -= 1
    return stop


def _belongs_together(left: str, right: str) -> bool:
    """Return whether a cut between two characters would break a word, a number, or a letter and its accent."""
    return (left.isascii() and left.isalnum() and right.isascii() and right.isalnum()) or (
        unicodedata.combining(right) > 0 or right in "\u200d\ufe0f\ufe0e" or left == "\u200d"
    )


def _passage(section: Section, number: int, start: int, end: int, traditional: Traditional) -> Passage:
    text = passage_text(section.whole, start, end, traditional)
    heading = " > ".join(section.headings)
    if not _is_japanese(section.whole):
        heading = simplify(heading, traditional)
    content = f"{heading}\n{text}" if heading else text
    if section.numbered:
        passage_id = f"{section.document_id}#{number}"
    else:
        passage_id = section.section_id if number == 1 else f"{section.section_id}~{number}"
    return Passage(
        passage_id=passage_id,
        document_id=section.document_id,
        heading=heading,
        text=text,
        content=content,
        content_sha256=text_digest(content),
        source=section.source,
        start=start,
        end=end,
        language=language_of(text),
    )


def passage_text(whole: str, start: int, end: int, traditional: Traditional = "keep") -> str:
    """Return the text of a passage: its part of the document, cleaned, and simplified unless it is Japanese."""
    text = clean(whole[start:end]).strip()
    return text if traditional == "keep" or _is_japanese(whole) else simplify(text, traditional)


@lru_cache(maxsize=4)
def _is_japanese(whole: str) -> bool:
    return language_of(whole) == "ja"


class _Seen:
    """The ids and texts of earlier passages, as 16-byte digests."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._texts: dict[bytes, str] = {}

    def id_is_used(self, passage: Passage) -> str | None:
        """Return the source that used the passage's id before; remember the id if none did."""
        key = _short(passage.passage_id)
        used = self._ids.get(key)
        self._ids.setdefault(key, passage.source)
        return used

    def twin_of(self, passage: Passage) -> str | None:
        """Return the id of the passage that has this text already; remember the text if none has."""
        key = _short(passage.text)
        kept = self._texts.get(key)
        self._texts.setdefault(key, passage.passage_id)
        return kept


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
