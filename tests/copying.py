"""Copies of a project and its state. An engine's files are mostly holes: 170 MB by their size, 0.3 MB on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from resources.files import copy_file


def copy_tree(source: Path, target: Path, *, leave: str = "", exist_ok: bool = False) -> None:
    """Copy a folder with its holes and times, without the names that `leave` lists, separated by blanks."""
    ignored = shutil.ignore_patterns(*leave.split())
    shutil.copytree(source, target, ignore=ignored, copy_function=_copy, dirs_exist_ok=exist_ok)


def _copy(source: str, target: str) -> None:
    copy_file(Path(source), Path(target))
    shutil.copystat(source, target)  # a seal does not count for a file that is newer
