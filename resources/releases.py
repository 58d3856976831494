"""Releases: a pointer file for each kind (adapter, collection) names the release that serves.

    <folder>/<kind>.json          the record: what serves, every release, every move
    <folder>/<kind>.intent.json   a move that has begun: whoever opens next finishes it, or withdraws it

With FT_STORE_URL they are objects of a bucket, and leases take the place of locks.

A release of a collection is two writes, the engine's alias and the record. `exclusive` keeps other releases and
rollbacks out between them, and the intent survives a kill there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from expectations.canonical import digest
from expectations.violations import Refused, violation
from resources import faults
from resources.artifacts import ArtifactStore
from resources.bucket import Bucket, Object, bucket_of_environment
from resources.files import file_lock, write_json

ReleaseKind = Literal["adapter", "collection"]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release. Its `artifacts` (asset -> recipe id) are kept while it serves or is among the last releases."""

    version: str
    released_at: float
    artifacts: dict[str, str]
    details: dict[str, Any] = {}


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One change of what serves."""

    at: float
    """Seconds since 1970."""
    kind: Literal["release", "rollback"]
    before: str
    """The version that served before; empty for the first one."""
    after: str
    who: str = ""
    why: str = ""


class Intent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A move that is about to be made."""

    release: Release
    move: Move


class ReleaseBook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of a pointer file: the version that serves, and every release, oldest first."""

    current: str
    history: list[Release]
    withheld: list[str] = []
    """Versions that a person rolled back from. They are not released again until another version was released."""
    moves: list[Move] = []
    """Every change of what serves, oldest first. Records of earlier product versions have none."""

    def find(self, version: str) -> Release | None:
        """Return the release of this version."""
        return next((release for release in self.history if release.version == version), None)


_Document = TypeVar("_Document", ReleaseBook, Intent)


def version_of(artifacts: Mapping[str, str], details: Mapping[str, object]) -> str:
    """Return the version of a release: the hash of its artifacts and details, so that equal ones are one."""
    return digest({"artifacts": artifacts, "details": details})[:12]


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


class Records(Protocol):
    """The place of the documents: a folder of one machine, or a bucket of several."""

    def where(self, name: str) -> str:
        """Return the address of a document, for messages."""
        ...

    def read(self, name: str) -> Object | None: ...

    def write(self, name: str, content: dict[str, Any], before: Object | None) -> bool:
        """Write a document in place of the one that was read. Return False if it is another one by now."""
        ...

    def delete(self, name: str) -> None: ...

    def alone(self, name: str, wait: float | None = None) -> AbstractContextManager[object]:
        """Keep every other holder of this name out. Raises BlockingIOError after `wait` seconds (None: without end)."""
        ...


class _Folder:
    """Documents as files. A writer holds a lock, so that none comes between its reading and its writing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def read(self, name: str) -> Object | None:
        try:
            return Object((self._folder / name).read_bytes(), "")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _damaged(self.where(name), "content", str(error), "a file that can be read") from error

    def write(self, name: str, content: dict[str, Any], before: Object | None) -> bool:
        del before
        write_json(self._folder / name, content)
        return True

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def alone(self, name: str, wait: float | None = None) -> AbstractContextManager[object]:
        return file_lock(self._folder / f".{name}.lock", wait=wait)


