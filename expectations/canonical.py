"""Canonical JSON and hashes: equal content has the same version everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 20


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spare white space. Raises ValueError for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_share(text: str, key: bytes = b"") -> float:
    """Return a number in [0, 1) that the text and the key alone decide."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()) / 2**64


def text_digest(text: str) -> str:
    """Return the sha256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, read in 1 MiB blocks."""
    hasher = hashlib.sha256()
    for block in _blocks(path):
        hasher.update(block)
    return hasher.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the sha256 (hex) of a folder: the names and contents of the files in it, at any depth."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
