"""Open plain, gzip and zstd files as a stream of bytes; a compressed file is first checked for damage."""
# pyright: basic
# pyarrow has no type information.

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from expectations.reading.rows import Unreadable

CHUNK = 1 << 18
_MAX_RATIO = 400  # gzip reaches about 1000 on a bomb, zstd 30000; text stays under 50
_RATIO_MATTERS_FROM = 64 << 20  # bytes

Packing = Literal["plain", "gzip", "zstd", "parquet"]
_MAGIC: tuple[tuple[bytes, Packing], ...] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PAR1", "parquet"))
_SUFFIXES: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd", ".parquet": "parquet"}
_NOT_READ = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x05\x06": "an empty zip archive",
    b"%PDF": "a PDF",
    b"7z\xbc\xaf": "7z",
    b"Rar!\x1a": "a RAR archive",
    b"ARROW1": "an Arrow file",
    b"FEA1": "a Feather file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"{\\rtf": "an RTF text",
    b"\xd0\xcf\x11\xe0": "an old Office file (XLS, DOC): save the sheet as CSV",
    b"version https://git-lfs": "a pointer of Git LFS, the data itself was not downloaded: run `git lfs pull`",
}
_IN_ZIP = (
    (b"xl/", "an Excel workbook (XLSX): save the sheet as CSV (UTF-8)"),
    (b"application/vnd.oasis.opendocument.spreadsheet", "an OpenDocument spreadsheet (ODS): save the sheet as CSV"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
    (b"word/", "a Word document (DOCX)"),
    (b"ppt/", "a PowerPoint file (PPTX)"),
    (b"Index/Document.iwa", "an Apple iWork file: save the sheet as CSV"),
    (b".npy", "a NumPy archive"),
)
_ZIP = b"PK\x03\x04"
_ZIP_SEARCHED = 1 << 16  # bytes at the start, which name the first files, and at the end, which list all of them
_MARKUP = re.compile(rb"<(?:[?!/]|[A-Za-z][\w:.-]*[\s/>])")
_WEB_PAGE = re.compile(rb"<!doctype html|<html[\s>]", re.IGNORECASE)


def packing_of(path: Path) -> Packing:
    """Return the packing of a file, by its first bytes; Unreadable when its name contradicts or it is not supported."""
    with path.open("rb") as stream:
        start = stream.read(24)
    if start.startswith(_ZIP):
        raise not_read(_name_zip(path))
    for magic, name in _NOT_READ.items():
        if start.startswith(magic):
            raise not_read(name)
    packing: Packing = "plain"
    for magic, candidate in _MAGIC:
        if start.startswith(magic):
            packing = candidate
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES and _SUFFIXES[suffix] != packing:
        raise Unreadable("FT-ROW-008", f"its name ends with {suffix}, but its first bytes are not those of such a file")
    return packing


def not_read(kind: str) -> Unreadable:
    """Return the refusal of a kind of file; `kind` may say behind a colon what to do instead."""
    name, _, advice = kind.partition(": ")
    return Unreadable("FT-ROW-011", f"it is {name}, which is not supported" + (f"; {advice}" if advice else ""))


def _name_zip(path: Path) -> str:
    """Return the kind of a file with a zip archive's first bytes, by the names of the files in it."""
    with path.open("rb") as stream:
        part = stream.read(_ZIP_SEARCHED)
        stream.seek(max(0, path.stat().st_size - _ZIP_SEARCHED))
        part += stream.read(_ZIP_SEARCHED)
    return next((kind for sign, kind in _IN_ZIP if sign in part), "a zip archive: unpack it first")


def markup_of(start: bytes) -> str:
    """Return the name of a file of tags by its first bytes, which no file of rows begins with; empty for another."""
    if not _MARKUP.match(start):
        return ""
    if _WEB_PAGE.search(start[:1024]):
        return "a web page (HTML): perhaps an error page, or a page for signing in, was downloaded instead of the file"
    if b"schemas-microsoft-com:office:spreadsheet" in start[:4096]:
        return "a spreadsheet in XML: save the sheet as CSV"
    return "XML" if start.startswith(b"<?xml") or b"</" in start else "a file of tags (XML or HTML)"


def open_stream(path: Path, packing: Packing) -> BinaryIO:
    """Return the unpacked bytes, buffered. A compressed file is first read to its end: only then is all damage found.

    Unreadable: FT-ROW-008 for damage, FT-ROW-010 for a file that unpacks to too many bytes.
    """
    if packing == "plain":
        return path.open("rb", buffering=CHUNK)
    _refuse_damage(path, packing)
    return io.BufferedReader(cast(Any, _unpack(path, packing)), CHUNK)


def _unpack(path: Path, packing: Packing) -> Any:
    if packing == "gzip":
        return gzip.GzipFile(path)
    pa = require_arrow("a zstd file")
    return _ZstdStream(pa.input_stream(str(path), compression="zstd"))


def require_arrow(what: str) -> Any:
    """Return pyarrow; Unreadable, with the command to install it, where it is missing."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise Unreadable("FT-ROW-011", f'{what} is read with pyarrow: pip install "ft-assets[parquet]"') from error
    return pa


class _ZstdStream(io.RawIOBase):
    """pyarrow's stream as one of Python's. python-zstandard is not used: it reads a truncated file without an error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _refuse_damage(path: Path, packing: Packing) -> None:
    packed, unpacked = path.stat().st_size, 0
    try:
        with _unpack(path, packing) as stream:
            while block := stream.read(CHUNK):
                unpacked += len(block)
                if unpacked > max(_RATIO_MATTERS_FROM, packed * _MAX_RATIO):
                    raise Unreadable("FT-ROW-010", f"{packed} bytes unpack to more than {unpacked}")
    except EOFError as error:
        raise Unreadable("FT-ROW-008", f"it ends too early, after {unpacked} unpacked bytes") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable("FT-ROW-008", f"after {unpacked} unpacked bytes: {error}") from error
    except OSError as error:  # pyarrow raises it for damaged zstd; a failing disk raises the same
        raise Unreadable("FT-ROW-008", f"after {unpacked} unpacked bytes: {error}") from error
