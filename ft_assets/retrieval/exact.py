"""The exact scores of a collection's vectors, without an engine: what its engine should rank."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from expectations.contracts.embedding import Fusion, Serving, read_contract
from ft_assets.embedding.exact_search import Blocks, rank_arms, rank_bm25
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import with_lexical_arm
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.pairs import Passages
from ft_assets.embedding.sparse import SparseRows
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.jobs import read_collection_file
from ft_assets.retrieval.vectors import VECTORS_FILE, contract_of, query_side_of
from resources.artifacts import Artifact
from resources.parquet import column_blocks, text_column

if TYPE_CHECKING:
    import pyarrow as pa


def exact_rankings(
    queries: Encoded, texts: Sequence[str], vectors: Artifact, collection: Artifact, fusion: Fusion
) -> dict[str, list[list[str]]]:
    """Return the passage ids that each arm ranks best by the scores of every passage, for each query."""
    queries, passages, ids = served_vectors(queries, texts, vectors, serving_in(collection).dimension)
    return rank_arms(queries, passages, ids, fusion)


def served_vectors(
    queries: Encoded, texts: Sequence[str], vectors: Artifact, dimension: int
) -> tuple[Encoded, Blocks, Sequence[str]]:
    """Return queries and passages as a collection of this dimension serves them, and the ids of the passages.

    `queries` are the vectors that the model gives the `texts`.
    """
    queries = queries._replace(dense=truncate(queries.dense, dimension))
    served = with_lexical_arm(queries, texts, query_side_of(vectors))
    return served, StoredVectors(vectors, dimension), passage_ids(vectors)


def bm25_rankings(
    vectors: Artifact, sparse: list[list[str]], passages: Passages, texts: Sequence[str], settings: Bm25Settings
) -> list[list[str]]:
    """Return BM25's rankings: `sparse`, those of the lexical arm of these vectors, where that is BM25."""
    if is_bm25(vectors):
        return sparse
    return rank_bm25(passages.contents, passages.ids, texts, settings)


def is_bm25(vectors: Artifact) -> bool:
    """Return whether the lexical arm of these vectors is BM25 as it is, without anything learned."""
    lexical = contract_of(vectors).lexical
    return lexical is not None and lexical.kind == "bm25"


def passage_ids(vectors: Artifact) -> Sequence[str]:
    """Return the ids of all passages, in the order of their vectors."""
    return text_column(vectors.table(VECTORS_FILE), "passage_id")


class StoredVectors:
    """The vectors of all passages in blocks, read again each time they are iterated."""

    def __init__(self, vectors: Artifact, dimension: int | None = None, lexical_of: Artifact | None = None) -> None:
        """`dimension`: dense vectors are cut to it. `lexical_of`: the table of the same passages, whose lexical vectors
        are taken."""
        self._vectors, self._dimension, self._lexical_of = vectors, dimension, lexical_of or vectors

    def __iter__(self) -> Iterator[Encoded]:
        blocks = zip(
            column_blocks(self._vectors.table(VECTORS_FILE), ["dense"]),
            column_blocks(self._lexical_of.table(VECTORS_FILE), ["sparse_indices", "sparse_values"]),
            strict=True,
        )
        for (dense,), (indices, values) in blocks:
            rows = _flat(dense).reshape(len(dense), -1)
            lengths = indices.value_lengths().to_numpy(zero_copy_only=False)
            bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            sparse = SparseRows(_flat(indices), _flat(values), bounds)
            yield Encoded(truncate(rows, self._dimension or rows.shape[1]), sparse, 0)


def _flat(column: pa.Array) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False)


def serving_in(collection: Artifact) -> Serving:
    """Return the dimension and distance of a `qdrant_collection` artifact."""
    serving = read_contract(read_collection_file(collection).contract, collection.asset).serving
    if serving is None:
        raise ValueError("the contract of qdrant_collection does not say how it is served")
    return serving
