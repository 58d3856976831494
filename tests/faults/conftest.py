"""A folder for states that are killed and compared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill does not need a disk, and waiting for it takes most of the time."""
    memory = Path("/dev/shm")  # noqa: S108
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    named = folder / "一个 状态"  # blanks and Chinese in a path are no reason to fail
    named.mkdir()
    yield named
    shutil.rmtree(folder, ignore_errors=True)
