"""Sections of documents: Markdown and HTML by headings, plain text and rows whole. Offsets count characters."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import msgspec

from expectations.canonical import file_digest
from expectations.codes import CODES
from expectations.formats.build import find_wrong_characters
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.formats.passage import PassageRecord
from expectations.reading import RawRow, Rejected
from expectations.reading.columns import is_dataset_folder
from expectations.reading.decode import explain_encoding
from expectations.reading.encodings import name_wide_encoding
from expectations.reading.rows import escape, show_name
from expectations.records.quarantine import set_aside
from expectations.records.read import Record, read_records
from expectations.text.cleaning import clean
from expectations.text.webpages import Heading, read_page, says_utf8

_HEADING = re.compile(r"[ ]{0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})")
_NOT_SLUG = re.compile(r"[^\w]+")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?P<yaml>.*?)\n---[ \t]*\r?\n", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A part of a document below one heading. `whole[start:end]` is its text."""

    document_id: str
    section_id: str
    """The passage id, if the section is not cut."""
    headings: tuple[str, ...]
    file: str
    source: str
    """The file; `file:line` for a row of a JSONL file."""
    line: int
    whole: str
    start: int
    end: int
    numbered: bool = False
    """True if its pieces are `#1`, `#2` … of the document, not `~2` … of the section."""
    payload: Mapping[str, object] = field(default_factory=dict[str, object])
    """The extra fields that were asked for, as the row or the front matter has them."""


Read = Callable[[Path, str, Sequence[str]], Iterator["Section | Rejected"]]
"""(path, name of the file, names of extra fields) -> its sections."""


def is_document(path: Path) -> bool:
    """Return whether a file is text to be cut (by its suffix), and not a table of rows."""
    return path.suffix.lower() in DOCUMENTS


def read_document(
    path: Path, name: str, payload: Sequence[str] = (), mapping: ColumnMap = NO_MAP
) -> Iterator[Section | Rejected]:
    """Yield the sections of one file, read by its suffix; `name` is the file's name in the sources of passages.

    `payload`: fields of rows and of front matter that the sections carry; a document that lacks one has null.
    `mapping`: the names of the columns, where the file has rows. A folder that the `datasets` library saved is read as
    rows. Raises Refused (FT-CORPUS-007) for HTML without its library.
    """
    reader = _read_passages if is_dataset_folder(path) else READERS.get(path.suffix.lower())
    if reader is _read_passages:
        yield from _read_passages(path, name, payload, mapping)  # rows were checked when they were read
        return
    if reader is not None:
        for section in reader(path, name, payload):
            yield section if isinstance(section, Rejected) else _checked(section, reader is not _read_html)
        return
    known = ", ".join(sorted(READERS))
    yield set_aside(
        "FT-CORPUS-006",
        name,
        0,
        f"{path.suffix or 'no suffix'} is not a document format that is read here ({known}).",
        CODES["FT-CORPUS-006"].fix,
        sha256=file_digest(path),
    )


def section_slug(heading: str) -> str:
    """Return a heading in the form used in passage ids: casefolded, words joined by `-`, Chinese characters kept."""
    return _NOT_SLUG.sub("-", clean(heading).casefold()).strip("-") or "section"


def _document_id(path: Path) -> str:
    """Return the name of a file in the form that judgements are read in: NFC, which a file system may not keep."""
    return clean(path.stem).strip()


def _read_markdown(path: Path, name: str, payload: Sequence[str]) -> Iterator[Section | Rejected]:
    whole = _decode(path, name)
    if isinstance(whole, Rejected):
        yield whole
        return
    values = _front_matter(whole) if payload else None
    if isinstance(values, str):
        yield set_aside("FT-CORPUS-013", name, 1, f"the front matter cannot be read: {values}", "correct its YAML")
        return
    for section in _by_heading(_document_id(path), name, whole, list(_headings(whole)), body=_body_start(whole)):
        yield replace(section, payload=pick_fields(values, payload)) if payload else section


def _read_html(path: Path, name: str, payload: Sequence[str]) -> Iterator[Section | Rejected]:
    html = _decode(path, name)
    if isinstance(html, Rejected):
        yield html
        return
    page = read_page(html)
    if not says_utf8(page):
        yield set_aside(
            "FT-CORPUS-001",
            name,
            1,
            f"The page states the charset {page.charset[:40]}, not UTF-8.",
            'Save the page as UTF-8 and write <meta charset="utf-8">.',
            sha256=file_digest(path),
        )
        return
    title = "" if any(heading.level == 1 for heading in page.headings) else page.title
    for section in _by_heading(_document_id(path), name, page.text, page.headings, title=title):
        yield replace(section, payload=dict.fromkeys(payload))


def _by_heading(
    stem: str, name: str, whole: str, headings: Sequence[Heading], *, body: int = 0, title: str = ""
) -> Iterator[Section]:
    """Yield the text from `body` to the first heading, and below each heading. A `title` is above all of them."""
    above: dict[int, str] = {0: title} if title else {}  # level -> open heading
    taken: set[str] = set()
    opened = [Heading(body, body, 0, "", 0), *headings]
    ends = [*(heading.start for heading in headings), len(whole)]
    for n, (heading, end) in enumerate(zip(opened, ends, strict=True)):
        level, start = heading.level, heading.end
        if level:
            above = {k: v for k, v in above.items() if k < level} | {level: heading.text}
        path_of_headings = tuple(above[k] for k in sorted(above))
        below = level and n + 1 < len(opened) and opened[n + 1].level > level
        if not whole[start:end].strip() and (below or not level):
            continue  # only sub-headings below it, or nothing before the first heading
        slug = section_slug(heading.text) if level else "1"
        if slug in taken and level > 2 and len(path_of_headings) > 1:  # for example `Examples` below two headings
            slug = f"{section_slug(path_of_headings[-2])}/{slug}"  # with the name of the heading above it
        taken.add(slug)
        yield Section(stem, f"{stem}#{slug}", path_of_headings, name, name, heading.line or 1, whole, start, end)


