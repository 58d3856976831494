"""Replies by call, so that no call is paid for twice: the memory of runs that were killed, stopped or repeated.

    <state>/generated_calls/calls-1.sqlite

A reply is found by the hash of what decides it (`call_key`), and every row carries a seal: a row that differs from its
seal is deleted and asked again. A reply is written when it arrives, so kill -9 loses only what was being asked. Several
processes may use the file. Losing it costs tokens and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Generator, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from expectations.violations import Refused, violation
from resources import faults
from resources.text_source import ModelReply

_FOLDER = "generated_calls"
_FILE = "calls-1.sqlite"
"""The number is the version of the table: another version begins another file."""
_MAX_BYTES = 4 * 2**30  # about ten million short replies
_SYNC_CALLS, _SYNC_SECONDS = 64, 5.0
_BUSY_SECONDS = 60.0
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_log = logging.getLogger(__name__)


class CallCache:
    """The replies in a state folder. Above `max_bytes` the oldest quarter is deleted."""

    def __init__(self, state: Path, max_bytes: int = _MAX_BYTES) -> None:
        self.path, self._max_bytes = state / _FOLDER / _FILE, max_bytes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unsynced, self._synced_at = 0, time.monotonic()
        with self._named():
            self._database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            # a commit is safe against the end of the process at once, and against that of the machine after `_sync`
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS calls "
                "(number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, reply BLOB NOT NULL, seal BLOB NOT NULL)"
            )

    def get(self, keys: Sequence[str]) -> dict[str, ModelReply]:
        """Return the replies that are here, by key; a few hundred keys at most."""
        query = "SELECT calls.key, reply, seal FROM calls JOIN json_each(?) AS wanted ON calls.key = wanted.value"
        replies: dict[str, ModelReply] = {}
        with self._named():
            rows: list[tuple[str, bytes, bytes]] = self._database.execute(query, [json.dumps(list(keys))]).fetchall()
            for key, reply, seal in rows:
                if seal == _seal(key, reply):
                    replies[key] = msgspec.msgpack.decode(reply, type=ModelReply)
                else:
                    _log.warning("%s: the reply of call %s is damaged; it is asked again", self.path, key)
                    self._database.execute("DELETE FROM calls WHERE key = ?", [key])
        return replies

    def put(self, key: str, reply: ModelReply) -> ModelReply:
        """Keep a reply, and return the one that is kept: of several processes the first one's."""
        packed = msgspec.msgpack.encode(reply)
        faults.point("calls.put")
        with self._named():
            added = self._database.execute(
                "INSERT INTO calls (key, reply, seal) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [key, packed, _seal(key, packed)],
            ).rowcount
            self._unsynced += added
            if self._unsynced >= _SYNC_CALLS or time.monotonic() - self._synced_at >= _SYNC_SECONDS:
                self._sync()
        return reply if added else self.get([key]).get(key, reply)

    def close(self) -> None:
        """Bring all replies to the disk and close the file."""
        with self._named():
            self._sync()
            self._database.close()

    def _sync(self) -> None:
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if self._bytes() > self._max_bytes:
            first, last = self._database.execute("SELECT min(number), max(number) FROM calls").fetchone()
            self._database.execute("DELETE FROM calls WHERE number <= ?", [first + (last - first) // 4])
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _bytes(self) -> int:
        size, pages, free = (
            int(self._database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        )
        return size * (pages - free)

    @contextlib.contextmanager
    def _named(self) -> Generator[None]:
        """Name the file where it is damaged (FT-GEN-011)."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                raise
            fix = f"Delete the folder {self.path.parent}. All calls are asked again then."
            damaged = violation("FT-GEN-011", where=str(self.path), message=f"The file is damaged: {error}", fix=fix)
            raise Refused("reading the call cache", [damaged]) from error


def _seal(key: str, reply: bytes) -> bytes:
    return blake2b(key.encode() + reply, digest_size=8).digest()
