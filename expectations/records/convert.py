"""Any file that is read here becomes canonical records of one format; what does not goes to a quarantine file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import msgspec

from expectations.codes import CODES
from expectations.formats.bridges import find_bridge
from expectations.formats.dialect import DEFAULT_POLICY, Kind, Policy, content_id
from expectations.formats.recognise import recognise_rows, unknown
from expectations.formats.retrieval import QRELS_HEADER
from expectations.formats.schemas import RECORDS
from expectations.formats.versions import VERSIONS
from expectations.reading import FILE_CODES, Rejected
from expectations.records.duplicates import Duplicates
from expectations.records.read import OpenedFile, Record, convert_rows, in_batches
from expectations.verify import check_format, opens_as_document, read_sections
from expectations.violations import Refused, Violation

BEIR = "beir"
"""What `retrieval_pair` rows can be converted to besides the formats: the folder that the retrieval side reads."""


class Writer(Protocol):
    """Takes records a few at a time; a context that closes the file."""

    def extend(self, rows: Iterable[Any], /) -> None: ...


OpenWriter = Callable[[Path, str], AbstractContextManager[Writer]]
"""(path, format) -> a writer of that format's records."""


class Conversion(msgspec.Struct, kw_only=True):
    """What became of one file."""

    file: str
    format: str
    """What it was read as."""
    dialect: str
    to: str
    version: int
    """Of the format that was written."""
    out: str
    quarantine: str
    """The file of the rows that did not become one; empty when all did."""
    written: int
    quarantined: int
    counts: dict[str, int]
    """Quarantined rows by code."""


class BeirWriter:
    """A folder as BEIR lays it out, of `retrieval_pair` records.

    Every text stands once in corpus.jsonl, named by what it says; qrels/all.tsv has 1 for a positive and 0 for a
    negative. What BEIR has no place for is left out: a row's own prompt, its teacher's scores, and whether its texts
    may be negatives of other queries.
    """

    def __init__(self, folder: Path, _format: str) -> None:
        (folder / "qrels").mkdir(parents=True)
        self._corpus = (folder / "corpus.jsonl").open("wb")
        self._queries = (folder / "queries.jsonl").open("wb")
        self._qrels = (folder / "qrels/all.tsv").open("w", encoding="utf-8")
        self._qrels.write("\t".join(QRELS_HEADER) + "\n")
        self._written: set[str] = set()

    def extend(self, rows: Iterable[Any], /) -> None:
        for row in rows:
            self._add(row)

    def _add(self, row: Any) -> None:
        self._queries.write(msgspec.json.encode({"_id": row.record_id, "text": row.query}) + b"\n")
        for texts, score in ((row.positives, 1), (row.negatives, 0)):
            for text in dict.fromkeys(texts):
                name = content_id("passage", text)
                self._qrels.write(f"{row.record_id}\t{name}\t{score}\n")
                if name not in self._written:
                    self._written.add(name)
                    self._corpus.write(msgspec.json.encode({"_id": name, "title": "", "text": text}) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._corpus, self._queries, self._qrels):
            stream.close()


