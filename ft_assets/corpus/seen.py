"""The ids and texts of passages that came before, for the rules on passages that are there twice.

They are 16-byte digests. A shard keeps what its passages asked for and what they added, so that a later run knows both
without cutting its documents again.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.parquet import read_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from ft_assets.corpus.cut import Passage


class SeenRow(NamedTuple):
    """A passage that was compared with the earlier ones: a row of the file that a shard keeps."""

    id: bytes
    text: bytes
    document_id: str
    source: str
    kept: str = ""
    """The passage that has its text, itself or an earlier one. Empty: nothing of it was added."""
    has_new_text: bool = False


class Seen:
    """The ids and texts of earlier passages."""

    def __init__(self) -> None:
        self._ids: dict[bytes, tuple[str, str]] = {}
        """Of an id -> its source, and the passage that is kept for it."""
        self._texts: dict[bytes, str] = {}
        """Of a text -> the passage that has it."""
        self._shard: _Shard | None = None

    def find(self, passage: Passage) -> tuple[str | None, str | None]:
        """Return the source that has the passage's id already, and the id of the passage that has its text."""
        own, text = _short(passage.passage_id), _text_key(passage)
        used, kept = self._ids.get(own), self._texts.get(text)
        if self._shard:
            self._shard.ask(SeenRow(own, text, passage.document_id, passage.source), used, kept)
        return used[0] if used else None, kept

    def add(self, passage: Passage, kept: str) -> None:
        """Remember a passage; `kept` is the passage that has its text, itself or an earlier one."""
        own, is_new = _short(passage.passage_id), kept == passage.passage_id
        self._ids[own] = passage.source, kept
        if is_new:
            self._texts[_text_key(passage)] = kept
        if self._shard:
            self._shard.add(own, kept, is_new)

    def kept(self, name: str) -> str:
        """Return the passage that has the text of this id."""
        _, kept = self._ids.get(_short(name), ("", name))
        return kept

    def begin_shard(self) -> None:
        """Note what the passages from here on ask for, and what they find of earlier shards."""
        self._shard = _Shard()

    def end_shard(self, path: Path) -> str:
        """Write what the passages of the shard asked for and added to a file. Return a hash of what they found."""
        if self._shard is None:
            raise ValueError("no shard was begun")
        shard, self._shard = self._shard, None
        _write(path, shard.rows)
        return shard.found.hexdigest()

    def would_find(self, rows: Sequence[SeenRow]) -> str:
        """Return the hash that `end_shard` would return for the passages of a shard that asked for these."""
        shard = _Shard()
        for row in rows:
            used, kept = self._ids.get(row.id), self._texts.get(row.text)
            if used or kept:
                shard.ask(row, used, kept)
        return shard.found.hexdigest()

    def adopt(self, rows: Sequence[SeenRow]) -> set[str]:
        """Add what a shard added. Return the ids of its documents that have passages."""
        documents: set[str] = set()
        for row in rows:
            if row.kept:
                self._ids[row.id] = row.source, row.kept
            if row.has_new_text:
                self._texts[row.text] = row.kept
                documents.add(row.document_id)
        return documents


class _Shard:
    """The passages of a shard, in the order of their comparison, and a hash of what they find of earlier shards."""

    def __init__(self) -> None:
        self.rows: list[SeenRow] = []
        self.found = hashlib.blake2b(digest_size=16)
        self._own: set[bytes] = set()

    def ask(self, row: SeenRow, used: tuple[str, str] | None, kept: str | None) -> None:
        """Note a passage, and what the earlier ones have of it."""
        self.rows.append(row)
        if used and row.id not in self._own:
            self.found.update("\0".join(("id", row.id.hex(), *used, "")).encode())
        if kept and row.text not in self._own:
            self.found.update("\0".join(("text", row.text.hex(), kept, "")).encode())

    def add(self, own: bytes, kept: str, is_new: bool) -> None:
        """Note that the last passage was added."""
        row = self.rows[-1]._replace(kept=kept, has_new_text=is_new)
        self.rows[-1] = row
        self._own.add(own)
        if is_new:
            self._own.add(row.text)


def _write(path: Path, rows: list[SeenRow]) -> None:
    import pyarrow.parquet as pq

    repeated: Any = ["document_id", "source"]
    pq.write_table(_table(rows), path, compression="zstd", use_dictionary=repeated)


def _table(rows: list[SeenRow]) -> pa.Table:
    import pyarrow as pa

    kinds = [pa.binary(16), pa.binary(16), pa.string(), pa.string(), pa.string(), pa.bool_()]
    columns = zip(*rows, strict=True) if rows else [[]] * len(kinds)
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=list(SeenRow._fields))


def read_seen(path: Path) -> list[SeenRow]:
    """Return the rows that `end_shard` wrote to a file."""
    columns = read_columns(path, SeenRow._fields)
    return list(map(SeenRow._make, zip(*columns.values(), strict=True)))


def _text_key(passage: Passage) -> bytes:
    payload = getattr(passage, "payload", "")
    return _short(f"{passage.text}\0{payload}" if payload else passage.text)


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
