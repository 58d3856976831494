"""The table of vectors: one row for each passage, dense and lexical, in the order of the corpus."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from expectations.contracts.embedding import CONTRACT_FILE, EmbeddingContract, read_contract
from expectations.lexical.bm25 import Bm25Queries
from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.lexical import FREQUENCIES_FILE, FrequencyCounter, query_side
from ft_assets.retrieval.jobs import VectorsSummary
from resources.artifacts import Artifact, Shard
from resources.parquet import Tables, open_tables

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

VECTORS_FILE = "vectors.parquet"
CUT_FILE = "cut.json"
_FOLDER = "vectors"
ARMS = ("dense", "sparse_indices", "sparse_values")
TERMS_FILE = "terms.parquet"
"""The number of passages of each term, of vectors in shards: a changed shard changes these counts."""


class CutPassage(msgspec.Struct, frozen=True):
    """A passage of which the encoder reads only a part; `tokens` are all of them, with prompt and special tokens."""

    passage_id: str
    content_sha256: str
    tokens: int


class VectorShard(Shard, frozen=True, kw_only=True):
    """The vectors of a shard of passages."""

    passages: str
    """The sha256 of the passages' file."""
    rows: int
    empty: int
    """Rows without any lexical weight."""
    cut: list[CutPassage]


@dataclass(frozen=True)
class VectorRow:
    """The vectors of one passage, with the `document_id` and `heading` that are stored next to them."""

    passage_id: str
    document_id: str
    heading: str
    content_sha256: str
    dense: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def vectors_file(passages: str) -> str:
    """Return the file of the vectors of a file of passages, or of the passages' shard of this name."""
    return VECTORS_FILE if passages == PASSAGES else f"{_FOLDER}/{Path(passages).stem}.parquet"


def write_terms(path: Path, counter: FrequencyCounter) -> None:
    """Write the number of passages of each term."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, counts = counter.counts()
    pq.write_table(pa.table({"term": numbers, "passages": counts}), path, compression="zstd", use_dictionary=False)


def read_terms(artifact: Artifact, counter: FrequencyCounter) -> None:
    """Add what `write_terms` wrote for an artifact to a counter."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.file(TERMS_FILE))
    numbers, counts = (table.column(name).to_numpy() for name in ("term", "passages"))
    counter.add_counts(numbers, counts, artifact.summary_as(VectorsSummary).passages)


def schema(dimension: int) -> pa.Schema:
    """Return the Arrow schema of vectors.parquet: its type gives every dense vector `dimension` values."""
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


def vector_writer(path: Path, dimension: int) -> pq.ParquetWriter:
    """Return a ParquetWriter of this schema."""
    import pyarrow.parquet as pq

    # no dictionary for the numbers, which hardly repeat: it took four times as long
    repeated: Any = ["document_id", "heading"]
    return pq.ParquetWriter(path, schema(dimension), compression="zstd", use_dictionary=repeated)


def read_vectors(artifact: Artifact, batch: int = 1024, only: Container[str] | None = None) -> Iterator[VectorRow]:
    """Yield the rows in order, `batch` of them in memory at a time.

    With `only`, the rows of these passages; others are not even decoded.
    """
    for block in _blocks(artifact.table(VECTORS_FILE), batch, only):
        if only is not None:
            ids = block.column("passage_id").to_pylist()
            block = block.take([n for n, passage in enumerate(ids) if passage in only])  # noqa: PLW2901
        texts = [block.column(name).to_pylist() for name in ("passage_id", "document_id", "heading", "content_sha256")]
        arrays = [_arrays(block.column(name)) for name in ("dense", "sparse_indices", "sparse_values")]
        for row in zip(*texts, *arrays, strict=True):
            yield VectorRow(*row)


def _blocks(tables: Tables, rows: int, only: Container[str] | None) -> Iterator[pa.RecordBatch]:
    for file in open_tables(tables):
        groups = [n for n in range(file.num_row_groups) if only is None or _holds_any(file, n, only)]
        yield from file.iter_batches(batch_size=rows, row_groups=groups)


def _holds_any(file: pq.ParquetFile, group: int, passages: Container[str]) -> bool:
    """Return whether a row group has the row of one of these passages."""
    return any(value.as_py() in passages for value in file.read_row_group(group, ["passage_id"]).column(0))


def contract_of(artifact: Artifact) -> EmbeddingContract:
    """Return the contract of an artifact (embedding_model, passage_vectors)."""
    return read_contract(artifact.json(CONTRACT_FILE), f"{artifact.asset}/{artifact.recipe_id}")


def frequencies_of(artifact: Artifact) -> str | None:
    """Return the table of document frequencies of a `passage_vectors` artifact; None where the lexical arm is learned.

    The table and the contract are in one artifact, so they belong together.
    """
    if FREQUENCIES_FILE not in artifact.manifest.files:
        return None
    return artifact.file(FREQUENCIES_FILE).read_text("utf-8")


def query_side_of(artifact: Artifact) -> Bm25Queries | None:
    """Return the weights of queries to these vectors; None where the lexical arm is the model's own."""
    return query_side(contract_of(artifact), frequencies_of(artifact), artifact.asset)


def read_cut(artifact: Artifact) -> list[CutPassage]:
    """Return the passages of which the encoder reads only a part, longest first."""
    return msgspec.convert(artifact.json(CUT_FILE), list[CutPassage])


def _lengths(column: pa.Array) -> np.ndarray:
    return column.value_lengths().to_numpy(zero_copy_only=False)


def _arrays(column: pa.Array) -> list[np.ndarray]:
    """Return one array for each row of a list column, without a Python object for each number."""
    bounds = np.concatenate([[0], np.cumsum(_lengths(column))])
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return [flat[a:b] for a, b in pairwise(bounds)]
