"""The table of vectors: one row a passage, dense and lexical, in the order of the corpus."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from expectations.contracts.embedding import FILE as CONTRACT_FILE
from expectations.contracts.embedding import EmbeddingContract, read_contract
from resources.artifacts import Artifact

FILE = "vectors.parquet"


@dataclass(frozen=True)
class VectorRow:
    """The vectors of one passage. `document_id` and `heading` come along as they are stored beside the vectors."""

    passage_id: str
    document_id: str
    heading: str
    content_sha256: str
    dense: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def schema(dimension: int) -> Any:
    """Arrow schema of vectors.parquet: every dense vector has `dimension` values by type."""
    import pyarrow as pa

    return pa.schema(
        [
            ("passage_id", pa.string()),
            ("document_id", pa.string()),
            ("heading", pa.string()),
            ("content_sha256", pa.string()),
            ("dense", pa.list_(pa.float32(), dimension)),
            ("sparse_indices", pa.list_(pa.int32())),
            ("sparse_values", pa.list_(pa.float32())),
        ]
    )


def vector_writer(path: Path, dimension: int) -> Any:
    """A ParquetWriter of this schema. Numbers that hardly repeat get no dictionary, which took four times as long."""
    import pyarrow.parquet as pq

    repeated: Any = ["document_id", "heading"]
    return pq.ParquetWriter(path, schema(dimension), compression="zstd", use_dictionary=repeated)


def read_vectors(artifact: Artifact, batch: int = 1024, only: Container[str] | None = None) -> Iterator[VectorRow]:
    """Rows in order, `batch` at a time in memory; `only` those of these passages, others are not even decoded."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(artifact.file(FILE))
    groups = list(range(file.num_row_groups))
    if only is not None:
        groups = [n for n in groups if any(i.as_py() in only for i in file.read_row_group(n, ["passage_id"]).column(0))]
    for block in file.iter_batches(batch_size=batch, row_groups=groups):
        names = ("passage_id", "document_id", "heading", "content_sha256")
        if only is not None:
            ids = block.column("passage_id").to_pylist()
            block = block.take([n for n, passage in enumerate(ids) if passage in only])  # noqa: PLW2901
        texts = [block.column(name).to_pylist() for name in names]
        arrays = [_rows(block.column(name)) for name in ("dense", "sparse_indices", "sparse_values")]
        for row in zip(*texts, *arrays, strict=True):
            yield VectorRow(*row)


def contract_of(artifact: Artifact) -> EmbeddingContract:
    """The contract that lies in an artifact (embedding_model, passage_vectors)."""
    return read_contract(artifact.json(CONTRACT_FILE), f"{artifact.asset}/{artifact.recipe_id}")


def widths(artifact: Artifact) -> list[tuple[str, int]]:
    """Passage id and number of dense values of every row."""
    found: list[tuple[str, int]] = []
    for block in _blocks(artifact, ["passage_id", "dense"]):
        found += zip(block.column("passage_id").to_pylist(), _lengths(block.column("dense")).tolist(), strict=True)
    return found


def broken_rows(artifact: Artifact) -> list[str]:
    """Ids of the passages with NaN or an infinity in one of their vectors."""
    found: list[str] = []
    for block in _blocks(artifact, ["passage_id", "dense", "sparse_values"]):
        rows: set[int] = set()
        for column in (block.column("dense"), block.column("sparse_values")):
            sound = np.isfinite(column.flatten().to_numpy(zero_copy_only=False))
            if not sound.all():
                rows.update(np.repeat(np.arange(len(column)), _lengths(column))[~sound].tolist())
        found += [block.column("passage_id")[row].as_py() for row in sorted(rows)]
    return found


def empty_rows(artifact: Artifact) -> tuple[int, int]:
    """How many passages have no lexical weight at all, of how many."""
    blocks = _blocks(artifact, ["sparse_indices"])
    lengths = np.concatenate([np.empty(0, np.int32), *(_lengths(block.column(0)) for block in blocks)])
    return int((lengths == 0).sum()), len(lengths)


def _blocks(artifact: Artifact, columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    yield from pq.ParquetFile(artifact.file(FILE)).iter_batches(columns=columns)


def _lengths(column: Any) -> np.ndarray:
    return column.value_lengths().to_numpy(zero_copy_only=False)


def _rows(column: Any) -> list[np.ndarray]:
    """One array a row of a list column, without a Python object a number."""
    bounds = np.concatenate([[0], np.cumsum(_lengths(column))])
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return [flat[a:b] for a, b in pairwise(bounds)]
