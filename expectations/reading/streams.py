"""Open plain, gzip and zstd files as a stream of bytes; a compressed file is first checked for damage."""
# pyright: basic
# pyarrow has no type information.

from __future__ import annotations

import gzip
import io
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
    b"PK\x03\x04": "a zip archive or an Office file",
    b"%PDF": "a PDF",
    b"7z\xbc\xaf": "7z",
    b"ARROW1": "an Arrow file",
    b"\xd0\xcf\x11\xe0": "an Office file",
}


def packing_of(path: Path) -> Packing:
    """Return the packing of a file, by its first bytes; Unreadable when its name contradicts or it is not supported."""
    with path.open("rb") as stream:
        start = stream.read(8)
    for magic, name in _NOT_READ.items():
        if start.startswith(magic):
            raise Unreadable("FT-ROW-011", f"it is {name}, which is not supported")
    packing: Packing = "plain"
    for magic, candidate in _MAGIC:
        if start.startswith(magic):
            packing = candidate
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES and _SUFFIXES[suffix] != packing:
        raise Unreadable("FT-ROW-008", f"its name ends with {suffix}, but its first bytes are not those of such a file")
    return packing


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
