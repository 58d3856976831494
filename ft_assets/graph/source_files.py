"""The files that the globs in config.yaml match, their inventory, and one version for all of them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from expectations.canonical import digest, file_digest
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.reading import glob_files
from expectations.violations import Refused, violation
from ft_assets.config.model import FileEntry, Globs, RowFiles

FILES = "files.json"
"""File of an artifact with the inventory of the files it was made from."""


def match_files(globs: Sequence[str], root: Path, key: str) -> list[Path]:
    """Return the files that the globs match (relative ones start at `root`), sorted, each once.

    A folder that the `datasets` library saved counts as one file, and the files in it do not count again.
    A glob that matches nothing is a mistake, not an empty corpus: Refused (FT-FILE-001) names `key` of config.yaml.
    """
    paths: set[Path] = set()
    empty: list[str] = []
    for pattern in globs:
        matched = glob_files(_absolute(pattern, root))
        paths.update(matched)
        if not matched:
            empty.append(pattern)
    if empty:
        raise Refused(
            f"reading {key}",
            [
                violation(
                    "FT-FILE-001",
                    where="config.yaml",
                    field=key,
                    found=pattern,
                    expected="at least one file",
                    fix=f"correct {key} in config.yaml (relative paths start at {root})",
                )
                for pattern in empty
            ],
        )
    folders = {path for path in paths if path.is_dir()}
    return sorted(path for path in paths if folders.isdisjoint(path.parents))


def match_mapped(section: RowFiles, key: str, root: Path, at: str) -> dict[Path, ColumnMap]:
    """Return the files that the globs under a key of a section match, each with its map of columns and roles.

    Refused as `match_files` is, and for two entries that give one file different maps (FT-MAP-003).
    """
    entries: Globs = getattr(section, key)
    columns, roles = section.own_map()
    maps: dict[Path, ColumnMap] = {}
    for entry in entries:
        if not isinstance(entry, FileEntry):
            continue
        own = ColumnMap(
            columns=columns if entry.columns is None else entry.columns,
            roles=roles if entry.roles is None else entry.roles,
        )
        for path in match_files([entry.glob], root, f"{at}.{key}"):
            if (other := maps.setdefault(path, own)) != own:
                found, expected = f"{shown_path(path, root)} with {_shown(own)}", f"{_shown(other)}, as before"
                problem = violation(
                    "FT-MAP-003", where="config.yaml", field=f"{at}.{key}", found=found, expected=expected
                )
                raise Refused(f"reading {at}.{key}", [problem])
    globs = [entry.glob if isinstance(entry, FileEntry) else entry for entry in entries]
    default = ColumnMap(columns=columns, roles=roles)
    return {path: maps.get(path, default) for path in match_files(globs, root, f"{at}.{key}")}


def maps_recipe(files: Iterable[Mapping[Path, ColumnMap]], root: Path) -> dict[str, object]:
    """Return the part of a recipe that names the maps of files; empty without one, so that other recipes stay equal."""
    maps: dict[str, object] = {}
    for mapped in files:
        maps |= {shown_path(path, root): to_builtins(mapping) for path, mapping in mapped.items() if mapping != NO_MAP}
    return {"maps": maps} if maps else {}


def _shown(mapping: ColumnMap) -> str:
    return str({name: names for name, names in to_builtins(mapping).items() if names} or "no map")


def file_inventory(
    paths: Sequence[Path], root: Path, digest_of: Callable[[Path], str] = file_digest
) -> list[dict[str, Any]]:
    """Return one row for each file: `file` and `document` (see `shown_path`), `bytes`, `sha256` (by `digest_of`).

    `document` is the path that the glob matched: the file itself, or its folder that the `datasets` library saved.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        for file in _files_of(path) if path.is_dir() else [path]:
            row = {"file": shown_path(file, root), "document": shown_path(path, root)}
            rows.append(row | {"bytes": file.stat().st_size, "sha256": digest_of(file)})
    return rows


def files_version(paths: Sequence[Path], root: Path) -> str:
    """Return one version (16 hex digits) of a set of files: their paths and contents, not their times."""
    return inventory_version(file_inventory(paths, root))


def inventory_version(inventory: Sequence[Mapping[str, Any]]) -> str:
    """Return `files_version` of files that are already in an inventory."""
    return digest([[row["file"], row["sha256"]] for row in inventory])[:16]


def refuse_changed(asset: str, inventory: Sequence[Mapping[str, Any]], paths: Sequence[Path], root: Path) -> None:
    """Refuse (FT-LIN-003) what was read of these files, if one was changed or deleted since the inventory."""
    before = {row["file"]: row["sha256"] for row in inventory}
    there = [path for path in paths if path.exists()]
    now = {row["file"]: row["sha256"] for row in file_inventory(there, root)}
    changed = [
        violation("FT-LIN-003", where=file, field="sha256", found=now.get(file), expected=sha256)
        for file, sha256 in before.items()
        if now.get(file) != sha256
    ]
    if changed:
        raise Refused(asset, changed)


def shown_path(path: Path, root: Path) -> str:
    """Return the name of a file in records and quarantines: relative to the project if it is inside."""
    return path.as_posix().removeprefix(f"{root.as_posix().rstrip('/')}/")  # relative_to takes twenty times as long


def _files_of(folder: Path) -> list[Path]:
    # the library leaves its caches in the same folder
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(("cache-", ".")))


def _absolute(pattern: str, root: Path) -> str:
    # the path of the project may contain brackets, which are not part of the pattern
    return pattern if Path(pattern).is_absolute() else f"{glob.escape(str(root))}/{pattern}"
