"""Encodes the corpus once for each model: vectors that an earlier run made of the same text are reused."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.model import MODEL_FOLDER, Encoded, HybridEncoder
from ft_assets.retrieval.jobs import VectorsSummary
from ft_assets.retrieval.vectors import (
    CONTRACT_FILE,
    CUT_FILE,
    VECTORS_FILE,
    CutPassage,
    contract_of,
    read_cut,
    schema,
    vector_writer,
)
from resources import accelerator
from resources.artifacts import Artifact, ArtifactStore, write_json
from resources.launcher import ComputeParams, Job, run_worker
from resources.parquet import row_count
from resources.telemetry import Metrics
from resources.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 1024  # passages between two writes: it sets the peak of memory, whatever the size of the corpus
_NAMES = ("passage_id", "document_id", "heading", "content_sha256")
_ARMS = ("dense", "sparse_indices", "sparse_values")


def main(job: Job) -> Artifact:
    """Publish `passage_vectors`: full-width vectors of every passage."""
    # oneDNN keeps a kernel for each of the last 1024 shapes it met, hundreds of MB: every chunk brings new ones
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")
    import pyarrow as pa

    model, passages = job.input("embedding_model"), job.input("passages")
    contract = contract_of(model)
    width = contract.dense.dimensions[0]
    source = _Vectors(model, job.params_as(ComputeParams), _find_earlier(job.artifacts(), contract.encode_fp), width)
    cut: list[CutPassage] = []
    metrics = Metrics(job.folder())
    empty = done = 0
    total = row_count(passages.file(PASSAGES))
    with job.artifacts().stage(job.recipe) as staging:
        write_json(staging.path / CONTRACT_FILE, contract.to_json())
        with vector_writer(staging.path / VECTORS_FILE, width) as writer:
            for chunk in _chunks(passages):
                vectors = source.of(chunk)
                columns = [*map(chunk.column, _NAMES), *map(vectors.column, _ARMS)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema(width)))
                empty += vectors.column("sparse_indices").combine_chunks().value_lengths().to_pylist().count(0)
                cut += source.cut_in(chunk)
                done += len(chunk)
                metrics.log("encode", done, total, encoded=source.encoded, reused=source.reused)
                _release_memory()
        metrics.close()
        write_json(staging.path / CUT_FILE, msgspec.to_builtins(sorted(cut, key=lambda passage: -passage.tokens)))
        summary = VectorsSummary(
            passages=done,
            encoded=source.encoded,
            reused=source.reused,
            empty_sparse=empty,
            cut=len(cut),
            dimension=width,
        )
        return staging.publish(summary)


class _Vectors:
    """Gives the vectors of passages: those of an earlier artifact where it has them, else encoded now. Counts both."""

    def __init__(self, model: Artifact, params: ComputeParams, earlier: Earlier, width: int) -> None:
        self.encoded = self.reused = 0
        self._model, self._params, self._earlier, self._width = model, params, earlier, width
        self._encoder: HybridEncoder | None = None
        self._tokens = dict(earlier.cut or {})
        """Content hash -> tokens, of the texts that are cut."""

    def of(self, chunk: pa.RecordBatch) -> pa.Table:
        """Return a table with the vectors of a chunk's passages, in their order."""
        import pyarrow as pa

        hashes: list[str] = chunk.column("content_sha256").to_pylist()
        earlier = self._earlier.take(hashes)
        tables = [earlier] if earlier else []
        known = set(earlier.column("content_sha256").to_pylist()) if earlier else set[str]()
        fresh = {sha: row for row, sha in enumerate(hashes) if sha not in known}
        if known and self._earlier.cut is None:  # by a release that did not note them
            self._note_cut(chunk, known)
        if fresh:
            texts = chunk.column("content").take(list(fresh.values())).to_pylist()
            encoded = self._encode(texts)
            if encoded.cut:
                self._note_cut(chunk, fresh)
            tables.append(_encodings(list(fresh), encoded, self._width))
        self.encoded += len(fresh)
        self.reused += len(chunk) - len(fresh)
        table = pa.concat_tables(tables)
        # each text is in the table once; passages with equal texts take the same row
        rows = {sha: row for row, sha in enumerate(table.column("content_sha256").to_pylist())}
        return table.take([rows[sha] for sha in hashes])

    def cut_in(self, chunk: pa.RecordBatch) -> list[CutPassage]:
        """Return the passages of a chunk of which the encoder reads only a part."""
        pairs = zip(chunk.column("passage_id").to_pylist(), chunk.column("content_sha256").to_pylist(), strict=True)
        return [CutPassage(name, sha, self._tokens[sha]) for name, sha in pairs if sha in self._tokens]

    def _note_cut(self, chunk: pa.RecordBatch, hashes: Collection[str]) -> None:
        """Count the tokens of these texts of a chunk, and keep those beyond the limit."""
        limits = contract_of(self._model).texts
        columns = zip(chunk.column("content_sha256").to_pylist(), chunk.column("content").to_pylist(), strict=True)
        texts = {sha: limits.passage_prompt + text for sha, text in columns if sha in hashes}
        counts = Tokenizer(self._model.folder(MODEL_FOLDER)).count(list(texts.values()))
        lengths = zip(texts, counts, strict=True)
        self._tokens |= {sha: tokens for sha, tokens in lengths if tokens > limits.passage_max_tokens}

    def _encode(self, texts: list[str]) -> Encoded:
        if self._encoder is None:  # not loaded if every passage is known
            compute = accelerator.choose(self._params.device, self._params.dtype)
            self._encoder = HybridEncoder.load(self._model.folder(), compute)
        return self._encoder.encode(texts, "passage")


