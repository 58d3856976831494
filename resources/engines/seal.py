"""The seal of an embedded engine's files: a bit that flips on the disk is named, and never a changed search result.

Neither engine has a checksum on vectors. The seal is written when the files are closed, removed before they may be
written again, and compared before they are read. Files that were not closed (kill -9) have none: the engine recovers
them from its own log, and they are sealed when they are closed.

A seal counts only for the files that it was written for. An earlier product version changes files and leaves the seal:
then a file is newer than it, which a bit that flips on the disk never is. Another version of the engine's library may
rewrite files when it opens them. In both cases the seal is removed, and written again when the files are closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import msgspec

from expectations.violations import Refused, violation
from resources.files import data_extents, file_stamp, write_json
from resources.memo import Memo

MOST = 2**30
"""Bytes on the disk up to which the files are compared when they are opened: about a second. Beyond it only the gate
`release_serves` compares, point by point."""
_BLOCK = 2**20
_ZEROS = bytes(_BLOCK)
_digests = Memo[str](size=4096)
_log = logging.getLogger(__name__)


class _Seal(msgspec.Struct, frozen=True):
    files: dict[str, str]
    digest: str
    library: str = ""
    """Name and version of the engine's library, as `_version` returns them."""


def write_seal(seal: Path, folder: Path, files: Iterable[Path], library: str) -> None:
    """Seal these files below `folder`, written by this library. Where that fails (a full disk, a state that cannot be
    written) there is no seal, and a warning. Nor is there one for more than would be compared."""
    try:
        seal.unlink(missing_ok=True)
        there = sorted(files)
        if _size(there) <= MOST:
            found = {path.relative_to(folder).as_posix(): _digest(path) for path in there}
            write_json(seal, msgspec.to_builtins(_Seal(found, _digest_of(found), _version(library))))
    except OSError as error:
        _log.warning("%s is not sealed: %s", folder, error)


def require_sealed(seal: Path, folder: Path, files: Iterable[Path], library: str, fix: str) -> None:
    """Raise Refused (FT-QDR-012) if a file differs from its seal, or is gone: an engine would search without its
    points. Without a seal nothing is compared; nor is a file that only the folder has."""
    try:
        content, written = seal.read_bytes(), seal.stat().st_mtime_ns
    except FileNotFoundError:
        return
    try:
        sealed = msgspec.json.decode(content, type=_Seal)
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise _changed(seal, str(error), "a seal", fix) from error
    found = {path.relative_to(folder).as_posix(): path for path in sorted(files)}
    if sealed.library != _version(library) or any(path.stat().st_mtime_ns > written for path in found.values()):
        drop_seals([seal])
        return
    if _digest_of(sealed.files) != sealed.digest:
        raise _changed(seal, _digest_of(sealed.files), sealed.digest, fix)
    if _size(found.values()) > MOST:
        return
    for name, wanted in sorted(sealed.files.items()):
        there = _digest_once(found[name], wanted) if name in found else "no such file"
        if there != wanted:
            raise _changed(folder / name, there, wanted, fix)


def drop_seals(seals: Iterable[Path]) -> None:
    """Remove seals of files that were changed by a program that does not seal, where the state can be written."""
    for seal in seals:
        with contextlib.suppress(OSError):
            seal.unlink(missing_ok=True)


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_blocks * 512 for path in files)


def _version(library: str) -> str:
    return f"{library} {metadata.version(library)}"


def _changed(path: Path, found: str, expected: str, fix: str) -> Refused:
    refusal = violation("FT-QDR-012", where=str(path), field="sha256", found=found, expected=expected, fix=fix)
    return Refused("opening Qdrant", [refusal])


def _digest_once(path: Path, wanted: str) -> str:
    """Return the digest of a file; one process compares an unchanged file with the same seal once."""
    return _digests.get((path, file_stamp(path), wanted), lambda: _digest(path))


def _digest_of(files: dict[str, str]) -> str:
    return sha256(repr(sorted(files.items())).encode()).hexdigest()


def _digest(path: Path) -> str:
    """Return a sha256 of a file's size and of its blocks that are not all zero: most of a shard's files are holes."""
    digest = sha256(str(path.stat().st_size).encode())
    for at, block in _blocks(path):
        if block != _ZEROS[: len(block)]:
            digest.update(f" {at} ".encode())
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of a file that are not holes, each with its place."""
    with path.open("rb") as stream:
        following = 0
        for start, end in data_extents(stream.fileno()):
            following = max(following, start // _BLOCK * _BLOCK)
            while following < end:
                yield following, os.pread(stream.fileno(), _BLOCK, following)
                following += _BLOCK