def _read_text(path: Path, name: str, payload: Sequence[str]) -> Iterator[Section | Rejected]:
    whole = _decode(path, name)
    if isinstance(whole, Rejected):
        yield whole
        return
    start, stem = _body_start(whole), _document_id(path)
    fields = dict.fromkeys(payload)
    yield Section(stem, f"{stem}#1", (), name, name, 1, whole, start, len(whole), numbered=True, payload=fields)


def _checked(section: Section, is_of_file: bool) -> Section | Rejected:
    """Return a section, or its rejection for characters that no text may hold (FT-TEXT-001, 006, 008).

    `is_of_file`: `whole` is the text of the file, so that the line can be found.
    """
    text = section.whole[section.start : section.end]
    wrong = {part: fault for part in (*section.headings, text) if (fault := find_wrong_characters(part))}
    if not wrong:
        return section
    part, (code, reason) = next(iter(wrong.items()))
    line = section.line
    if part == text and is_of_file:
        before = next(n for n, line in enumerate(text.split("\n")) if find_wrong_characters(line))
        line = section.whole.count("\n", 0, section.start) + 1 + before
    return set_aside(code, section.file, line, reason, CODES[code].fix, path=section.section_id, raw=escape(part))


def _read_passages(
    path: Path, name: str, payload: Sequence[str], mapping: ColumnMap = NO_MAP
) -> Iterator[Section | Rejected]:
    raw = deque[RawRow | Rejected]()
    for row in read_records(path, "passage", mapping=mapping, seen=raw.append if payload else None):
        values = _raw_value(raw, row) if payload else None
        if isinstance(row, Rejected):
            yield msgspec.structs.replace(row, file=name)
        elif isinstance(row, PassageRecord):
            headings = (row.title,) if row.title else ()
            doc, source = row.document_id, f"{name}:{row.line_no}"
            fields = pick_fields(values, payload)
            yield Section(doc, doc, headings, name, source, row.line_no, row.text, 0, len(row.text), payload=fields)


def _raw_value(raw: deque[RawRow | Rejected], row: Record | Rejected) -> object:
    """Return the value that a record was made of: the first row that is left, after the header of a table."""
    line = row.line if isinstance(row, Rejected) else row.line_no
    while raw[0].line != line:
        raw.popleft()
    read = raw.popleft()
    return read.value if isinstance(read, RawRow) else None


def pick_fields(values: object, names: Sequence[str]) -> dict[str, object]:
    """Return these fields of a row, at its top or inside its `metadata`; null for one that it lacks.

    >>> pick_fields({"url": "a", "metadata": {"tenant": "b"}}, ["url", "tenant", "year"])
    {'url': 'a', 'tenant': 'b', 'year': None}
    """
    row = cast("dict[str, object]", values) if isinstance(values, dict) else {}
    metadata = row.get("metadata")
    inner = cast("dict[str, object]", metadata) if isinstance(metadata, dict) else {}
    return {name: inner.get(name) if row.get(name) is None else row[name] for name in names}


DOCUMENTS: dict[str, Read] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".txt": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
}
READERS: dict[str, Read] = DOCUMENTS | dict.fromkeys(
    (".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst", ".parquet"), _read_passages
)


def _headings(whole: str) -> Iterator[Heading]:
    """Yield every ATX heading outside code fences, with its line."""
    position = _body_start(whole)
    number = whole.count("\n", 0, position)
    fence = ""
    for line in whole[position:].splitlines(keepends=True):
        number += 1
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""
        elif not fence and (heading := _HEADING.match(line.rstrip("\r\n"))):
            yield Heading(position, position + len(line), len(heading[1]), clean(heading[2]), number)
        position += len(line)


def _body_start(whole: str) -> int:
    """Return the start of a document after a byte order mark and front matter."""
    start = 1 if whole.startswith("\ufeff") else 0
    front = _FRONT_MATTER.match(whole, start)
    return front.end() if front else start


def _front_matter(whole: str) -> dict[str, object] | str | None:
    """Return the values of a document's front matter: None without one, a text with the reason if it is no YAML."""
    front = _FRONT_MATTER.match(whole, 1 if whole.startswith("\ufeff") else 0)
    if front is None:
        return None
    from expectations.yaml_text import YAMLError, load_yaml

    try:
        values = load_yaml(front["yaml"])
    except YAMLError as error:
        return " ".join(str(error).split())
    return cast("dict[str, object]", values) if isinstance(values, dict) else None


def _decode(path: Path, name: str) -> str | Rejected:
    data = path.read_bytes()
    wide = name_wide_encoding(data)
    try:
        if wide is None:
            return data.decode("utf-8")
        line, reason = 1, f"The document is {wide}: `iconv -f {wide} -t UTF-8 {show_name(path)} > NEW`."
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"Byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8; {explain_encoding(data)}."
    return set_aside("FT-CORPUS-001", name, line, reason, CODES["FT-CORPUS-001"].fix, sha256=file_digest(path))
