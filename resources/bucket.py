"""Objects of a bucket (S3, Google Cloud Storage, Azure), for states that share no file system.

    <url>/artifacts/…            the artifact store (artifacts.py)
    <url>/released/…             the records of releases (releases.py)
    …/leases/<name>.json         who works alone on something, and until when

An object appears whole or not at all. Two conditions make the rest: an object is created only where there is none, and
replaced only where it is still the one that was read. A bucket that knows no conditions is refused.
"""

# obstore's answers are typed loosely
# pyright: basic
from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from expectations.violations import Refused, violation
from resources.memo import Memo

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STORE_URL = "FT_STORE_URL"
"""Address of the bucket, `s3://bucket/prefix`. Its credentials come from the environment alone, as its library has
them."""
LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_SCHEMES = ("s3", "gs", "az")


class Object(NamedTuple):
    """The content of an object, and the mark by which it is known to be unchanged."""

    content: bytes
    e_tag: str


class Stored(NamedTuple):
    """An object in a listing. `changed`: seconds since 1970."""

    key: str
    changed: float


class _Lease(msgspec.Struct, frozen=True):
    owner: str
    until: float


class Bucket:
    """The calls on objects that the platform needs. Every key is below the bucket's prefix.

    Each call raises Refused (FT-ART-009) if the bucket does not answer as it should.
    """

    def __init__(self, store: ObjectStore, url: str, prefix: str = "") -> None:
        self._store, self._prefix, self.url = store, prefix, url

    def below(self, prefix: str) -> Bucket:
        """Return the objects below a prefix as a bucket of its own."""
        return Bucket(self._store, f"{self.url}/{prefix}", self._key(prefix))

    def read(self, key: str) -> Object | None:
        """Return an object; None if there is none."""
        import obstore

        with self._names_failure():
            try:
                found = obstore.get(self._store, self._key(key))
                return Object(bytes(found.bytes()), str(found.meta["e_tag"]))
            except FileNotFoundError:
                return None

    def create(self, key: str, content: bytes) -> bool:
        """Write an object where there is none. Return False, with nothing written, where there is one."""
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(key, content, "create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, key: str, content: bytes, e_tag: str) -> bool:
        """Write an object in place of the one that was read. Return False, with nothing written, if it is another one
        or gone."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._put(key, content, {"e_tag": e_tag})
        except (PreconditionError, AlreadyExistsError, FileNotFoundError):
            return False
        return True

    def write(self, key: str, content: bytes | Path) -> None:
        """Write an object, or a file as one, whatever is there. Of two writers the last one stays."""
        self._put(key, content, "overwrite")

    def fetch(self, key: str, path: Path) -> bool:
        """Write an object into a file. Return False if there is no such object."""
        import obstore

        with self._names_failure():
            try:
                found = obstore.get(self._store, self._key(key))
            except FileNotFoundError:
                return False
            with path.open("wb") as stream:
                for block in found.stream(min_chunk_size=8 << 20):
                    stream.write(block)
            return True

    def delete(self, *keys: str) -> None:
        """Delete objects, those that are there."""
        import obstore

        with self._names_failure():
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, self._key(key))

    def folders(self) -> list[str]:
        """Return the first parts of the keys that have several."""
        import obstore

        with self._names_failure():
            found = obstore.list_with_delimiter(self._store, self._prefix or None)
            return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def objects(self) -> list[Stored]:
        """Return all objects."""
        import obstore

        with self._names_failure():
            start = len(self._prefix) + 1 if self._prefix else 0
            listed = chain.from_iterable(obstore.list(self._store, self._prefix or None))
            return [Stored(str(one["path"])[start:], one["last_modified"].timestamp()) for one in listed]

    @contextlib.contextmanager
    def lease(self, name: str, *, wait: float | None = None) -> Generator[None]:
        """Keep every other holder of this name out for the length of the block, on whatever machine.

        `wait`: seconds, None without end. Raises BlockingIOError if another one still holds it after them. The lease
        of a process that ended is free after a minute; a process that was halted for longer has lost it, so whatever
        it then writes must be written by `replace`.
        """
        key = f"leases/{name}.json"
        deadline = None if wait is None else time.monotonic() + wait
        owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        while not self._take(key, owner):
            if deadline is not None and time.monotonic() >= deadline:
                raise BlockingIOError(f"another process holds {key} in {self.url}")
            time.sleep(_POLL_SECONDS)
        over = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(key, owner, over), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            over.set()
            renewing.join()
            with contextlib.suppress(Refused):  # a bucket that does not answer: the lease ends by itself
                held = self.read(key)
                if held and _lease_of(held).owner == owner:
                    self.delete(key)

    def _take(self, key: str, owner: str) -> bool:
        """Return whether the lease is this owner's now: it was free, or is renewed."""
        mine = msgspec.json.encode(_Lease(owner, time.time() + LEASE_SECONDS))
        held = self.read(key)
        if held is None:
            return self.create(key, mine)
        other = _lease_of(held)
        return (other.owner == owner or other.until < time.time()) and self.replace(key, mine, held.e_tag)

    def _renew(self, key: str, owner: str, over: threading.Event) -> None:
        while not over.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(Refused):  # the bucket may answer the next time
                held = self.read(key)
                if held is None or _lease_of(held).owner != owner:
                    return  # halted for so long that another one took it
                self._take(key, owner)

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, content: bytes | Path, mode: Any) -> None:
        import obstore

        with self._names_failure():
            obstore.put(self._store, self._key(key), content, mode=mode)

    @contextlib.contextmanager
    def _names_failure(self) -> Iterator[None]:
        """Raise Refused (FT-ART-009) for what is neither a missing object nor a condition that is not met."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, PermissionError, NotImplementedError) as error:
            raise _refused(self.url, str(error).partition("\n")[0]) from error


def _lease_of(held: Object) -> _Lease:
    """Return a lease; one that cannot be read is nobody's."""
    try:
        return msgspec.json.decode(held.content, type=_Lease)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _Lease("", 0.0)