class _Objects:
    """Documents as objects."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def where(self, name: str) -> str:
        return f"{self._bucket.url}/{name}"

    def read(self, name: str) -> Object | None:
        return self._bucket.read(name)

    def write(self, name: str, content: dict[str, Any], before: Object | None) -> bool:
        text = msgspec.json.encode(content)
        return self._bucket.replace(name, text, before.e_tag) if before else self._bucket.create(name, text)

    def delete(self, name: str) -> None:
        self._bucket.delete(name)

    def alone(self, name: str, wait: float | None = None) -> AbstractContextManager[object]:
        return self._bucket.lease(name, wait=wait)


def open_releases(folder: Path) -> Releases:
    """Return the releases of a state, in the bucket that FT_STORE_URL names. Raises Refused (FT-ART-009)."""
    bucket = bucket_of_environment()
    return Releases(folder, _Objects(bucket.below("released")) if bucket else None)


class Releases:
    """The pointers below `<state>/released`, or those of several machines."""

    def __init__(self, folder: Path, records: Records | None = None) -> None:
        self._records = records or _Folder(folder)

    def has_record(self, kind: ReleaseKind) -> bool:
        """Return whether anything was ever released, also if the record of it is damaged."""
        return self._records.read(f"{kind}.json") is not None

    def exclusive(self, kind: ReleaseKind, *, wait: bool = True) -> AbstractContextManager[object]:
        """Keep every other release and rollback of this kind out, from the judging of a candidate to the record.

        Raises BlockingIOError if another process is in there and `wait` is False.
        """
        return self._records.alone(f"{kind}.exclusive", None if wait else 0)

    # -- reading ------------------------------------------------------------------------------------------------
    def book(self, kind: ReleaseKind) -> ReleaseBook | None:
        """Return the record; None if nothing was ever released. Raises Refused (FT-REL-003) if it is damaged."""
        return self._judged(kind, self._records.read(f"{kind}.json"))

    def _judged(self, kind: ReleaseKind, found: Object | None) -> ReleaseBook | None:
        where = self._records.where(f"{kind}.json")
        book = _decoded(where, found, ReleaseBook)
        if book is None:
            return None
        if book.find(book.current) is None:
            raise _damaged(where, "current", book.current, [r.version for r in book.history])
        for release in book.history:
            made_of = version_of(release.artifacts, release.details)
            if release.version != made_of:
                raise _damaged(where, "version", release.version, made_of)
        return book

    def current(self, kind: ReleaseKind) -> Release | None:
        """Return the release that serves, or None. Raises Refused (FT-REL-003) as `book` does."""
        book = self.book(kind)
        return book.find(book.current) if book else None

    def require(self, kind: ReleaseKind, work: str, code: str) -> Release:
        """Return the release that serves. Raises Refused: `code` where `work` needs one and nothing was released."""
        release = self.current(kind)
        if release is None:
            asset = f"released_{kind}"
            raise Refused(work, [violation(code, where=asset, fix=f"ft run --asset {asset}")])
        return release

    def announced(self, kind: ReleaseKind) -> Intent | None:
        """Return the move that has begun and is not in the record yet. Raises Refused (FT-REL-003) if it is damaged."""
        name = f"{kind}.intent.json"
        return _decoded(self._records.where(name), self._records.read(name), Intent)

    def is_withheld(self, kind: ReleaseKind, artifacts: dict[str, str], details: Mapping[str, object]) -> bool:
        """Return whether these artifacts equal a release that a person rolled back from."""
        book = self.book(kind)
        left = [r for r in book.history if r.version in book.withheld] if book else []
        return any(_served(r.artifacts, r.details) == _served(artifacts, details) for r in left)

    def target(self, kind: ReleaseKind, to: str | None = None) -> Release:
        """Return the release to roll back to: `to`, or the one before the current. Raises Refused (FT-REL-001)."""
        book = self.book(kind)
        versions = [r.version for r in book.history] if book else []
        if book and to is None and versions.index(book.current) > 0:
            to = versions[versions.index(book.current) - 1]
        found = book.find(to) if book and to else None
        if found is None:
            requested, where = to or "none before the current", self._records.where(f"{kind}.json")
            refusal = violation("FT-REL-001", where=where, field="version", found=requested, expected=versions)
            raise Refused(f"rollback of {kind}", [refusal])
        return found

    # -- moving -------------------------------------------------------------------------------------------------
    def plan_release(self, kind: ReleaseKind, artifacts: dict[str, str], details: dict[str, object]) -> Intent:
        """Return the move to these artifacts."""
        book, version = self.book(kind), version_of(artifacts, details)
        release = (book.find(version) if book else None) or Release(
            version=version, released_at=time.time(), artifacts=artifacts, details=details
        )
        move = Move(at=time.time(), kind="release", before=book.current if book else "", after=version)
        return Intent(release=release, move=move)

    def plan_rollback(self, kind: ReleaseKind, release: Release, *, who: str = "", why: str = "") -> Intent:
        """Return the move to a release in the record."""
        before = self.current(kind)
        move = Move(
            at=time.time(),
            kind="rollback",
            before=before.version if before else "",
            after=release.version,
            who=who,
            why=why,
        )
        return Intent(release=release, move=move)

    def announce(self, kind: ReleaseKind, intent: Intent) -> None:
        """Write down a move before it is made, so that one that was interrupted can be finished or withdrawn."""
        name = f"{kind}.intent.json"
        while not self._records.write(name, _sealed(intent), self._records.read(name)):
            pass  # one that was interrupted, withdrawn by another process

    def withdraw(self, kind: ReleaseKind) -> None:
        """Delete an announced move that was not made."""
        faults.point("release.withdraw")
        self._records.delete(f"{kind}.intent.json")

    def commit(self, kind: ReleaseKind, intent: Intent) -> Release:
        """Record a move that was made. After a rollback to an earlier release, the one that served is withheld.

        A release ends what was withheld before: these versions may then be released again.
        """
        with self._records.alone(kind):
            while not self._commit(kind, intent):
                pass  # a holder of the lease that was halted for long has written since
        self.withdraw(kind)
        return intent.release

    def _commit(self, kind: ReleaseKind, intent: Intent) -> bool:
        """Write the record with one more move. Return False if it has changed since it was read."""
        release, before = intent.release, self._records.read(f"{kind}.json")
        book = self._judged(kind, before)
        history = list(book.history) if book else []
        moves = list(book.moves) if book else []
        withheld: set[str] = set()
        if release.version not in [r.version for r in history]:
            history.append(release)
        if book and intent.move.kind == "rollback":
            versions = [r.version for r in history]
            backwards = versions.index(release.version) < versions.index(book.current)
            withheld = {*book.withheld, *([book.current] if backwards else [])} - {release.version}
        if book is None or book.current != release.version:
            moves.append(intent.move)
        moved = ReleaseBook(current=release.version, history=history, withheld=sorted(withheld), moves=moves)
        return self._records.write(f"{kind}.json", _sealed(moved), before)

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
            store.refuse_newer(asset, recipe_id)  # what it was made of cannot be known
            for name, version in artifact.manifest.recipe.inputs.items() if artifact else ():
                todo += [(name, a.recipe_id) for a in store.versions(name) if a.data_version == version]
        return found


def _sealed(document: ReleaseBook | Intent) -> dict[str, Any]:
    """Return a document with the digest of its content."""
    content: dict[str, Any] = msgspec.to_builtins(document)
    return {**content, "digest": digest(content)}


def _decoded(where: str, found: Object | None, kind: type[_Document]) -> _Document | None:
    """Return a document; None if there is none. Raises Refused: FT-REL-003 it is damaged, FT-REL-009 a newer product
    version wrote it."""
    if found is None:
        return None
    stated = own = None
    try:
        content: dict[str, Any] = msgspec.json.decode(found.content, type=dict[str, Any])
        # earlier product versions wrote no digest
        stated, own = content.pop("digest", None), digest(content)
        if stated not in {None, own}:
            raise _damaged(where, "digest", own, stated, of=kind)
        return msgspec.convert(content, kind)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        code = "FT-REL-009" if own is not None and stated == own else "FT-REL-003"
        raise _damaged(where, "content", str(error), f"the JSON of a {kind.__name__}", code, of=kind) from error


def _damaged(
    where: str, field: str, found: object, expected: object, code: str = "FT-REL-003", *, of: type[object] = ReleaseBook
) -> Refused:
    message = fix = ""
    if code == "FT-REL-003" and of is Intent:  # without it the move is neither finished nor withdrawn: the gate sees it
        message, fix = "The note of a move that had begun is damaged", f"delete {where}, then ft gate --served"
    refusal = violation(code, where=where, message=message, field=field, found=found, expected=expected, fix=fix)
    return Refused("reading the releases", [refusal])
