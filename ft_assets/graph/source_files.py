"""The files that a glob in config.yaml names, and one version for all of them. Serves corpus and data sets."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expectations.canonical import digest, file_digest
from expectations.reading.columns import is_dataset_folder
from expectations.violations import Refused, Violation

FILES = "files.json"
"""Where an artifact keeps the inventory of the files it was made from."""


def match_files(globs: Sequence[str], root: Path, key: str) -> list[Path]:
    """The files that the globs match (relative ones start at `root`), sorted, each once.

    A folder that the `datasets` library saved counts as one file, and what lies in it does not count again.
    A glob that matches nothing is a mistake, not an empty corpus: Refused (FT-FILE-001) names `key` of config.yaml.
    """
    found: set[Path] = set()
    empty: list[str] = []
    for pattern in globs:
        names = glob.glob(_absolute(pattern, root), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        matched = [path for path in map(Path, names) if path.is_file() or is_dataset_folder(path)]
        found.update(matched)
        if not matched:
            empty.append(pattern)
    if empty:
        raise Refused(
            f"reading {key}",
            [
                Violation(
                    code="FT-FILE-001", where="config.yaml", field=key, message="the glob matches no file.",
                    found=pattern, expected="at least one file",
                    fix=f"correct {key} in config.yaml (relative paths start at {root})",
                )
                for pattern in empty
            ],
        )  # fmt: skip
    folders = {path for path in found if path.is_dir()}
    return sorted(path for path in found if folders.isdisjoint(path.parents))


def file_inventory(
    paths: Sequence[Path], root: Path, digest_of: Callable[[Path], str] = file_digest
) -> list[dict[str, Any]]:
    """One row a file: `file` and `document` (see `shown_path`), `bytes`, `sha256` (by `digest_of`).

    `document` is what was matched: the file itself, or the folder of the `datasets` library that it lies in.
    """
    return [
        {
            "file": shown_path(file, root),
            "document": shown_path(path, root),
            "bytes": file.stat().st_size,
            "sha256": digest_of(file),
        }
        for path in paths
        for file in (_files_of(path) if path.is_dir() else [path])
    ]


def files_version(paths: Sequence[Path], root: Path) -> str:
    """One version (16 hex digits) of a set of files: their paths and contents, not their times."""
    return inventory_version(file_inventory(paths, root))


def inventory_version(inventory: Sequence[Mapping[str, Any]]) -> str:
    """`files_version` of files that are already in an inventory."""
    return digest([[row["file"], row["sha256"]] for row in inventory])[:16]


def shown_path(path: Path, root: Path) -> str:
    """How a file is named in records and quarantines: relative to the project where it lies in it."""
    return path.as_posix().removeprefix(f"{root.as_posix().rstrip('/')}/")  # relative_to takes twenty times as long


def _files_of(folder: Path) -> list[Path]:
    # the library leaves its caches beside the data
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(("cache-", ".")))


def _absolute(pattern: str, root: Path) -> str:
    # the project's own path may hold brackets, which are no part of the pattern
    return pattern if Path(pattern).is_absolute() else f"{glob.escape(str(root))}/{pattern}"
