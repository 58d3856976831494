"""The exact scores of a collection's vectors, without an engine: what its engine should rank."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expectations.contracts.embedding import Fusion, Serving, read_contract
from ft_assets.embedding.exact_search import rank_arms, rank_bm25
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import with_lexical_arm
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.pairs import Passages
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.jobs import read_collection_file
from ft_assets.retrieval.vectors import contract_of, query_side_of, read_vectors
from resources.artifacts import Artifact


def exact_rankings(
    queries: Encoded, texts: Sequence[str], vectors: Artifact, collection: Artifact, fusion: Fusion
) -> dict[str, list[list[str]]]:
    """Return the passage ids that each arm ranks best by the scores of every passage, for each query."""
    queries, passages, ids = served_vectors(queries, texts, vectors, serving_in(collection).dimension)
    return rank_arms(queries, passages, ids, fusion)


def served_vectors(
    queries: Encoded, texts: Sequence[str], vectors: Artifact, dimension: int
) -> tuple[Encoded, Encoded, list[str]]:
    """Return queries and passages as a collection of this dimension serves them, and the ids of the passages.

    `queries` are the vectors that the model gives the `texts`.
    """
    passages, ids = read_encoded(vectors)
    passages = passages._replace(dense=truncate(passages.dense, dimension))
    queries = queries._replace(dense=truncate(queries.dense, dimension))
    return with_lexical_arm(queries, texts, query_side_of(vectors)), passages, ids


def bm25_rankings(
    vectors: Artifact, sparse: list[list[str]], passages: Passages, texts: Sequence[str], settings: Bm25Settings
) -> list[list[str]]:
    """Return BM25's rankings: `sparse`, those of the lexical arm of these vectors, where that is BM25."""
    if contract_of(vectors).lexical:
        return sparse
    return rank_bm25(passages.contents, passages.ids, texts, settings)


def read_encoded(vectors: Artifact) -> tuple[Encoded, list[str]]:
    """Return the vectors of all passages, and their ids."""
    rows = list(read_vectors(vectors))
    sparse = [(row.indices, row.values) for row in rows]
    return Encoded(np.stack([row.dense for row in rows]), sparse, 0), [row.passage_id for row in rows]


def serving_in(collection: Artifact) -> Serving:
    """Return the dimension and distance of a `qdrant_collection` artifact."""
    serving = read_contract(read_collection_file(collection).contract, collection.asset).serving
    if serving is None:
        raise ValueError("the contract of qdrant_collection does not say how it is served")
    return serving
