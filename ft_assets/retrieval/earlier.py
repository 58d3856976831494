"""Vectors that an earlier run made, used again: shards of the corpus that did not change, and texts of the others."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from expectations.contracts.embedding import EmbeddingContract
from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.lexical import FrequencyCounter
from ft_assets.retrieval.vectors import (
    ARMS,
    CUT_FILE,
    VECTORS_FILE,
    VectorShard,
    contract_of,
    read_cut,
    read_terms,
    vectors_file,
)
from resources.artifacts import Artifact, Staging
from resources.launcher import Job
from resources.parquet import BLOCK, open_tables, table_batches

if TYPE_CHECKING:
    import pyarrow as pa


def find_earlier(job: Job, wanted: EmbeddingContract) -> Earlier:
    """Return the newest whole artifact whose vectors can be reused: dense, and lexical unless BM25 replaces them.

    Where the model multiplies BM25, its states are needed again for other lexical vectors: they are not replaced.
    """
    replaced = wanted.lexical is not None and wanted.lexical.kind == "bm25"
    for artifact in job.artifacts().versions(job.recipe.asset):
        damaged = artifact.damaged_files()
        if damaged - set(artifact.table_parts(VECTORS_FILE)):
            continue
        stored = contract_of(artifact)
        usable = replaced or stored.lexical_side == wanted.lexical_side
        if usable and stored.encode_fp == wanted.encode_fp and VECTORS_FILE not in damaged:
            return Earlier(artifact, wanted, job.input("passages"), damaged)
    return Earlier(None)


class Earlier:
    """The vectors of an earlier artifact, read from its files on request. Without an artifact it has none."""

    def __init__(
        self,
        artifact: Artifact | None,
        wanted: EmbeddingContract | None = None,
        passages: Artifact | None = None,
        damaged: Container[str] = frozenset(),
    ) -> None:
        """Shards of `passages` that have vectors of the `wanted` contract are shared; texts are taken from others.

        `damaged`: files that are not read.
        """
        self._artifact = artifact
        self.cut = _cut_of(artifact)
        """Content hash -> tokens, of texts that were cut; None if the artifact has no list of them."""
        self._shards: dict[str, VectorShard] = {}
        """By the sha256 of the passages' file."""
        tables = [name for name in artifact.table_parts(VECTORS_FILE) if name not in damaged] if artifact else []
        if artifact and wanted and passages and self.has_lexical(wanted):
            sources = {passages.manifest.files[name].sha256 for name in passages.table_parts(PASSAGES)}
            whole = [
                shard for shard in artifact.shards(VECTORS_FILE, VectorShard) if vectors_file(shard.name) in tables
            ]
            self._shards = {shard.passages: shard for shard in whole if shard.passages in sources}
            shared = {vectors_file(shard.name) for shard in self._shards.values()}
            tables = [name for name in tables if name not in shared]
        self._tables = tables
        keys, groups = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        self._groups: list[tuple[str, int]] = []
        for table, group, hashes in self._hashes():
            keys.append(_keys(hashes))
            groups.append(np.full(len(hashes), len(self._groups), np.int32))
            self._groups.append((table, group))
        # twelve bytes a row, where the vectors themselves are thousands
        keys, groups = np.concatenate(keys), np.concatenate(groups)
        order = np.argsort(keys)
        self._keys, self._group_of = keys[order], groups[order]

    def has_lexical(self, wanted: EmbeddingContract) -> bool:
        """Return whether the lexical vectors are of BM25 with the same passages' side."""
        return self._artifact is not None and contract_of(self._artifact).lexical_side == wanted.lexical_side

    def shard_of(self, passages: Artifact, name: str) -> VectorShard | None:
        """Return the vectors of a file of passages, if there are any of the same content."""
        return self._shards.get(passages.manifest.files[name].sha256)

    def share(self, shard: VectorShard, name: str, staging: Staging) -> VectorShard:
        """Put the vectors of a shard into a new artifact, without a copy, for the passages' file of this name."""
        if self._artifact:
            staging.link(self._artifact, vectors_file(shard.name), vectors_file(name))
        return replace(shard, name=Path(name).stem)

    def count_terms(self) -> FrequencyCounter:
        """Return a counter that knows the terms of all shards that are shared."""
        counter = FrequencyCounter()
        if self._artifact is None or not self._shards:
            return counter
        names = [vectors_file(shard.name) for shard in self._shards.values()]
        # the other shards are few, as a rule; one that cannot be read cannot be taken from the sum either
        subtract = len(names) + len(self._tables) == len(self._artifact.table_parts(VECTORS_FILE))
        if subtract:
            read_terms(self._artifact, counter)
        files = [*map(self._artifact.file, self._tables if subtract else names)]
        for batch in table_batches(files, BLOCK, ["sparse_indices"]):
            counter.add(batch.column(0).flatten().to_numpy(), len(batch), gone=subtract)
        return counter

    def take(self, hashes: Sequence[str]) -> pa.Table | None:
        """Return a table with content hash and vectors of the texts that it has, or None if it has none of them.

        Texts that are close together in the file cost one read.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if self._artifact is None or not len(self._keys):
            return None
        keys = _keys(hashes)
        positions = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        groups = np.unique(self._group_of[positions[self._keys[positions] == keys]])
        if not len(groups):
            return None
        tables: list[pa.Table] = []
        for table, found in groupby((self._groups[group] for group in groups.tolist()), key=itemgetter(0)):
            file = pq.ParquetFile(self._artifact.file(table))
            tables.append(file.read_row_groups([group for _, group in found], ["content_sha256", *ARMS]))
        return pa.concat_tables(tables).filter(pc.field("content_sha256").isin(hashes))

    def _hashes(self) -> Iterator[tuple[str, int, list[str]]]:
        """Yield the name of the file, the number and the content hashes of each row group."""
        if self._artifact is None:
            return
        for name in self._tables:
            for file in open_tables(self._artifact.file(name)):
                for group in range(file.num_row_groups):
                    yield name, group, file.read_row_group(group, ["content_sha256"]).column(0).to_pylist()


def _cut_of(artifact: Artifact | None) -> dict[str, int] | None:
    if artifact is None or CUT_FILE not in artifact.manifest.files:
        return None
    return {passage.content_sha256: passage.tokens for passage in read_cut(artifact)}


def _keys(hashes: Sequence[str]) -> np.ndarray:
    """Return the first 64 bits of each hash. They find the row group; the whole hash is compared there."""
    return np.array([int(sha[:16], 16) for sha in hashes], np.uint64)
