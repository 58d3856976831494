"""The artifact store: immutable folders addressed by recipe, published by one rename, verified when read.

    <root>/<asset>/<recipe id>/          the files, and manifest.json (written last)
    <root>/<asset>/current.json          the recipe that is current (replaced in one step)
    <root>/.staging/<asset>-<recipe>-*   work in progress; swept when its process is gone

A folder without a whole manifest does not exist to the rest of the system. Everything here is plain Python, so that
workers use it without Dagster; dagster_resources.py has the resource that Dagster sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator, Iterable, Mapping
from fnmatch import fnmatch
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from expectations.canonical import digest, file_digest
from expectations.violations import Refused, Violation, violation
from resources.files import ABSENT, file_stamp, sync_to_disk, write_json

MANIFEST = "manifest.json"
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


class Manifest(msgspec.Struct, frozen=True):
    """Proof that an artifact is whole. `summary` holds the small figures worth showing (counts, metrics)."""

    recipe: Recipe
    data_version: str
    files: dict[str, FileSeal]
    libraries: dict[str, str]
    created_at: float
    summary: dict[str, Any] = {}


class _Pointer(msgspec.Struct, frozen=True):
    """Content of current.json: the recipe id of the current artifact."""

    recipe: str


Summary = TypeVar("Summary", bound=msgspec.Struct)


class Artifact:
    """A whole artifact on disk. Files are checked against the manifest when each is first read."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
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
        """Return the summary, typed; fields that `kind` does not have are ignored."""
        return msgspec.convert(self.manifest.summary, kind)

    def file(self, name: str) -> Path:
        """Return a file's path, verified. Raises Refused (FT-ART-002, FT-ART-003) if it is missing or changed."""
        path = self.path / name
        if name not in self._verified or self._verified[name] != file_stamp(path):
            violations = self._check(name)
            if violations:
                raise Refused(f"reading {self.asset}", violations)
            self._verified[name] = file_stamp(path)
        return path

    def folder(self, name: str = "") -> Path:
        """Return the path of a sub-folder (or of the whole artifact) after verifying every file in it."""
        for file_name in self.manifest.files:
            if file_name.startswith(name):
                self.file(file_name)
        return self.path / name

    def json(self, name: str) -> Any:
        """Return the content of one JSON file, verified."""
        return json.loads(self.file(name).read_text("utf-8"))

    def verify(self) -> list[Violation]:
        """Return a violation for every file that is missing or differs from the manifest."""
        return list(chain.from_iterable(map(self._check, self.manifest.files)))

    def _check(self, name: str) -> list[Violation]:
        seal = self.manifest.files.get(name)
        path = self.path / name
        fix = f"delete {self.path} and run `ft run --asset {self.asset}`"
        where = str(path)
        if seal is None or not path.is_file() or path.is_symlink():
            return [violation("FT-ART-002", where=where, field="file", found="missing", expected="present", fix=fix)]
        sha256 = file_digest(path)
        if FileSeal(size=path.stat().st_size, sha256=sha256) == seal:
            return []
        return [violation("FT-ART-003", where=where, field="sha256", found=sha256, expected=seal.sha256, fix=fix)]


