"""Cut sections into passages at sentence ends, each with its own id, its content and its place in the source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain

import msgspec

from expectations.canonical import text_digest
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import in_batches
from expectations.text.cleaning import clean, language_of, sentences, text_size
from expectations.text.documents import Section
from expectations.text.traditional import Traditional, simplify
from ft_assets.corpus.payload import PayloadFields
from ft_assets.corpus.seen import Seen
from ft_assets.corpus.token_limit import TokenLimit, attempts

SAME_TEXT = "FT-CORPUS-005"
"""Code of a passage that is quarantined because another has its text: the text is not lost."""
_SAME_ID = "FT-CORPUS-004"
_SURELY_TOO_LONG = 1.15  # of the limit, if the tokens of a part were its share of the characters
_FIX_TWIN = "nothing, or keep one of the two"
_FIX_ID = "give one of the two another id; ids are compared in Unicode's NFC, without blanks around them"
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


class PassageWithPayload(Passage, frozen=True):
    """A row of passages.parquet where `corpus.payload` names fields."""

    payload: str
    """Their values as a JSON object."""


def names_above(passage_id: str, document_id: str = "") -> list[str]:
    """Return the passages and the section that a piece of this document is part of, the nearest first.

    >>> names_above("aes#rounds~2~3", "aes"), names_above("aes#rounds", "aes")
    (['aes#rounds~2', 'aes#rounds'], [])

    A document may be named `7~2` itself: that is no piece of the document `7`.
    """
    names: list[str] = []
    section, mark, piece = passage_id.removeprefix(document_id).rpartition("~")
    while mark and piece.isdigit():
        names.append(document_id + section)
        section, mark, piece = section.rpartition("~")
    return names


class Alias(msgspec.Struct, frozen=True):
    """A row of aliases.parquet: a passage that is not in the table. Its names mean the passage that has its text."""

    alias: str
    """The passage id."""
    document_id: str
    passage_id: str
    """The passage that is kept; empty for an id that two documents have: it means neither of them."""


class Twin(msgspec.Struct, frozen=True):
    """A passage that is quarantined because another has its text or its id, and the alias that its id becomes."""

    alias: Alias
    rejected: Rejected


class _Cut(msgspec.Struct, frozen=True):
    """A section and the passages it is cut into."""

    section: Section
    passages: list[Passage]


def cut_sections(
    sections: Iterable[Section | Rejected],
    max_chars: int,
    min_chars: int,
    traditional: Traditional = "keep",
    *,
    fields: PayloadFields | None = None,
    limit: TokenLimit | None = None,
    seen: Seen | None = None,
) -> Iterator[Passage | Twin | Rejected]:
    """Yield passages of at most about `max_chars` characters, and with a `limit` of so many tokens.

    Quarantined: a section that is empty or shorter than `min_chars` (see `text_size`), a section or a piece whose id
    an earlier passage has, and whatever the reader rejected. A text that an earlier passage has is quarantined too, and
    its id becomes an alias. With `fields`, passages carry the payload of their sections; one that no filter can use is
    quarantined, and texts are equal only if their payloads are. `seen`: earlier passages; these
    are added.
    """
    seen = Seen() if seen is None else seen
    cuts = _cut_by_chars(sections, max_chars, min_chars, traditional, fields)
    for item in _Divider(limit, min_chars, traditional).divide_all(cuts) if limit else cuts:
        if isinstance(item, Rejected):
            yield item
            continue
        for number, passage in enumerate(item.passages):
            found = _compare(passage, item.section, seen)
            yield found
            if number == 0 and _code(found) == _SAME_ID:
                break  # the other pieces would be taken for pieces of the section that has the id


def _cut_by_chars(
    sections: Iterable[Section | Rejected],
    max_chars: int,
    min_chars: int,
    traditional: Traditional,
    fields: PayloadFields | None,
) -> Iterator[_Cut | Rejected]:
    for section in sections:
        if isinstance(section, Rejected):
            yield section
            continue
        text = clean(section.whole[section.start : section.end]).strip()
        if text_size(text) < min_chars:
            yield _reject_short(section, text, min_chars)
            continue
        payload = _encode_payload(section, fields) if fields else None
        if isinstance(payload, Rejected):
            yield payload
            continue
        places = cut(section.whole, section.start, section.end, max_chars, min_chars)
        yield _Cut(section, [_passage(section, n, place, traditional, payload) for n, place in enumerate(places, 1)])


class _Divider:
    """Cuts passages beyond the token limit once more. No other passage changes, nor does its id."""

    def __init__(self, limit: TokenLimit, min_chars: int, traditional: Traditional) -> None:
        self._limit, self._min_chars = limit, min_chars
        self._traditional: Traditional = traditional

    def divide_all(self, cuts: Iterable[_Cut | Rejected]) -> Iterator[_Cut | Rejected]:
        for batch in in_batches(cuts):  # a tokenizer is quick on many texts at a time
            every = list(chain.from_iterable(item.passages for item in batch if isinstance(item, _Cut)))
            excess = iter(self._limit.excess(every))
            for item in batch:
                if isinstance(item, Rejected):
                    yield item
                    continue
                passages: list[Passage] = []
                for passage, times in zip(item.passages, excess, strict=False):
                    passages += self._divide(item, passage, times) if times else [passage]
                yield _Cut(item.section, passages)

    def _divide(self, cut_section: _Cut, passage: Passage, excess: float) -> list[Passage]:
        """Return a passage as parts that meet the limit. The first keeps its id, the others are `id~2`, `id~3` …"""
        section, pieces = cut_section.section, cut_section.passages
        length = passage.end - passage.start
        name = passage.passage_id
        if len(pieces) > 1 and name == section.section_id and not section.numbered:
            name += "~1"  # `id~2` is the second piece already
        for most, max_chars in attempts(excess, length):
            places = cut(section.whole, passage.start, passage.end, max_chars, self._min_chars)
            longest = max(high - low for low, high in places)
            # most attempts are refused without counting: tokens are spread over the characters
            if len(places) > most or excess * longest / length > _SURELY_TOO_LONG:
                continue
            ids = [passage.passage_id, *(f"{name}~{number}" for number in range(2, len(places) + 1))]
            parts = [
                _part(section.whole, passage, part_id, place, self._traditional)
                for part_id, place in zip(ids, places, strict=True)
            ]
            if not any(self._limit.excess(parts)):
                self._limit.parts += len(parts) - 1
                return parts
        return [passage]


def _part(whole: str, passage: Passage, part_id: str, place: tuple[int, int], traditional: Traditional) -> Passage:
    start, end = place
    text = passage_text(whole, start, end, traditional)
    content = _content(passage.heading, text)
    return msgspec.structs.replace(
        passage,
        passage_id=part_id,
        text=text,
        content=content,
        content_sha256=text_digest(content),
        start=start,
        end=end,
        language=language_of(text),
    )


def _compare(passage: Passage, section: Section, seen: Seen) -> Passage | Twin | Rejected:
    """Return a passage, or its rejection where an earlier one has its id or its text."""
    name = passage.passage_id
    used, kept = seen.find(passage)
    if used is None and kept is None:
        seen.add(passage, name)
        return passage

    def reject(code: str, reason: str, fix: str) -> Rejected:
        return set_aside(code, section.file, section.line, reason, fix, path=name, raw=passage.text)

    if used is None:
        seen.add(passage, kept or name)
        reason = f"{kept} has the same text; {name} becomes an alias of it."
        return Twin(Alias(name, passage.document_id, kept or name), reject(SAME_TEXT, reason, _FIX_TWIN))
    if kept is not None and seen.kept(name) == kept:
        return reject(SAME_TEXT, f"{used} has the same id and the same text.", _FIX_TWIN)
    if name != section.document_id:
        return reject(_SAME_ID, f"the id {name} is already used in {used}.", "rename the file or the heading")
    reason = f"the id {name} is already used in {used}, for another text: judgements that name it are not used."
    return Twin(Alias(name, name, ""), reject(_SAME_ID, reason, _FIX_ID))


def _code(item: Passage | Twin | Rejected) -> str:
    """Return the code that an item is quarantined with; empty for a passage."""
    if isinstance(item, Passage):
        return ""
    return item.rejected.code if isinstance(item, Twin) else item.code


def _encode_payload(section: Section, fields: PayloadFields) -> str | Rejected:
    try:
        return fields.encode(section.payload)
    except ValueError as error:
        fix = "write one type of value, or leave the field out of corpus.payload"
        return set_aside("FT-CORPUS-013", section.file, section.line, str(error), fix, path=section.section_id)


def _reject_short(section: Section, text: str, min_chars: int) -> Rejected:
    code, reason = "FT-CORPUS-003", f"the section counts {text_size(text)} characters, fewer than {min_chars}."
    if not text:
        code, reason = "FT-CORPUS-002", "the section has no text."
    fix = "write the section, delete it, or lower corpus.min_chars"
    return set_aside(code, section.file, section.line, reason, fix, path=section.section_id, raw=text)


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


def _passage(
    section: Section, number: int, place: tuple[int, int], traditional: Traditional, payload: str | None
) -> Passage:
    start, end = place
    text = passage_text(section.whole, start, end, traditional)
    heading = " > ".join(section.headings)
    if not _is_japanese(section.whole):
        heading = simplify(heading, traditional)
    content = _content(heading, text)
    if section.numbered:
        passage_id = f"{section.document_id}#{number}"
    else:
        passage_id = section.section_id if number == 1 else f"{section.section_id}~{number}"
    passage = Passage(
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
    return passage if payload is None else PassageWithPayload(**msgspec.structs.asdict(passage), payload=payload)


def _content(heading: str, text: str) -> str:
    return f"{heading}\n{text}" if heading else text


def passage_text(whole: str, start: int, end: int, traditional: Traditional = "keep") -> str:
    """Return the text of a passage: its part of the document, cleaned, and simplified unless it is Japanese."""
    text = clean(whole[start:end]).strip()
    return text if traditional == "keep" or _is_japanese(whole) else simplify(text, traditional)


@lru_cache(maxsize=4)
def _is_japanese(whole: str) -> bool:
    return language_of(whole) == "ja"
