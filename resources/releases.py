"""Releases: a pointer file for each kind (adapter, collection) names the release that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec

from expectations.canonical import digest
from expectations.violations import Refused, violation
from resources.artifacts import ArtifactStore
from resources.files import file_lock, write_json

ReleaseKind = Literal["adapter", "collection"]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release. Its `artifacts` (asset -> recipe id) are kept while it serves or is among the last releases."""

    version: str
    released_at: float
    artifacts: dict[str, str]
    details: dict[str, Any] = {}


class ReleaseBook(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a pointer file: the version that serves, and every release, oldest first."""

    current: str
    history: list[Release]
    withheld: list[str] = []
    """Versions that a person rolled back from. They are not released again until another version was released."""


def _served(artifacts: dict[str, str], details: Mapping[str, object]) -> tuple[dict[str, str], object]:
    """Return the artifacts and the fusion that decide what is served. Evaluations do not count: each candidate is
    evaluated again next to the release that serves."""
    served = {asset: recipe for asset, recipe in artifacts.items() if not asset.endswith("_evaluation")}
    return served, details.get("fusion")


def require_kept(store: ArtifactStore, release: Release) -> None:
    """Raise Refused (FT-REL-002) if retention has removed what the release was made of."""
    gone = [f"{asset}/{recipe}" for asset, recipe in release.artifacts.items() if store.find(asset, recipe) is None]
    if gone:
        missing, where = f"missing: {', '.join(gone)}", f"release {release.version}"
        refusal = violation("FT-REL-002", where=where, field="artifacts", found=missing, expected="all of them")
        raise Refused(f"rolling back to {release.version}", [refusal])


class Releases:
    """The pointers below `<state>/released`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: ReleaseKind) -> Path:
        return self.folder / f"{kind}.json"

    def book(self, kind: ReleaseKind) -> ReleaseBook | None:
        path = self.path(kind)
        return msgspec.json.decode(path.read_bytes(), type=ReleaseBook) if path.is_file() else None

    def current(self, kind: ReleaseKind) -> Release | None:
        """Return the release that serves, or None."""
        book = self.book(kind)
        return next((r for r in book.history if r.version == book.current), None) if book else None

    def is_withheld(self, kind: ReleaseKind, artifacts: dict[str, str], details: Mapping[str, object]) -> bool:
        """Return whether these artifacts equal a release that a person rolled back from."""
        book = self.book(kind)
        left = [r for r in book.history if r.version in book.withheld] if book else []
        return any(_served(r.artifacts, r.details) == _served(artifacts, details) for r in left)

    def move(self, kind: ReleaseKind, artifacts: dict[str, str], details: dict[str, object]) -> Release:
        """Point `kind` at these artifacts. The version is the hash of artifacts and details: equal ones are one.

        Versions that were withheld before may then be released again.
        """
        version = digest({"artifacts": artifacts, "details": details})[:12]
        with self._lock(kind):
            book = self.book(kind)
            history = list(book.history) if book else []
            release = next((r for r in history if r.version == version), None)
            if release is None:
                release = Release(version=version, released_at=time.time(), artifacts=artifacts, details=details)
                history.append(release)
            write_json(self.path(kind), msgspec.to_builtins(ReleaseBook(current=version, history=history)))
        return release

    def target(self, kind: ReleaseKind, to: str | None = None) -> Release:
        """Return the release to roll back to: `to`, or the one before the current. Raises Refused (FT-REL-001)."""
        book = self.book(kind)
        versions = [r.version for r in book.history] if book else []
        if book and to is None and versions.index(book.current) > 0:
            to = versions[versions.index(book.current) - 1]
        found = next((r for r in book.history if r.version == to), None) if book else None
        if found is None:
            requested, where = to or "none before the current", str(self.path(kind))
            refusal = violation("FT-REL-001", where=where, field="version", found=requested, expected=versions)
            raise Refused(f"rollback of {kind}", [refusal])
        return found

    def point(self, kind: ReleaseKind, release: Release) -> None:
        """Point at a release in the book. After a rollback, the version that served before is withheld."""
        with self._lock(kind):
            book = self.book(kind)
            if book is None:
                raise FileNotFoundError(self.path(kind))
            versions = [r.version for r in book.history]
            backwards = versions.index(release.version) < versions.index(book.current)
            left = {*book.withheld, *([book.current] if backwards else [])} - {release.version}
            moved = ReleaseBook(current=release.version, history=book.history, withheld=sorted(left))
            write_json(self.path(kind), msgspec.to_builtins(moved))

    def protected(self, store: ArtifactStore, keep: int) -> dict[str, set[str]]:
        """Return asset -> recipe ids that retention must keep.

        They belong to the release that serves, to the last `keep` releases of each kind, and to all their inputs.
        """
        found: dict[str, set[str]] = {}
        kinds: tuple[ReleaseKind, ...] = ("adapter", "collection")
        todo: list[tuple[str, str]] = []
        for book in filter(None, map(self.book, kinds)):
            for release in book.history:
                if release in book.history[-keep:] or release.version == book.current:
                    todo += release.artifacts.items()
        while todo:
            asset, recipe_id = todo.pop()
            if recipe_id in found.setdefault(asset, set()):
                continue
            found[asset].add(recipe_id)
            artifact = store.find(asset, recipe_id)
            for name, version in artifact.manifest.recipe.inputs.items() if artifact else ():
                todo += [(name, a.recipe_id) for a in store.versions(name) if a.data_version == version]
        return found

    def _lock(self, kind: ReleaseKind) -> AbstractContextManager[object]:
        return file_lock(self.folder / f".{kind}.lock")