_buckets = Memo[Bucket](size=4)
"""The buckets that this process has opened and tried, by address."""


def bucket_of_environment() -> Bucket | None:
    """Return the bucket that FT_STORE_URL names; None where the state is a folder alone.

    Raises Refused (FT-ART-009) on an address that is none, holds a password, or is of a bucket without conditions.
    """
    url = os.environ.get(STORE_URL, "").rstrip("/")
    return _buckets.get(url, lambda: _open(url)) if url else None


def _open(url: str) -> Bucket:
    address = urlsplit(url)
    if address.username or address.password:
        raise _refused(f"{address.scheme}://…", "an address with a user name or a password")
    if address.scheme not in _SCHEMES or not address.netloc:
        raise _refused(url, "an address of no bucket")
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise _refused(url, "no module obstore: pip install 'ft-assets[bucket]'") from error
    try:
        store = from_url(url, retry_config={"retry_timeout": timedelta(seconds=60)})
    except (BaseError, ValueError) as error:
        raise _refused(url, str(error).partition("\n")[0]) from error
    return require_conditions(Bucket(store, url))


def require_conditions(bucket: Bucket) -> Bucket:
    """Return a bucket that knows both conditions. Raises Refused (FT-ART-009) on one that ignores them."""
    key = f".conditions/{uuid.uuid4().hex}"
    if not bucket.create(key, b"1") or bucket.create(key, b"2") or bucket.replace(key, b"3", '"another"'):
        raise _refused(bucket.url, "a bucket that ignores conditions (If-None-Match, If-Match)")
    bucket.delete(key)
    return bucket


def _refused(url: str, found: str) -> Refused:
    refusal = violation("FT-ART-009", where=url, field=STORE_URL, found=found, expected="a bucket with conditions")
    return Refused("opening the shared store", [refusal])
