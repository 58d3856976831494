"""The exact scores of a collection's vectors, without an engine: what its engine should rank."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import numpy as np

from expectations.contracts.embedding import Fusion, Serving, read_contract
from ft_assets.embedding.exact_search import rank_arms
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.jobs import read_collection_file
from ft_assets.retrieval.vectors import read_vectors
from resources.artifacts import Artifact


def exact_rankings(
    queries: Encoded, vectors: Artifact, collection: Artifact, fusion: Fusion
) -> dict[str, list[list[str]]]:
    """Return the passage ids that each arm ranks best by the scores of every passage, for each query."""
    queries, passages, ids = served_vectors(queries, vectors, collection)
    return rank_arms(queries, passages, ids, fusion)


def served_vectors(queries: Encoded, vectors: Artifact, collection: Artifact) -> tuple[Encoded, Encoded, list[str]]:
    """Return queries and passages in the dimension that the collection serves, and the ids of the passages."""
    dimension = serving_in(collection).dimension
    rows = list(read_vectors(vectors))
    dense = truncate(np.stack([row.dense for row in rows]), dimension)
    passages = Encoded(dense, [(row.indices, row.values) for row in rows], 0)
    queries = queries._replace(dense=truncate(queries.dense, dimension))
    return queries, passages, [row.passage_id for row in rows]


def serving_in(collection: Artifact) -> Serving:
    """Return the dimension and distance of a `qdrant_collection` artifact."""
    serving = read_contract(read_collection_file(collection).contract, collection.asset).serving
    if serving is None:
        raise ValueError("the contract of qdrant_collection does not say how it is served")
    return serving
