"""The artifacts of a bucket: published by one object, fetched when they are read.

    <asset>/<recipe id>/manifest.json        names the folder of its files; created once, last
    <asset>/<recipe id>/<publisher>/<file>   the files of one publisher
    <asset>/current.json                     the recipe that is current
    .locks/leases/<asset>.json               who makes the next version of an asset from its last one

The local store (artifacts.py) is the cache: the same folders, with the files that this machine has read or made.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import msgspec

from resources import faults
from resources.bucket import Bucket, Object

MANIFEST, POINTER, _LOCKS = "manifest.json", "current.json", ".locks"
_LEFT_BEHIND = 24 * 3600.0
"""Seconds after which files that no manifest names belong to a publisher that ended."""


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of a manifest object: the text of manifest.json as it was sealed, and the folder of the files."""

    folder: str
    manifest: str


class BucketPlace(NamedTuple):
    """An artifact that is in the bucket, and where its files are."""

    asset: str
    recipe: str
    published: Published


class SharedArtifacts:
    """The artifacts of several machines in one bucket. Every call raises Refused (FT-ART-009) as Bucket does."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def find(self, asset: str, recipe: str) -> BucketPlace | None:
        """Return a published artifact, or None. A manifest object that is damaged counts as none."""
        found = self.mark(asset, recipe)
        try:
            return BucketPlace(asset, recipe, msgspec.json.decode(found.content, type=Published)) if found else None
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None

    def mark(self, asset: str, recipe: str) -> Object | None:
        """Return the manifest object as it is, also a damaged one, for `publish` to replace."""
        return self._bucket.read(f"{asset}/{recipe}/{MANIFEST}")

    def publish(self, asset: str, recipe: str, files: Mapping[str, Path], manifest: str, before: Object | None) -> bool:
        """Publish files by their names, in place of a manifest that was found damaged (`before`; None: there is none).

        Returns False, with nothing left, if another publisher was first.
        """
        folder = uuid.uuid4().hex
        keys = {f"{asset}/{recipe}/{folder}/{name}": path for name, path in files.items()}
        for key, path in keys.items():
            faults.point("bucket.send")
            self._bucket.write(key, path)
        key, content = f"{asset}/{recipe}/{MANIFEST}", msgspec.json.encode(Published(folder, manifest))
        faults.point("bucket.publish")
        if self._bucket.replace(key, content, before.e_tag) if before else self._bucket.create(key, content):
            return True
        self._bucket.delete(*keys)
        return False

    def fetch(self, place: BucketPlace, name: str, path: Path) -> bool:
        """Write one file of an artifact to `path`. Return False if it is not there."""
        return self._bucket.fetch(f"{place.asset}/{place.recipe}/{place.published.folder}/{name}", path)

    def discard(self, asset: str, recipe: str) -> None:
        """Remove an artifact: its manifest first, which hides it from readers."""
        found = self.find(asset, recipe)
        self._bucket.delete(f"{asset}/{recipe}/{MANIFEST}")
        if found:
            below = self._bucket.below(f"{asset}/{recipe}/{found.published.folder}")
            below.delete(*(stored.key for stored in below.objects()))

    def sweep(self, asset: str) -> None:
        """Remove files that no manifest names and that nobody publishes any more."""
        below = self._bucket.below(asset)
        now, objects = time.time(), below.objects()
        for recipe in {stored.key.partition("/")[0] for stored in objects if stored.key.count("/") > 1}:
            found = self.find(asset, recipe)
            named = f"{recipe}/{found.published.folder}/" if found else None
            for stored in objects:
                is_file = stored.key.startswith(f"{recipe}/") and stored.key.count("/") > 1
                if is_file and not (named and stored.key.startswith(named)) and now - stored.changed > _LEFT_BEHIND:
                    below.delete(stored.key)

    def pointer(self, asset: str) -> bytes | None:
        """Return the content of current.json, or None."""
        found = self._bucket.read(f"{asset}/{POINTER}")
        return found.content if found else None

    def where(self, asset: str) -> str:
        """Return the address of current.json, for messages."""
        return f"{self._bucket.url}/{asset}/{POINTER}"

    def point(self, asset: str, content: bytes) -> None:
        """Replace current.json. Of two at once the last one stays, as with files."""
        self._bucket.write(f"{asset}/{POINTER}", content)

    def alone(self, asset: str) -> AbstractContextManager[object]:
        """Keep the other machines out, as the store's `alone` does."""
        return self._bucket.below(_LOCKS).lease(asset)

    def assets(self) -> list[str]:
        """Return every asset of which something is there."""
        return [name for name in self._bucket.folders() if name != _LOCKS]

    def recipes(self, asset: str) -> list[str]:
        """Return the recipe ids of an asset of which something is there."""
        return self._bucket.below(asset).folders()
