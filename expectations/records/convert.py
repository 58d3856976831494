"""Convert any file that is read here to canonical records of one format; rows that fail go to a quarantine file."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, cast

import msgspec

from expectations.formats.build import content_id
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.formats.dialect import DEFAULT_POLICY, ReadPolicy, Record
from expectations.formats.pairs import RETRIEVAL_PAIR, RetrievalPairRecord, not_trained_on
from expectations.formats.passage import PASSAGE
from expectations.formats.recognise import Recognition, unknown
from expectations.formats.registry import FORMATS, targets_of
from expectations.formats.retrieval import QRELS_HEADER
from expectations.reading import FILE_CODES, Rejected
from expectations.records.duplicates import Duplicates
from expectations.records.read import OpenedFile, convert_rows, in_batches
from expectations.verify import check_format, opens_as_document, read_sections
from expectations.violations import Refused, violation

BEIR = "beir"
"""The folder that the retrieval stage reads; only `retrieval_pair` rows can be converted to it."""


class Writer(Protocol):
    """Writes records a few at a time; the end of the context closes the file."""

    def extend(self, rows: Iterable[Record], /) -> None: ...


OpenWriter = Callable[[Path, str], AbstractContextManager[Writer]]
"""(path, format) -> a writer of that format's records."""


class Conversion(msgspec.Struct, kw_only=True):
    """The result of the conversion of one file."""

    file: str
    format: str
    """The format that it was read as."""
    dialect: str
    to: str
    version: int
    """The version of the format that was written."""
    out: str
    quarantine: str
    """The file of the rows that became no record; empty when all did."""
    written: int
    quarantined: int
    counts: dict[str, int]
    """Quarantined rows by code."""
    left_out: dict[str, int] = {}
    """Fields that the written files have no place for, each with the number of rows that have them."""


class BeirWriter:
    """Writes `retrieval_pair` records as a folder in BEIR's layout.

    Every text is once in corpus.jsonl, with an id made of its content; qrels/all.tsv has 1 for a positive and 0 for a
    negative. BEIR has no field for a row's own prompt, its group, its teacher's scores, and whether its texts may be
    negatives of other queries: these are left out, and counted.
    """

    def __init__(self, folder: Path, _format: str) -> None:
        (folder / "qrels").mkdir(parents=True)
        self._corpus = (folder / "corpus.jsonl").open("wb")
        self._queries = (folder / "queries.jsonl").open("wb")
        self._qrels = (folder / "qrels/all.tsv").open("w", encoding="utf-8")
        self._qrels.write("\t".join(QRELS_HEADER) + "\n")
        self._written: set[str] = set()
        self.left_out: Counter[str] = Counter()

    def extend(self, rows: Iterable[Record], /) -> None:
        for row in rows:
            pair = cast(RetrievalPairRecord, row)
            self._add(pair)
            self.left_out.update(not_trained_on(pair))

    def _add(self, row: RetrievalPairRecord) -> None:
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
        self._start = b'{"format_version":%d,' % FORMATS[format].version

    def extend(self, rows: Iterable[Record], /) -> None:
        self._stream.writelines(self._start + msgspec.json.encode(row)[1:] + b"\n" for row in rows)

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
    policy: ReadPolicy = DEFAULT_POLICY,
    mapping: ColumnMap = NO_MAP,
    force: bool = False,
    open_writer: OpenWriter = JsonlWriter,
) -> Conversion:
    """Write the records of `path` to `out` as format `to`, and the rejected rows to `quarantine`.

    Both are written to temporary files next to their place and renamed when they are complete. `format` names the
    format of `path` where it should not be recognised, `mapping` its names for keys and roles. `to` may also be `beir`,
    a folder, for files that become `retrieval_pair`. Refused, with nothing written: a file that cannot be read or
    recognised, a format that cannot become `to`. FileExistsError for files that exist, unless `force`.
    """
    if to not in (*FORMATS, BEIR):
        raise _refuse("FT-DIALECT-003", path, f"the format `{to}` is none of {', '.join((*FORMATS, BEIR))}")
    check_format(format, str(path))
    _refuse_overwriting(path, out, quarantine, force=force)
    target, opener = (RETRIEVAL_PAIR.name, BeirWriter) if to == BEIR else (to, open_writer)
    (read_format, dialect), records = _open(path, target, format, policy, mapping)
    staged, staged_quarantine = (file.with_name(f".{file.name}.{os.getpid()}.part") for file in (out, quarantine))
    for file in (out, quarantine):
        file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for file in (staged, staged_quarantine):
            stack.callback(_remove, file)
        with opener(staged, target) as writer, staged_quarantine.open("wb") as rejects:
            written, counts = _write(path, records, writer, rejects)
        left_out = writer.left_out if isinstance(writer, BeirWriter) else Counter[str]()
        if counts:
            staged_quarantine.replace(quarantine)
        else:
            quarantine.unlink(missing_ok=True)  # of an earlier run, with --force: its rows are fixed
        staged.replace(out)
    return Conversion(
        file=str(path),
        format=read_format,
        dialect=dialect,
        to=to,
        version=FORMATS[target].version,
        out=str(out),
        quarantine=str(quarantine) if counts else "",
        written=written,
        quarantined=sum(counts.values()),
        counts=dict(sorted(counts.items())),
        left_out=dict(left_out),
    )


