"""The artifact store: immutable folders addressed by recipe, published by one rename, verified when read.

    <root>/<asset>/<recipe id>/          the files, and manifest.json (written last)
    <root>/<asset>/current.json          the recipe that is current (replaced in one step)
    <root>/.staging/<asset>-<recipe>-*   work in progress; swept when its process is gone
    <root>/.owners/<asset>-<recipe>-*    its mark, locked by that process

A folder without a whole manifest does not exist to the rest of the system. The manifest carries its own digest, so a
changed byte in it is found, and the recipe that it states must be the folder's name. That proves integrity. Against a
person who may write here and computes the digests again, only FT_SEAL_KEY helps: with it, every manifest is signed
(HMAC-SHA256), and one without a right signature is refused.

With FT_STORE_URL the artifacts are in a bucket (shared.py), and `root` holds what this machine has made or read.

Everything here is plain Python, so that workers use it without Dagster; dagster_resources.py has the resource that
Dagster sees.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatch
from functools import cache, partial
from importlib import metadata
from itertools import chain
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import msgspec

from expectations.canonical import digest, file_digest
from expectations.violations import Refused, Violation, violation
from resources import faults
from resources.bucket import bucket_of_environment
from resources.files import ABSENT, file_lock, file_stamp, is_locked, sync_to_disk, write_json, write_text
from resources.shared import MANIFEST, POINTER, BucketPlace, SharedArtifacts

SEAL_KEY = "FT_SEAL_KEY"
SHARDS = "shards.json"
"""The list of a table's shards, in order: of the table `x.parquet`, `x/shards.json` names files `x/<name>.parquet`. A
shard that does not change is shared by versions: its file is a link to the same data."""
_OWNER, _MARKS, _ENTERING = ".owner", ".owners", ".entering.lock"
_YOUNG = 600.0  # seconds
_FOREIGN = 86400.0
"""Seconds without a change after which a staging folder of another host counts as left behind: a lock that was taken
there may not be seen here."""
# Files about the run, not about its result: the manifest seals them, but they do not make a new data version.
VOLATILE = ("training.log", "metrics.jsonl", "preflight.json", "*.svg", "report.html", "timing.json")
_LIBRARIES = (
    "accelerate", "dagster", "datasets", "numpy", "peft", "pyarrow", "qdrant-client", "safetensors",
    "sentence-transformers", "tokenizers", "torch", "transformers", "trl",
)  # fmt: skip


class Recipe(msgspec.Struct, frozen=True):
    """Everything that decides an artifact: its code version, the settings that matter, the versions of its inputs."""

    asset: str
    code_version: str
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}

    @property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the recipe's canonical JSON."""
        return digest(msgspec.to_builtins(self))[:16]


