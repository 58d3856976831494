"""The vector engine: one way to open it, one writer at a time, never a dangling lock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class QdrantEngine:
    """How to reach Qdrant. `open()` yields a client and closes it."""

    kind: str
    path: Path
    url: str | None
    alias: str
    api_key: str | None
    lock_timeout: float