def _write(
    path: Path, records: Iterable[Record | Rejected], writer: Writer, rejects: BinaryIO
) -> tuple[int, dict[str, int]]:
    """Write all records, repetitions apart; return how many were written, and the rejected rows by code."""
    written = 0
    counts: dict[str, int] = {}
    for batch in in_batches(Duplicates().sift(records)):
        clean = [record for record in batch if not isinstance(record, Rejected)]
        writer.extend(clean)
        written += len(clean)
        for record in batch:
            if isinstance(record, Rejected):
                if record.code in FILE_CODES:
                    raise _refuse(record.code, path, record.reason)
                counts[record.code] = counts.get(record.code, 0) + 1
                rejects.write(msgspec.json.encode(record) + b"\n")
    return written, counts


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _open(
    path: Path, to: str, format: str | None, policy: ReadPolicy, mapping: ColumnMap
) -> tuple[tuple[str, str], Iterator[Record | Rejected]]:
    """Return (format, dialect) of a file, and its records as `to`, not yet read. Refused when it cannot become `to`."""
    if opens_as_document(path, format) and not mapping.columns:
        _refuse_target(path, PASSAGE.name, to)
        return (PASSAGE.name, path.suffix[1:].lower()), read_sections(path)
    opened = OpenedFile(path, mapping=mapping)
    for row in opened.first:
        if isinstance(row, Rejected) and row.code in FILE_CODES:
            raise _refuse(row.code, path, row.reason)
    if not opened.first:
        raise _refuse("FT-ROW-012", path, "the file has no rows")
    dialect = _recognise(path, opened, to, format).dialect
    name = dialect.format.name
    _refuse_target(path, name, to)
    records = convert_rows(path, opened.rows(dialect), dialect, policy, to=to)
    return (name, dialect.name), records


def _recognise(path: Path, opened: OpenedFile, to: str, format: str | None) -> Recognition:
    """Return the dialect of a file. Rows that fit another dialect fully count as that one, if only it can become `to`.

    Rows with `_id` and `text`, for example, may be passages or queries: the caller's target decides.
    """
    formats = [format] if format else []
    recognition = opened.recognise(formats)
    if recognition is None:
        raise Refused(str(path), [unknown(str(path), opened.read, formats)])
    if format or opened.mapping.columns or to in targets_of(recognition.dialect.format.name):
        return recognition
    sources = [name for name in FORMATS if to in targets_of(name)]
    other = opened.recognise(sources)
    return other if other and all(other.dialect.fit(row.value)[0] == 1.0 for row in opened.read) else recognition


def _refuse_target(path: Path, format: str, to: str) -> None:
    """Refuse a file of a format that cannot become `to` (FT-DIALECT-003)."""
    if to not in targets_of(format):
        targets = ", ".join(targets_of(format))
        raise _refuse("FT-DIALECT-003", path, f"the file is `{format}`, which becomes {targets}, not `{to}`")


def _refuse_overwriting(path: Path, out: Path, quarantine: Path, *, force: bool) -> None:
    """Refuse outputs that are the input or each other, or exist already without `force` (FileExistsError)."""
    files = [path.resolve(), out.resolve(), quarantine.resolve()]
    if len(set(files)) < len(files):
        raise FileExistsError(f"{out} and {quarantine} must be files of their own, other than {path}")
    for file in (out, quarantine):
        if file.is_dir() or (file.exists() and not force):
            raise FileExistsError(f"{file} exists")


def _refuse(code: str, path: Path, message: str) -> Refused:
    return Refused(str(path), [violation(code, where=str(path), message=message)])
