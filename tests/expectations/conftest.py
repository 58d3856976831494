"""Files with planted rows, written as bytes so that nothing is normalised on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects as JSON, bytes and text as they are), one a line, and returns the path."""

    def write_rows(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_encode(row) + b"\n" for row in rows))
        return path

    return write_rows


def _encode(row: Any) -> bytes:
    if isinstance(row, bytes):
        return row
    return row.encode() if isinstance(row, str) else json.dumps(row, ensure_ascii=False).encode()
