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
    yield from folder_in_memory(tmp_path)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as `place`, for all tests of a module."""
    yield from folder_in_memory(tmp_path_factory.mktemp("shared"))


def folder_in_memory(otherwise: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108
    folder = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else otherwise
    named = folder / "一个 状态"  # blanks and Chinese in a path are no reason to fail
    named.mkdir()
    yield named
    shutil.rmtree(folder, ignore_errors=True)