class ArtifactStore:
    """Reads, publishes, points at and retires artifacts below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cache: dict[
            Path, tuple[tuple[int, int], Artifact]
        ] = {}  # with the stamp of the manifest it was read from

    # -- reading ------------------------------------------------------------------------------------------------
    def find(self, asset: str, recipe_id: str) -> Artifact | None:
        """Return the whole artifact of this recipe, or None."""
        path = self.root / asset / recipe_id
        manifest_path = path / MANIFEST
        stamp = file_stamp(manifest_path)
        if stamp == ABSENT:
            return None
        cached = self._cache.get(path)
        if cached is None or cached[0] != stamp:  # another process may have built it again
            try:
                manifest = msgspec.json.decode(manifest_path.read_bytes(), type=Manifest)
            except msgspec.MsgspecError:
                return None
            cached = self._cache[path] = (stamp, Artifact(path, manifest))
        return cached[1]

    def current(self, asset: str) -> Artifact | None:
        """Return the current artifact of an asset, or None if it was never made.

        Raises Refused (FT-ART-005) if the file that names it is damaged.
        """
        path = self.root / asset / "current.json"
        try:
            pointer = msgspec.json.decode(path.read_bytes(), type=_Pointer)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            fix = f"delete {path} and run `ft run --asset {asset}`: an artifact that is whole is reused"
            damaged = violation("FT-ART-005", where=str(path), field="recipe", found=str(error), fix=fix)
            raise Refused(f"reading {asset}", [damaged]) from error
        return self.find(asset, pointer.recipe)

    def require(self, asset: str) -> Artifact:
        """Return the current artifact. Raises Refused (FT-ART-001) with the command that makes it if there is none."""
        artifact = self.current(asset)
        if artifact is None:
            raise Refused(f"reading {asset}", [violation("FT-ART-001", where=asset, fix=f"ft run --asset {asset}")])
        return artifact

    def versions(self, asset: str) -> list[Artifact]:
        """Return every whole artifact of an asset, newest first."""
        folder = self.root / asset
        found = [self.find(asset, path.name) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return sorted((a for a in found if a is not None), key=lambda a: a.manifest.created_at, reverse=True)

    # -- writing ------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def stage(self, recipe: Recipe) -> Generator[Staging]:
        """Yield a folder to fill. Call `publish()` inside the block; without it the folder is deleted."""
        name = f"{recipe.asset}-{recipe.id}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder = self.root / ".staging" / name
        folder.mkdir(parents=True)
        (folder / ".owner").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield Staging(self, recipe, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def point(self, artifact: Artifact) -> None:
        """Make `artifact` the asset's current one (atomic)."""
        write_json(self.root / artifact.asset / "current.json", {"recipe": artifact.recipe_id})

    def sweep(self) -> list[str]:
        """Remove staging and trash folders whose process is gone. Returns their names."""
        removed: list[str] = []
        for parent in (self.root / ".staging", self.root / ".trash"):
            for folder in parent.iterdir() if parent.is_dir() else ():
                if not _is_owned(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder.name)
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
        return retired

    def discard(self, artifact: Artifact) -> None:
        """Remove one artifact: one rename hides it from readers, then its files are deleted."""
        trash = self.root / ".trash" / f"{artifact.asset}-{artifact.recipe_id}-{uuid.uuid4().hex[:8]}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        artifact.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
        self._cache.pop(artifact.path, None)


class Staging:
    """A folder that is being filled. Nobody sees anything of it before `publish`."""

    def __init__(self, store: ArtifactStore, recipe: Recipe, path: Path) -> None:
        self._store = store
        self.recipe = recipe
        self.path = path

    def publish(self, summary: Mapping[str, object] | msgspec.Struct | None = None) -> Artifact:
        """Seal every file, write the manifest last, fsync, and rename into place. Idempotent for equal recipes."""
        (self.path / ".owner").unlink(missing_ok=True)
        files = seal_files(self.path)
        manifest = Manifest(
            recipe=self.recipe,
            data_version=_content_version(files),
            files=files,
            libraries=library_versions(),
            created_at=time.time(),
            summary=dict(msgspec.to_builtins(summary) or {}),
        )
        write_json(self.path / MANIFEST, msgspec.to_builtins(manifest))
        target = self._store.root / self.recipe.asset / self.recipe.id
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._store.find(self.recipe.asset, self.recipe.id) is None:
            if target.exists():  # half-deleted or foreign: set it aside, never merge with it
                aside = self._store.root / ".trash" / f"{target.name}-{uuid.uuid4().hex[:8]}"
                aside.parent.mkdir(parents=True, exist_ok=True)
                target.rename(aside)
            # another process may have published the same recipe between the look and the rename
            with contextlib.suppress(OSError):
                self.path.rename(target)
            sync_to_disk(target.parent)
        artifact = self._store.find(self.recipe.asset, self.recipe.id)
        if artifact is None:
            raise OSError(f"could not publish {target}: the rename failed and nothing is there")
        return artifact


def seal_files(folder: Path) -> dict[str, FileSeal]:
    """Return the seal of every file below `folder`, by its path there. Files and folders are on the disk then."""
    files: dict[str, FileSeal] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync_to_disk(path)
        files[path.relative_to(folder).as_posix()] = FileSeal(path.stat().st_size, file_digest(path))
    for path in {folder, *(p for p in folder.rglob("*") if p.is_dir())}:
        sync_to_disk(path)
    return files


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that can change an artifact."""
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _content_version(files: Mapping[str, FileSeal]) -> str:
    kept = {n: s.sha256 for n, s in files.items() if not any(fnmatch(Path(n).name, p) for p in VOLATILE)}
    return digest(kept)[:16]


def _is_owned(folder: Path) -> bool:
    """Return whether a process still works in a staging folder. One of another machine counts as working."""
    owner_file = folder / ".owner"
    if not owner_file.is_file():
        # being published right now, or left behind: a young folder counts as in use
        return time.time() - folder.stat().st_mtime < 600
    try:
        owner = json.loads(owner_file.read_text())
    except ValueError:
        return False
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
