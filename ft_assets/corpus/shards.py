"""Documents in shards: groups of files, in their order, whose passages are a file of their own.

Where a shard ends is decided by the name of its last file, so that a new or a deleted file changes the shard that it is
in, and no other. Shards whose files did not change are taken from the passages before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice, zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

from expectations.canonical import digest, hash_share
from expectations.reading import Rejected
from ft_assets.corpus.cut import Alias
from ft_assets.corpus.seen import Seen, SeenRow, read_seen
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from resources.artifacts import SHARDS, Artifact, Shard, Staging
from resources.engines.protocol import PayloadType
from resources.parquet import read_rows

LEAST_FILES = 1024
"""Fewer files are one table: to cut them takes a few seconds."""
FILES_A_SHARD = 128
"""On average."""
MOST_BYTES = 16 * 1024 * 1024
"""Of documents in a shard, unless one document has more."""
PASSAGES = "passages.parquet"
_FOLDER = "passages"
ALIASES = "aliases.parquet"
_Row = TypeVar("_Row")
Inventory = Sequence[Mapping[str, Any]]


class PassageShard(Shard, frozen=True, kw_only=True):
    """The passages of some files, and what else came of them."""

    files: str
    """Hash of these files and of the settings."""
    found: str
    """Hash of what they found of earlier shards: ids, texts, types of their payload."""
    rows: int
    chars: int
    parts: int
    aliases: int
    codes: dict[str, int]
    languages: dict[str, int]
    types: dict[str, PayloadType]
    """Of the fields of the payload, after this shard."""

    @property
    def quarantined(self) -> int:
        """Lines of the quarantine."""
        return sum(self.codes.values())


def group_files(inventory: Inventory) -> list[list[Mapping[str, Any]]]:
    """Return the rows of an inventory, in their order, in groups that are shards. One group: they are one table."""
    groups: list[list[Mapping[str, Any]]] = [[]]
    size = 0
    for row, following in zip_longest(inventory, inventory[1:]):
        groups[-1].append(row)
        size += row["bytes"]
        if following is None or following["document"] == row["document"]:  # a file of a folder that is one document
            continue
        if hash_share(row["file"]) * FILES_A_SHARD < 1 or size > MOST_BYTES:
            groups.append([])
            size = 0
    return groups if len(inventory) >= LEAST_FILES else [list(inventory)]


class ShardSource:
    """Gives the shards that did not change since an earlier artifact. They are taken in its order."""

    def __init__(self, staging: Staging, inventory: Inventory, before: Artifact | None) -> None:
        self.staging, self.inventory = staging, inventory
        self.read: list[Path] = []
        """The documents that were cut."""
        damaged = before.damaged_files() if before else set[str]()
        self._before = before if damaged.isdisjoint((f"{_FOLDER}/{SHARDS}", QUARANTINE, ALIASES)) else None
        shards = self._before.shards(PASSAGES, PassageShard) if self._before else []
        if self._before and shards:
            self._quarantine = _Rows(read_quarantine(self._before.file(QUARANTINE)))
            self._aliases = _Rows(Alias(**row) for row in read_rows(self._before.file(ALIASES)))
        ends = accumulate(shards, lambda at, shard: (at[0] + shard.quarantined, at[1] + shard.aliases), initial=(0, 0))
        self._known = {
            shard.files: (shard, start)
            for shard, start in zip(shards, ends, strict=False)
            if damaged.isdisjoint((table_file(shard.name), seen_file(shard.name)))  # one that is damaged is cut again
        }

    def files_key(self, group: Inventory) -> str:
        """Return the hash of the files of a group and of all that decides what they are cut into."""
        recipe = self.staging.recipe
        return digest([recipe.code_version, recipe.settings, [[row["file"], row["sha256"]] for row in group]])

    def find(
        self, files: str, seen: Seen, types: Mapping[str, PayloadType]
    ) -> tuple[PassageShard, list[SeenRow]] | None:
        """Return the shard of these files, and what it asked for, if it would find now what it found then."""
        if self._before is None or files not in self._known:
            return None
        shard, _ = self._known[files]
        rows = read_seen(self._before.file(seen_file(shard.name)))
        return (shard, rows) if shard.found == found_key(seen.would_find(rows), types) else None

    def take(self, shard: PassageShard) -> tuple[list[Rejected], list[Alias]]:
        """Share the files of a shard that was found. Return its lines of the quarantine, and its aliases."""
        if self._before is None:
            raise ValueError("there are no earlier shards")
        for name in (table_file(shard.name), seen_file(shard.name)):
            self.staging.link(self._before, name)
        _, (line, alias) = self._known[shard.files]
        return self._quarantine.take(line, shard.quarantined), self._aliases.take(alias, shard.aliases)


class _Rows(Generic[_Row]):
    """Rows of a stream by their numbers, which only grow."""

    def __init__(self, rows: Iterator[_Row]) -> None:
        self._rows, self._at = rows, 0

    def take(self, start: int, count: int) -> list[_Row]:
        """Return `count` rows from number `start` on."""
        found = list(islice(self._rows, start - self._at, start - self._at + count))
        self._at = start + count
        return found


def found_key(found: str, types: Mapping[str, PayloadType]) -> str:
    """Return `PassageShard.found`: what passages found of earlier ones, and the types that fields had before."""
    return digest([found, dict(types)])


def table_file(name: str) -> str:
    """Return the file of a shard's passages."""
    return f"{_FOLDER}/{name}.parquet"


def seen_file(name: str) -> str:
    """Return the file of what a shard's passages asked for."""
    return f"{_FOLDER}/{name}.seen.parquet"
