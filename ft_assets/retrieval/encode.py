"""Encodes the corpus once for each model: rows that an earlier run made of the same text are taken over."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ft_assets.embedding.model import HybridEncoder, SparseVector
from ft_assets.retrieval.vectors import CONTRACT_FILE, FILE, contract_of, read_vectors, schema
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
    store = job.artifacts()
    model, passages = job.input("embedding_model"), job.input("passages")
    contract = contract_of(model)
    width = contract.dense.dimensions[0]
    known = _known(store, contract.encode_fp)
    encoder: HybridEncoder | None = None
    metrics = Metrics(job.folder())
    encoded = reused = empty = cut = done = 0
    total = _rows(passages)
    with store.stage(job.recipe) as staging:
        write_json(staging.path / CONTRACT_FILE, contract.to_json())
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(staging.path / FILE, schema(width), compression="zstd") as writer:
            for chunk in _chunks(passages):
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


def _known(store: ArtifactStore, encode_fp: str) -> Cached:
    """Vectors of the newest earlier artifact that the same model made in the same way (none: an empty cache)."""
    for artifact in store.versions("passage_vectors"):
        if not artifact.verify() and contract_of(artifact).encode_fp == encode_fp:
            return {row.content_sha256: (row.dense, (row.indices, row.values)) for row in read_vectors(artifact)}
    return {}


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
