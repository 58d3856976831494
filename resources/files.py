"""Files that several processes use: a lock, a write that is never seen half done, and the stamp of a file."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import stat
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from resources import faults

_POLL_SECONDS = 0.05
ABSENT = (-1, -1)
"""The stamp of a file that does not exist."""


@contextmanager
def file_lock(path: Path, *, wait: float | None = None, on_wait: Callable[[], None] | None = None) -> Generator[TextIO]:
    """Hold an exclusive lock on a file for the length of the block, and yield the open file.

    The file is created where it is missing, and its text is left as it is. The lock ends with its process. A file that
    may not be written is locked as well. `wait`: seconds, None without end; `on_wait` is called once if another process
    holds it. Raises BlockingIOError if that process still holds it after `wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "a+" if os.access(path if path.exists() else path.parent, os.W_OK) else "r"
    with path.open(mode, encoding="utf-8") as stream:
        _lock(stream, wait, on_wait)
        yield stream


def _lock(stream: TextIO, wait: float | None, on_wait: Callable[[], None] | None) -> None:
    deadline = math.inf if wait is None else time.monotonic() + wait
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        if on_wait:
            on_wait()
            on_wait = None
        if wait is None:
            fcntl.flock(stream, fcntl.LOCK_EX)
            return
        time.sleep(_POLL_SECONDS)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on a file, or may do so. The file is not created; others may look at the
    same time, because a shared lock is asked for (over NFS, an exclusive one would need a file open for writing)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's
        return True
    with os.fdopen(descriptor) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text so that a reader sees the old file or the new one, never half of it. It is on the disk then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    faults.point(f"write {path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        faults.point(f"rename {path.name}")
        temporary.replace(path)
    except OSError:  # a full disk must not keep half a file as well
        temporary.unlink(missing_ok=True)
        raise
    faults.point(f"sync {path.name}")
    sync_to_disk(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n")


def keep_newest(folder: Path, pattern: str, count: int) -> None:
    """Delete the files of this pattern in a folder but for the newest `count`. Another process may do so too."""
    newest_first = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[count:]:
        old.unlink(missing_ok=True)


def file_stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its time of change in nanoseconds; `ABSENT` if there is no such file.

    An equal stamp means that the file is unchanged.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else ABSENT


def sync_to_disk(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder and leave holes in its files: the write-ahead log is reserved and mostly empty."""
    for folder, _, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in files:
            copy_file(Path(folder) / name, place / name)
            sync_to_disk(place / name)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file and leave its holes."""
    with source.open("rb") as read, target.open("wb") as write:
        for start, end in data_extents(read.fileno()):
            at = os.lseek(write.fileno(), start, os.SEEK_SET)
            while at < end:
                at += os.sendfile(write.fileno(), read.fileno(), at, end - at)
        os.truncate(write.fileno(), os.fstat(read.fileno()).st_size)


def data_extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each part of an open file that is no hole."""
    end, size = 0, os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole from here on
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
