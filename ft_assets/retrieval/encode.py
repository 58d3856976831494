"""Encodes the corpus once for each model: rows that an earlier run made of the same text are taken over."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ft_assets.embedding.model import HybridEncoder, SparseVector
from ft_assets.retrieval.vectors import CONTRACT_FILE, FILE, contract_of, read_vectors, schema, vector_writer
from resources import accelerator
from resources.artifacts import Artifact, ArtifactStore, write_json
from resources.launcher import Job, run_worker
from resources.parquet import read_rows
from resources.telemetry import Metrics

CHUNK = 1024  # passages between two writes: the peak of memory, whatever the size of the corpus

Cached = dict[str, tuple[np.ndarray, SparseVector]]
"""content sha256 -> dense and lexical vector"""


def main(job: Job) -> Artifact:
    """Publish `passage_vectors`: full-width vectors of every passage; summary says how many were encoded and reused."""
    # oneDNN keeps a kernel for each of the last 1024 shapes it met, hundreds of MB: every chunk brings new ones
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")
    store = job.artifacts()
    model, passages = job.input("embedding_model"), job.input("passages")
    contract = contract_of(model)
    width = contract.dense.dimensions[0]
    earlier = _earlier(store, contract.encode_fp)
    encoder: HybridEncoder | None = None
    metrics = Metrics(job.folder())
    encoded = reused = empty = cut = done = 0
    total = _rows(passages)
    with store.stage(job.recipe) as staging:
        write_json(staging.path / CONTRACT_FILE, contract.to_json())
        import pyarrow as pa

        with vector_writer(staging.path / FILE, width) as writer:
            for chunk in _chunks(passages):
                known = earlier.take([row["content_sha256"] for row in chunk])
                fresh = list(
                    {row["content_sha256"]: row for row in chunk if row["content_sha256"] not in known}.values()
                )
                made: Cached = {}
                if fresh:
                    if encoder is None:  # a corpus that is all known never loads the model
                        compute = accelerator.choose(job.params["device"], job.params["dtype"])
                        encoder = HybridEncoder.load(model.folder(), compute)
                    result = encoder.encode([row["content"] for row in fresh], "passage")
                    cut += result.cut
                    made = {
                        row["content_sha256"]: (dense, sparse)
                        for row, dense, sparse in zip(fresh, result.dense, result.sparse, strict=True)
                    }
                vectors = [made.get(sha) or known[sha] for sha in (row["content_sha256"] for row in chunk)]
                writer.write_table(_table(pa, chunk, vectors, width))
                encoded += len(fresh)
                reused += len(chunk) - len(fresh)
                empty += sum(len(ids) == 0 for _, (ids, _) in vectors)
                done += len(chunk)
                metrics.log("encode", done, total, encoded=encoded, reused=reused)
                _give_back()
        metrics.close()
        return staging.publish(
            {
                "passages": done,
                "encoded": encoded,
                "reused": reused,
                "empty_sparse": empty,
                "cut": cut,
                "dimension": width,
            }
        )


class Earlier:
    """The vectors of an earlier artifact (none: it knows nothing), read from its file when they are asked for."""

    def __init__(self, artifact: Artifact | None) -> None:
        self._artifact = artifact
        keys, groups = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for number, hashes in enumerate(_hashes(artifact) if artifact else ()):
            keys.append(_keys(hashes))
            groups.append(np.full(len(hashes), number, np.int32))
        # twelve bytes a row, where the vectors themselves are thousands
        keys, groups = np.concatenate(keys), np.concatenate(groups)
        order = np.argsort(keys)
        self._keys, self._groups = keys[order], groups[order]

    def take(self, hashes: Sequence[str]) -> Cached:
        """The vectors it has of these texts. Texts that lie together in the file cost one read."""
        if self._artifact is None or not len(self._keys):
            return {}
        keys, wanted = _keys(hashes), set(hashes)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        groups = np.unique(self._groups[places[self._keys[places] == keys]])
        rows = read_vectors(self._artifact, groups=groups.tolist()) if len(groups) else ()
        # copied: a view would keep the whole group in memory
        return {
            row.content_sha256: (row.dense.copy(), (row.indices.copy(), row.values.copy()))
            for row in rows
            if row.content_sha256 in wanted
        }


def _keys(hashes: Sequence[str]) -> np.ndarray:
    """The first 64 bits of each hash: they find the row, the whole hash is compared there."""
    return np.array([int(sha[:16], 16) for sha in hashes], np.uint64)


def _hashes(artifact: Artifact) -> Iterator[list[str]]:
    """Content hashes of each row group."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(artifact.file(FILE))
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, ["content_sha256"]).column(0).to_pylist()


def _earlier(store: ArtifactStore, encode_fp: str) -> Earlier:
    """The newest earlier artifact that the same model made in the same way."""
    for artifact in store.versions("passage_vectors"):
        if not artifact.verify() and contract_of(artifact).encode_fp == encode_fp:
            return Earlier(artifact)
    return Earlier(None)


def _table(pa: object, chunk: list[dict], vectors: list[tuple[np.ndarray, SparseVector]], width: int) -> object:
    return pa.table(  # type: ignore
        {
            **{
                name: [row[name] for row in chunk]
                for name in ("passage_id", "document_id", "heading", "content_sha256")
            },
            "dense": [dense for dense, _ in vectors],
            "sparse_indices": [ids for _, (ids, _) in vectors],
            "sparse_values": [weights for _, (_, weights) in vectors],
        },
        schema=schema(width),
    )


def _give_back() -> None:
    """Freed memory back to the system; glibc would keep it in pieces that the next chunk's shapes do not fit."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _rows(passages: Artifact) -> int:
    import pyarrow.parquet as pq

    return pq.ParquetFile(passages.file("passages.parquet")).metadata.num_rows


def _chunks(passages: Artifact) -> Iterator[list[dict]]:
    columns = ["passage_id", "document_id", "heading", "content", "content_sha256"]
    chunk: list[dict] = []
    for row in read_rows(passages.file("passages.parquet"), columns):
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


if __name__ == "__main__":
    run_worker(main)
