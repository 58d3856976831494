"""Encodes the corpus once for each model: rows that an earlier run made of the same text are taken over."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.retrieval.vectors import CONTRACT_FILE, FILE, contract_of, schema, vector_writer
from resources import accelerator
from resources.artifacts import Artifact, ArtifactStore, write_json
from resources.launcher import Job, run_worker
from resources.parquet import row_count
from resources.telemetry import Metrics

CHUNK = 1024  # passages between two writes: the peak of memory, whatever the size of the corpus
_NAMES = ("passage_id", "document_id", "heading", "content_sha256")
_ARMS = ("dense", "sparse_indices", "sparse_values")


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
    total = row_count(passages.file(PASSAGES))
    with store.stage(job.recipe) as staging:
        write_json(staging.path / CONTRACT_FILE, contract.to_json())
        import pyarrow as pa

        with vector_writer(staging.path / FILE, width) as writer:
            for chunk in _chunks(passages):
                hashes: list[str] = chunk.column("content_sha256").to_pylist()
                made = earlier.take(hashes)
                known = set(made.column("content_sha256").to_pylist()) if made else set[str]()
                fresh = {sha: row for row, sha in enumerate(hashes) if sha not in known}
                if fresh:
                    if encoder is None:  # a corpus that is all known never loads the model
                        compute = accelerator.choose(job.params["device"], job.params["dtype"])
                        encoder = HybridEncoder.load(model.folder(), compute)
                    result = encoder.encode(chunk.column("content").take(list(fresh.values())).to_pylist(), "passage")
                    cut += result.cut
                    encodings = _encodings(list(fresh), result, width)
                    made = pa.concat_tables([made, encodings]) if made else encodings
                rows = {sha: row for row, sha in enumerate(made.column("content_sha256").to_pylist())}
                # rows that were made, in the order of the passages that say so
                vectors = made.take([rows[sha] for sha in hashes])
                columns = [*map(chunk.column, _NAMES), *map(vectors.column, _ARMS)]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema(width)))
                encoded += len(fresh)
                reused += len(chunk) - len(fresh)
                empty += vectors.column("sparse_indices").combine_chunks().value_lengths().to_pylist().count(0)
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

    def take(self, hashes: Sequence[str]) -> Any:
        """A table of content hash and vectors of those of these texts that it has, or None. Texts that lie together in
        the file cost one read."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if self._artifact is None or not len(self._keys):
            return None
        keys = _keys(hashes)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        groups = np.unique(self._groups[places[self._keys[places] == keys]])
        if not len(groups):
            return None
        file = pq.ParquetFile(self._artifact.file(FILE))
        table = file.read_row_groups(groups.tolist(), ["content_sha256", *_ARMS])
        return table.filter(pc.field("content_sha256").isin(hashes))


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


def _encodings(hashes: list[str], result: Encoded, width: int) -> Any:
    """A table like `Earlier.take`'s of texts that were encoded just now."""
    import pyarrow as pa

    columns = {
        "content_sha256": hashes,
        "dense": list(result.dense),
        "sparse_indices": [ids for ids, _ in result.sparse],
        "sparse_values": [weights for _, weights in result.sparse],
    }
    return pa.table(columns, schema=pa.schema([schema(width).field(name) for name in columns]))


def _give_back() -> None:
    """Freed memory back to the system; glibc would keep it in pieces that the next chunk's shapes do not fit."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _chunks(passages: Artifact) -> Iterator[Any]:
    """The passages as record batches."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(passages.file(PASSAGES))
    yield from file.iter_batches(batch_size=CHUNK, columns=[*_NAMES, "content"])


if __name__ == "__main__":
    run_worker(main)