class JsonlWriter:
    """Canonical JSONL: one record a line, each with its `format_version`."""

    def __init__(self, path: Path, format: str) -> None:
        self._stream = path.open("wb")
        self._head = b'{"format_version":%d,' % VERSIONS[format]

    def extend(self, rows: Iterable[Record], /) -> None:
        self._stream.writelines(self._head + msgspec.json.encode(row)[1:] + b"\n" for row in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def convert_file(
    path: Path,
    to: str,
    out: Path,
    *,
    quarantine: Path,
    format: str | None = None,
    policy: Policy = DEFAULT_POLICY,
    force: bool = False,
    open_writer: OpenWriter = JsonlWriter,
) -> Conversion:
    """Writes the records of `path` to `out` as format `to`, and what is rejected to `quarantine`.

    Both are staged beside their place and renamed when they are whole. `format` says what `path` is, where it is not to
    be recognised. `to` may also be `beir`, a folder, for what becomes `retrieval_pair`. Refused, with nothing written:
    a file that cannot be read or recognised, a format that cannot become `to`. FileExistsError for files that exist,
    unless `force`.
    """
    if to not in (*RECORDS, BEIR):
        raise _refused("FT-DIALECT-003", path, f"the format `{to}` is none of {', '.join((*RECORDS, BEIR))}")
    check_format(format, str(path))
    _refuse_overwriting(path, out, quarantine, force=force)
    kind, opener = ("retrieval_pair", BeirWriter) if to == BEIR else (to, open_writer)
    read_as, records = _open(path, kind, format, policy)
    counts: dict[str, int] = {}
    written = 0
    staged, staged_quarantine = (place.with_name(f".{place.name}.{os.getpid()}.part") for place in (out, quarantine))
    for place in (out, quarantine):
        place.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for place in (staged, staged_quarantine):
            stack.callback(_remove, place)
        with opener(staged, kind) as writer, staged_quarantine.open("wb") as rejects:
            for batch in in_batches(Duplicates().sift(records)):
                clean = [record for record in batch if not isinstance(record, Rejected)]
                writer.extend(clean)
                written += len(clean)
                for record in batch:
                    if isinstance(record, Rejected):
                        if record.code in FILE_CODES:
                            raise _refused(record.code, path, record.reason)
                        counts[record.code] = counts.get(record.code, 0) + 1
                        rejects.write(msgspec.json.encode(record) + b"\n")
        if counts:
            staged_quarantine.replace(quarantine)
        else:
            quarantine.unlink(missing_ok=True)  # of an earlier run, with --force: its rows are fixed
        staged.replace(out)
    return Conversion(
        file=str(path),
        format=read_as[0],
        dialect=read_as[1],
        to=to,
        version=VERSIONS[kind],
        out=str(out),
        quarantine=str(quarantine) if counts else "",
        written=written,
        quarantined=sum(counts.values()),
        counts=dict(sorted(counts.items())),
    )


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)


def becomes(kind: str) -> list[str]:
    """The formats that a file of this format can be converted to, its own first."""
    return [kind, *(to for to in RECORDS if to != kind and find_bridge(kind, to))]


def _open(
    path: Path, to: str, format: str | None, policy: Policy
) -> tuple[tuple[str, str], Iterator[Record | Rejected]]:
    """(format, dialect) of a file, and its records as `to`, not yet read. Refused when there is no way."""
    if opens_as_document(path, format):
        if to != "passage":
            raise _no_way(path, "passage", to)
        return ("passage", path.suffix[1:].lower()), read_sections(path)
    opened = OpenedFile(path)
    read = opened.read
    broken = next((row for row in opened.first if isinstance(row, Rejected) and row.code in FILE_CODES), None)
    if broken:
        raise _refused(broken.code, path, broken.reason)
    if not opened.first:
        raise _refused("FT-ROW-012", path, "the file has no rows")
    found = recognise_rows(read, name=path.name, kinds=[format] if format else [])
    if found is None:
        raise Refused(str(path), [unknown(str(path), read, [format] if format else [])])
    if to not in becomes(found.dialect.kind) and not format:
        # rows that are as much of another format (`_id`, `text`) are what the caller says they are
        sources = [kind for kind in RECORDS if to in becomes(kind)]
        other = recognise_rows(read, name=path.name, kinds=sources)
        if other and all(other.dialect.fit(row.value)[0] == 1.0 for row in read):
            found = other
    kind = found.dialect.kind
    if to not in becomes(kind):
        raise _no_way(path, kind, to)
    records = convert_rows(path, opened.rows(found.dialect), found.dialect, policy, kind=cast("Kind", to))
    return (kind, found.dialect.name), records


def _no_way(path: Path, kind: str, to: str) -> Refused:
    return _refused("FT-DIALECT-003", path, f"it is `{kind}`, which becomes {', '.join(becomes(kind))}, not `{to}`")


def _refuse_overwriting(path: Path, out: Path, quarantine: Path, *, force: bool) -> None:
    places = [path.resolve(), out.resolve(), quarantine.resolve()]
    if len(set(places)) < len(places):
        raise FileExistsError(f"{out} and {quarantine} must be files of their own, other than {path}")
    for place in (out, quarantine):
        if place.is_dir() or (place.exists() and not force):
            raise FileExistsError(f"{place} exists")


def _refused(code: str, path: Path, message: str) -> Refused:
    return Refused(str(path), [Violation(code=code, where=str(path), message=message, fix=CODES[code].fix)])