class FileSeal(msgspec.Struct, frozen=True):
    """Size in bytes and sha256 (hex) of one file."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proof that an artifact is whole. `summary` holds the small figures worth showing (counts, metrics).

    The file has two more keys: `digest`, the sha256 of all the others, and `seal`, its HMAC where FT_SEAL_KEY is set.
    """

    recipe: Recipe
    data_version: str
    files: dict[str, FileSeal]
    libraries: dict[str, str]
    created_at: float
    summary: dict[str, Any] = {}


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a list of shards. Tables may add keys of their own."""

    name: str


class _Untrusted(msgspec.Struct, frozen=True):
    """Why a manifest does not count."""

    reason: str
    newer: bool = False
    """A newer product version wrote it: its digest is right, and it has keys that this one does not know."""


class _Pointer(msgspec.Struct, frozen=True):
    """Content of current.json: the recipe id of the current artifact."""

    recipe: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


Summary = TypeVar("Summary", bound=msgspec.Struct)
ShardKind = TypeVar("ShardKind", bound=Shard)


class Artifact:
    """A whole artifact on disk. Files are checked against the manifest when each is first read."""

    def __init__(self, path: Path, manifest: Manifest, fetch: Callable[[str], None] | None = None) -> None:
        """`fetch` brings a file of this name into `path`, where it is not there yet."""
        self.path = path
        self.manifest = manifest
        self._fetch = fetch
        self._verified: dict[str, tuple[int, int]] = {}  # name -> (size, mtime_ns) when it was last hashed

    @property
    def asset(self) -> str:
        return self.manifest.recipe.asset

    @property
    def recipe_id(self) -> str:
        return self.manifest.recipe.id

    @property
    def data_version(self) -> str:
        return self.manifest.data_version

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    def summary_as(self, kind: type[Summary]) -> Summary:
        """Return the summary, typed; fields that `kind` does not have are ignored.

        Raises Refused (FT-ART-010) if it lacks a figure, or one has another type.
        """
        try:
            return msgspec.convert(self.manifest.summary, kind)
        except msgspec.ValidationError as error:
            fix = f"delete {self.path} and run `ft run --asset {self.asset}`"
            odd = violation("FT-ART-010", where=self.asset, field="summary", found=str(error), fix=fix)
            raise Refused(f"reading {self.asset}", [odd]) from error

    def file(self, name: str) -> Path:
        """Return a file's path, verified. Raises Refused (FT-ART-002, FT-ART-003) if it is missing or changed."""
        if violations := self._check_once(name):
            raise Refused(f"reading {self.asset}", violations)
        return self.path / name

    def _check_once(self, name: str) -> list[Violation]:
        """Return the violations of a file. One that was found whole is not read again while its stamp stays."""
        path = self.path / name
        if name in self._verified and self._verified[name] == file_stamp(path):
            return []
        if not (violations := self._check(name)):
            self._verified[name] = file_stamp(path)
        return violations

    def table(self, name: str) -> list[Path]:
        """Return the files of a table in order, verified as by `file`: one file, or its shards (see `SHARDS`)."""
        return [self.file(part) for part in self.table_parts(name)]

    def table_parts(self, name: str) -> list[str]:
        """Return the names of the files of a table, in order."""
        return [f"{_folder_of(name)}/{shard.name}.parquet" for shard in self.shards(name, Shard)] or [name]

    def shards(self, name: str, kind: type[ShardKind]) -> list[ShardKind]:
        """Return the shards of a table in their order, with the keys of `kind`; none if the table is one file."""
        listed = f"{_folder_of(name)}/{SHARDS}"
        return msgspec.convert(self.json(listed), list[kind]) if listed in self.manifest.files else []

    def sharded_tables(self) -> list[str]:
        """Return the names of the tables that are in shards."""
        folders = [path.parent for path in map(PurePosixPath, self.manifest.files) if path.name == SHARDS]
        return [f"{folder}.parquet" for folder in folders]

    def table_version(self, name: str) -> str:
        """Return one hash of the content of a table."""
        seals = [self.manifest.files[part].sha256 for part in self.table_parts(name) if part in self.manifest.files]
        return seals[0] if len(seals) == 1 else digest(seals)

    def folder(self, name: str = "") -> Path:
        """Return the path of a sub-folder (or of the whole artifact) after verifying every file in it.

        Raises Refused as `file` does, and (FT-ART-006) on a file that was not published: a library that loads a folder
        would read it too.
        """
        path = self.path / name
        for file_name in self.manifest.files:
            if file_name.startswith(name):
                self.file(file_name)
        unlisted = self._unlisted(name) if path.is_dir() else [self._lacks(path)]
        if unlisted:
            raise Refused(f"reading {self.asset}", unlisted)
        return path

    def json(self, name: str) -> Any:
        """Return the content of one JSON file, verified."""
        return json.loads(self.file(name).read_text("utf-8"))

    def damaged_files(self) -> set[str]:
        """Return the names of the files that are missing or differ from the manifest."""
        return {name for name in self.manifest.files if self._check_once(name)}

    def verify(self, *, fetch: bool = True) -> list[Violation]:
        """Return a violation for every file that is missing, differs from the manifest, or is not in it.

        Without `fetch`, files that are in a bucket alone are not judged.
        """
        here = [name for name in self.manifest.files if fetch or not self._fetch or (self.path / name).exists()]
        return [*chain.from_iterable(map(self._check, here)), *self._unlisted()]

    def _unlisted(self, name: str = "") -> list[Violation]:
        """Return a violation for every file below a sub-folder that the manifest does not list."""
        found = [path.relative_to(self.path).as_posix() for path in list_files(self.path / name)]
        return [
            violation("FT-ART-006", where=str(self.path / file), field="file", found="present", expected="not there")
            for file in found
            if file not in self.manifest.files and file != MANIFEST
        ]

    def _is_link(self, name: str) -> bool:
        """Return whether a file, or a folder on the way to it inside the artifact, is a symbolic link."""
        path = self.path / name
        return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(self.path))

    def _check(self, name: str) -> list[Violation]:
        seal = self.manifest.files.get(name)
        path = self.path / name
        if seal and self._fetch and not path.exists():
            self._fetch(name)
        if seal is None or not path.is_file() or self._is_link(name):
            return [self._lacks(path)]
        sha256 = file_digest(path)
        if FileSeal(size=path.stat().st_size, sha256=sha256) == seal:
            return []
        return [
            violation(
                "FT-ART-003", where=str(path), field="sha256", found=sha256, expected=seal.sha256, fix=self._made_again
            )
        ]

    def _lacks(self, path: Path) -> Violation:
        return violation(
            "FT-ART-002", where=str(path), field="file", found="missing", expected="present", fix=self._made_again
        )

    @property
    def _made_again(self) -> str:
        return f"delete {self.path} and run `ft run --asset {self.asset}`"