class Earlier:
    """The vectors of an earlier artifact, read from its file on request. Without an artifact it has none."""

    def __init__(self, artifact: Artifact | None) -> None:
        self._artifact = artifact
        self.cut = _cut_of(artifact)
        """Content hash -> tokens, of texts that were cut; None if the artifact does not tell."""
        keys, groups = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number, hashes in enumerate(_hashes(artifact) if artifact else ()):
            keys.append(_keys(hashes))
            groups.append(np.full(len(hashes), number, np.int32))
        # twelve bytes a row, where the vectors themselves are thousands
        keys, groups = np.concatenate(keys), np.concatenate(groups)
        order = np.argsort(keys)
        self._keys, self._groups = keys[order], groups[order]

    def take(self, hashes: Sequence[str]) -> pa.Table | None:
        """Return a table with content hash and vectors of the texts that it has, or None if it has none of them.

        Texts that are close together in the file cost one read.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if self._artifact is None or not len(self._keys):
            return None
        keys = _keys(hashes)
        positions = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        groups = np.unique(self._groups[positions[self._keys[positions] == keys]])
        if not len(groups):
            return None
        file = pq.ParquetFile(self._artifact.file(VECTORS_FILE))
        table = file.read_row_groups(groups.tolist(), ["content_sha256", *_ARMS])
        return table.filter(pc.field("content_sha256").isin(hashes))


def _cut_of(artifact: Artifact | None) -> dict[str, int] | None:
    if artifact is None or CUT_FILE not in artifact.manifest.files:
        return None
    return {passage.content_sha256: passage.tokens for passage in read_cut(artifact)}


def _keys(hashes: Sequence[str]) -> np.ndarray:
    """Return the first 64 bits of each hash. They find the row group; the whole hash is compared there."""
    return np.array([int(sha[:16], 16) for sha in hashes], np.uint64)


def _hashes(artifact: Artifact) -> Iterator[list[str]]:
    """Yield the content hashes of each row group."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(artifact.file(VECTORS_FILE))
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, ["content_sha256"]).column(0).to_pylist()


def _find_earlier(store: ArtifactStore, encode_fp: str) -> Earlier:
    """Return the newest whole artifact whose vectors have the same `encode_fp`."""
    for artifact in store.versions("passage_vectors"):
        if not artifact.verify() and contract_of(artifact).encode_fp == encode_fp:
            return Earlier(artifact)
    return Earlier(None)


def _encodings(hashes: list[str], encoded: Encoded, width: int) -> pa.Table:
    """Return a table like that of `Earlier.take` for texts that were encoded now."""
    import pyarrow as pa

    columns = {
        "content_sha256": hashes,
        "dense": list(encoded.dense),
        "sparse_indices": [ids for ids, _ in encoded.sparse],
        "sparse_values": [weights for _, weights in encoded.sparse],
    }
    return pa.table(columns, schema=pa.schema([schema(width).field(name) for name in columns]))


def _release_memory() -> None:
    """Give freed memory back to the system: glibc would keep it in pieces that do not fit the next chunk's shapes."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _chunks(passages: Artifact) -> Iterator[pa.RecordBatch]:
    """Yield the passages as record batches."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(passages.file(PASSAGES))
    yield from file.iter_batches(batch_size=_CHUNK, columns=[*_NAMES, "content"])


if __name__ == "__main__":
    run_worker(main)