class ArtifactStore:
    """Reads, publishes, points at and retires artifacts below `root`, or in a bucket (`shared`) behind it."""

    def __init__(self, root: Path, shared: SharedArtifacts | None = None) -> None:
        self.root = root
        self.shared = shared
        self._cache: dict[
            Path, tuple[tuple[int, int], Artifact]
        ] = {}  # with the stamp of the manifest it was read from

    # -- reading ------------------------------------------------------------------------------------------------
    def find(self, asset: str, recipe_id: str) -> Artifact | None:
        """Return the whole artifact of this recipe, or None: there is none, or its manifest is damaged."""
        found = self._load(asset, recipe_id)
        return found if isinstance(found, Artifact) else None

    def find_whole(self, asset: str, recipe_id: str) -> Artifact | None:
        """Return the artifact of this recipe if every file of it is as it was published. A damaged one is removed.

        A copy of what is in a bucket is fetched again.
        """
        artifact = self.find(asset, recipe_id)
        if artifact is None or not artifact.verify():
            return artifact
        if self.shared is None:
            self.discard(artifact)
            return None
        self._remove(artifact.path)
        artifact = self.find(asset, recipe_id)
        if artifact and artifact.verify():
            self.discard(artifact)
            return None
        return artifact

    def _load(self, asset: str, recipe_id: str) -> Artifact | _Untrusted | None:
        """Return the artifact of this recipe, why its manifest does not count, or None without one."""
        path = self.root / asset / recipe_id
        place = self.shared.find(asset, recipe_id) if self.shared else None
        if self.shared and place is None:
            return None
        if place:
            self._bring(path, place)
        stamp = file_stamp(path / MANIFEST)
        if place and stamp == ABSENT:  # its publisher on this machine was replacing the copy with its own folder
            self._bring(path, place)
            stamp = file_stamp(path / MANIFEST)
        if stamp == ABSENT:
            return None
        cached = self._cache.get(path)
        if cached is None or cached[0] != stamp:  # another process may have built it again
            manifest = _read_manifest(path)
            if isinstance(manifest, _Untrusted):
                return manifest
            fetch = partial(self._fetch, place) if place else None
            cached = self._cache[path] = (stamp, Artifact(path, manifest, fetch))
        return cached[1]

    def _bring(self, path: Path, place: BucketPlace) -> None:
        """Make a folder with the manifest of a shared artifact, and the files about its run; others come when read."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (path / MANIFEST).read_text("utf-8") == place.published.manifest:
                return
        folder = self.root / ".staging" / f"{place.asset}-{place.recipe}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        write_text(folder / MANIFEST, place.published.manifest)
        self.enter(folder, path)
        shutil.rmtree(folder, ignore_errors=True)  # another process was first
        found = _read_manifest(path)
        for name in found.files if isinstance(found, Manifest) else ():
            if _is_volatile(name) and not (path / name).exists():
                self._fetch(place, name)

    def _fetch(self, place: BucketPlace, name: str) -> None:
        """Bring one file of a shared artifact into its folder, whole or not at all."""
        parts = PurePosixPath(name)
        if self.shared is None or parts.is_absolute() or ".." in parts.parts:
            return
        folder = self.root / ".staging" / f"fetch-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            if self.shared.fetch(place, name, folder / "file"):
                target = self.root / place.asset / place.recipe / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (folder / "file").replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def enter(self, folder: Path, target: Path) -> None:
        """Rename a whole folder to its place. What is there is set aside, never merged with."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # half-deleted or foreign
            self._set_aside(target, "publish.aside")
        # another process may have published the same recipe between the look and the rename
        faults.point("publish.rename")
        with contextlib.suppress(OSError):
            folder.rename(target)
        faults.point("publish.sync")
        sync_to_disk(target.parent)

    def current(self, asset: str) -> Artifact | None:
        """Return the current artifact of an asset, or None if it was never made.

        Raises Refused (FT-ART-005) if the file that names it is damaged.
        """
        recipe = self._pointer(asset)
        return self.find(asset, recipe) if recipe else None

    def _pointer(self, asset: str) -> str | None:
        """Return the recipe id in current.json; None if the asset was never made. Raises Refused (FT-ART-005)."""
        path = self.root / asset / POINTER
        try:
            content = self.shared.pointer(asset) if self.shared else path.read_bytes()
            return msgspec.json.decode(content, type=_Pointer).recipe if content is not None else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            where = self.shared.where(asset) if self.shared else str(path)
            fix = f"delete {where} and run `ft run --asset {asset}`: an artifact that is whole is reused"
            damaged = violation("FT-ART-005", where=where, field="recipe", found=str(error), fix=fix)
            raise Refused(f"reading {asset}", [damaged]) from error

    def require(self, asset: str) -> Artifact:
        """Return the current artifact.

        Raises Refused with the command that makes it: FT-ART-001 there is none, FT-ART-007 its manifest is damaged.
        """
        artifact = self.current(asset)
        if artifact is None:
            raise Refused(f"reading {asset}", [self._missing(asset)])
        return artifact

    def _missing(self, asset: str) -> Violation:
        recipe = self._pointer(asset)
        fix = f"ft run --asset {asset}"
        if recipe is None:
            return violation("FT-ART-001", where=asset, fix=fix)
        gone = "The current artifact of the asset is gone"
        return self._untrusted(asset, recipe) or violation(
            "FT-ART-001", where=asset, message=gone, field="recipe", found=recipe, expected="an artifact", fix=fix
        )

    def _untrusted(self, asset: str, recipe_id: str) -> Violation | None:
        """Return the violation of an artifact that is there and whose manifest does not count."""
        found = self._load(asset, recipe_id)
        if not isinstance(found, _Untrusted):
            return None
        code, expected = ("FT-ART-008", "what this version writes") if found.newer else ("FT-ART-007", "as published")
        fix = "" if found.newer else f"ft run --asset {asset}"
        where = str(self.root / asset / recipe_id / MANIFEST)
        return violation(code, where=where, field="manifest", found=found.reason, expected=expected, fix=fix)

    def refuse_untrusted_current(self, asset: str) -> None:
        """Raise Refused (FT-ART-007, FT-ART-008) if the current artifact is there and its manifest does not count."""
        recipe = self._pointer(asset)
        if recipe and (broken := self._untrusted(asset, recipe)):
            raise Refused(f"reading {asset}", [broken])

    def refuse_newer(self, asset: str, recipe_id: str) -> None:
        """Raise Refused (FT-ART-008) if a newer product version made this artifact: it is whole, and must stay."""
        broken = self._untrusted(asset, recipe_id)
        if broken and broken.code == "FT-ART-008":
            raise Refused(f"reading {asset}", [broken])

    def find_version(self, asset: str, data_version: str) -> Artifact | None:
        """Return the newest whole artifact with this content, or None."""
        return next((artifact for artifact in self.versions(asset) if artifact.data_version == data_version), None)

    def versions(self, asset: str) -> list[Artifact]:
        """Return every whole artifact of an asset, newest first."""
        names = self.shared.recipes(asset) if self.shared else _folders(self.root / asset)
        found = [self.find(asset, name) for name in names]
        return sorted((a for a in found if a is not None), key=lambda a: a.manifest.created_at, reverse=True)

    def assets(self) -> list[str]:
        """Return the names of the assets of which there is something."""
        return self.shared.assets() if self.shared else [name for name in _folders(self.root) if name[0] != "."]

    # -- writing ------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def stage(self, recipe: Recipe) -> Generator[Staging]:
        """Yield a folder to fill. Call `publish()` inside the block; without it the folder is deleted.

        Raises Refused (FT-ART-008) if a newer product version has made the artifact.
        """
        self.refuse_newer(recipe.asset, recipe.id)
        name = f"{recipe.asset}-{recipe.id}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder, mark = self.root / ".staging" / name, self.root / _MARKS / name
        unnamed = mark.with_name(f"{name}.new")
        with file_lock(unnamed) as host:  # until this process ends; under its name it is never seen without a lock
            host.write(socket.gethostname())
            host.flush()
            unnamed.rename(mark)
            try:
                faults.point("stage.own")
                folder.mkdir(parents=True)
                # for earlier product versions, which look for it
                (folder / _OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
                yield Staging(self, recipe, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                mark.unlink(missing_ok=True)

    def alone(self, asset: str) -> AbstractContextManager[object]:
        """Keep every other process out that makes an asset from its own last version, until the new one is current."""
        return self.shared.alone(asset) if self.shared else file_lock(self.root / f".{asset}.lock")

    def point(self, artifact: Artifact) -> None:
        """Make `artifact` the asset's current one (atomic)."""
        pointer = _Pointer(artifact.recipe_id)
        if self.shared:
            self.shared.point(artifact.asset, msgspec.json.encode(pointer))
        else:
            write_json(self.root / artifact.asset / POINTER, msgspec.to_builtins(pointer))

    def sweep(self) -> list[str]:
        """Remove staging and trash folders whose process is gone, and files of interrupted writes. Returns their names.

        A file among these folders is not ours (`.DS_Store`) and is left. Another process may sweep at the same time.
        """
        removed: list[str] = []
        for parent in (self.root / ".staging", self.root / ".trash"):
            for folder in [parent / name for name in _folders(parent)]:
                if not _is_owned(folder, self.root / _MARKS / folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder.name)
        for mark in list((self.root / _MARKS).glob("*")):
            is_new = mark.suffix == ".new" and not _is_old(mark)  # it may be about to be locked
            if not (is_new or (self.root / ".staging" / mark.name).exists() or is_locked(mark)):
                mark.unlink(missing_ok=True)
        for path in self.root.glob("*/.*.tmp"):
            if _is_old(path):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed

    def prune(self, asset: str, keep: int, protected: Iterable[str] = ()) -> list[str]:
        """Retire all but the newest `keep` artifacts; never the current one nor a protected recipe id."""
        current = self.current(asset)
        safe = {*protected, *([current.recipe_id] if current else [])}
        retired: list[str] = []
        for artifact in self.versions(asset)[keep:]:
            if artifact.recipe_id in safe:
                continue
            self.discard(artifact)
            retired.append(artifact.recipe_id)
        if self.shared:
            self.shared.sweep(asset)
            for name in set(_folders(self.root / asset)) - set(self.shared.recipes(asset)):  # retired elsewhere
                self._remove(self.root / asset / name)
        return retired

    def discard(self, artifact: Artifact) -> None:
        """Remove one artifact: one rename hides it from readers, then its files are deleted.

        Nothing happens if another process has removed it already, and made it again perhaps.
        """
        if self.shared:
            self.shared.discard(artifact.asset, artifact.recipe_id)
        self._remove(artifact.path, None if self.shared else artifact.manifest)

    def _remove(self, path: Path, only: Manifest | None = None) -> None:
        """Remove a folder; with `only`, if it is still the artifact of this manifest."""
        self._cache.pop(path, None)
        with file_lock(self.root / _ENTERING):  # else what is published after the look would be removed
            if only is not None and _read_manifest(path) != only:
                return
            trash = self._set_aside(path, "discard.rename")
        faults.point("discard.delete")
        shutil.rmtree(trash, ignore_errors=True)

    def _set_aside(self, path: Path, point: str) -> Path:
        """Hide a folder from readers, after the fault point; return its place in the trash. It may be gone already."""
        trash = self.root / ".trash" / f"{path.parent.name}-{path.name}-{uuid.uuid4().hex[:8]}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        faults.point(point)
        with contextlib.suppress(FileNotFoundError):
            path.rename(trash)
        return trash


class Staging:
    """A folder that is being filled. Nobody sees anything of it before `publish`."""

    def __init__(self, store: ArtifactStore, recipe: Recipe, path: Path) -> None:
        self._store = store
        self.recipe = recipe
        self.path = path
        self._linked: dict[str, FileSeal] = {}

    def link(self, artifact: Artifact, name: str, to: str = "") -> None:
        """Share a file of an earlier artifact, verified; it is copied where the file system has no hard links.

        `to`: its name here, if it is another one.
        """
        source, target = artifact.file(name), self.path / (to or name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
        else:
            self._linked[to or name] = artifact.manifest.files[name]

    def publish(self, summary: Mapping[str, object] | msgspec.Struct | None = None) -> Artifact:
        """Seal every file, write the manifest last, fsync, and rename into place. Idempotent for equal recipes.

        Raises Refused (FT-ART-002) if there is a symbolic link: what it leads to may change after it is sealed.
        """
        faults.point("publish.seal")
        self._refuse_links()
        files = seal_files(self.path, self._linked)
        manifest = Manifest(
            recipe=self.recipe,
            data_version=_content_version(files),
            files=files,
            libraries=library_versions(),
            created_at=time.time(),
            summary=dict(msgspec.to_builtins(summary) or {}),
        )
        write_json(self.path / MANIFEST, sign(msgspec.to_builtins(manifest)))
        # the mark of the owner stays until here: hashing takes minutes, and a sweep must not take this for left behind
        faults.point("publish.disown")
        (self.path / _OWNER).unlink(missing_ok=True)
        store, asset, recipe = self._store, self.recipe.asset, self.recipe.id
        target = store.root / asset / recipe
        before = store.shared.mark(asset, recipe) if store.shared else None
        is_first = store.find(asset, recipe) is None
        if is_first and store.shared:
            sealed = {name: self.path / name for name in files}
            text = (self.path / MANIFEST).read_text("utf-8")
            is_first = store.shared.publish(asset, recipe, sealed, text, before)
        if is_first:
            with file_lock(store.root / _ENTERING):  # else the second of two would set the first's artifact aside
                if store.shared or store.find(asset, recipe) is None:
                    store.enter(self.path, target)
        artifact = store.find(asset, recipe)
        if artifact is None:
            raise OSError(f"could not publish {target}: the rename failed and nothing is there")
        if store.shared and not is_first:
            artifact.verify()  # the files of the publisher that was first, which callers expect in the folder
        return artifact

    def _refuse_links(self) -> None:
        links = [path.relative_to(self.path).as_posix() for path in list_files(self.path) if path.is_symlink()]
        if links:
            refusals = [
                violation(
                    "FT-ART-002",
                    where=f"{self.recipe.asset}/{link}",
                    message="A symbolic link cannot be published",
                    field="file",
                    found="a symbolic link",
                    expected="a file",
                    fix="put a copy of what it leads to in its place",
                )
                for link in links
            ]
            raise Refused(f"publishing {self.recipe.asset}", refusals)


def write_shards(folder: Path, name: str, shards: Sequence[Shard]) -> None:
    """Write the list of the shards of a table below the folder of an artifact."""
    write_json(folder / _folder_of(name) / SHARDS, msgspec.to_builtins(shards))


def _folder_of(table: str) -> str:
    return table.removesuffix(".parquet")


def open_store(root: Path) -> ArtifactStore:
    """Return the store of a state, with the bucket that FT_STORE_URL names. Raises Refused (FT-ART-009)."""
    bucket = bucket_of_environment()
    return ArtifactStore(root, SharedArtifacts(bucket.below("artifacts")) if bucket else None)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def list_files(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, and every symbolic link, also to a folder, which is not followed.

    Raises OSError where a folder cannot be listed: nothing is skipped.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for at, folders, names in os.walk(folder, onerror=fail):
        found += [Path(at, name) for name in names]
        found += [path for path in (Path(at, name) for name in folders) if path.is_symlink()]
    return sorted(found)


def seal_files(folder: Path, linked: Mapping[str, FileSeal] = MappingProxyType({})) -> dict[str, FileSeal]:
    """Return the seal of every file below `folder`, by its path there. Files and folders are on the disk then.

    `linked`: seals of files that an artifact has already, and that were verified there.

    Raises OSError where a file or a folder cannot be read.
    """
    files: dict[str, FileSeal] = {}
    for path in list_files(folder):
        if path.parent == folder and path.name == _OWNER:
            continue
        name = path.relative_to(folder).as_posix()
        if name not in linked:
            sync_to_disk(path)
        files[name] = linked.get(name) or FileSeal(path.stat().st_size, file_digest(path))
    for path in {folder, *(folder / name for name in files)}:
        sync_to_disk(path if path.is_dir() else path.parent)
    return files


def sign(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a file with its digest, and the HMAC of that if there is a key."""
    own = digest(content)
    return {**content, "digest": own, **({"seal": seal} if (seal := _hmac(own)) else {})}


def has_seal(content: dict[str, Any]) -> bool:
    """Return whether `sign` gave this content, with the key of this process if there is one."""
    unsigned = {name: value for name, value in content.items() if name not in {"digest", "seal"}}
    return content == sign(unsigned)


def _hmac(text: str) -> str:
    key = os.environ.get(SEAL_KEY, "")
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest() if key else ""


def _read_manifest(path: Path) -> Manifest | _Untrusted:
    """Return the manifest of an artifact's folder, or why it does not count."""
    if path.is_symlink() or path.parent.is_symlink():
        return _Untrusted("the folder is a symbolic link")
    stated = found = ""
    try:
        content: dict[str, Any] = msgspec.json.decode((path / MANIFEST).read_bytes(), type=dict[str, Any])
        # artifacts of the first product versions have no digest
        stated, seal, found = content.pop("digest", None), content.pop("seal", ""), digest(content)
        manifest = msgspec.convert(content, Manifest)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return _Untrusted(str(error), newer=bool(found) and stated == found)
    if stated not in {None, found}:
        return _Untrusted(f"its digest is {found}, and it states {stated}")
    expected = _hmac(found)
    if expected and not hmac.compare_digest(str(seal).encode(), expected.encode()):
        return _Untrusted(f"it is not signed with {SEAL_KEY}")
    facts = {
        "asset": (path.parent.name, manifest.recipe.asset),
        "recipe": (path.name, manifest.recipe.id),
        "data version": (manifest.data_version, _content_version(manifest.files)),
    }
    wrong = [f"the {name} is {found}, expected {right}" for name, (found, right) in facts.items() if found != right]
    return _Untrusted("; ".join(wrong)) if wrong else manifest


@cache
def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that can change an artifact. Reading them takes 10 ms."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _content_version(files: Mapping[str, FileSeal]) -> str:
    return digest({name: seal.sha256 for name, seal in files.items() if not _is_volatile(name)})[:16]


def _is_volatile(name: str) -> bool:
    return any(fnmatch(Path(name).name, pattern) for pattern in VOLATILE)


def _is_owned(folder: Path, mark: Path) -> bool:
    """Return whether a process still works in a staging folder: it holds the lock on its mark until it ends.

    A process id would not do: another process may have it by now, and a container has ids and a host name of its own.
    """
    if is_locked(mark):
        return True
    with contextlib.suppress(FileNotFoundError):  # the mark names its host; a network mount may keep locks by host
        return mark.read_text("utf-8") not in {"", socket.gethostname()} and not _is_old(folder, _FOREIGN)
    try:  # an earlier product version has no mark, and may be working on the same state
        owner: dict[str, Any] = msgspec.json.decode((folder / _OWNER).read_bytes(), type=dict[str, Any])
        if owner["host"] == socket.gethostname():
            os.kill(int(owner["pid"]), 0)
    except FileNotFoundError:
        return not _is_old(folder)  # being made or published right now, or left behind
    except PermissionError:
        return True
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, ProcessLookupError):
        return False
    return owner["host"] == socket.gethostname() or not _is_old(folder, _FOREIGN)


def _is_old(path: Path, age: float = _YOUNG) -> bool:
    """Return whether nothing in a folder was changed for so many seconds (or the file was not), or it is gone."""
    try:
        newest = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
    except FileNotFoundError:
        return not path.exists()
    return time.time() - newest > age
