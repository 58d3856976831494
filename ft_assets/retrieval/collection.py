"""Builds a collection beside the one that serves, and looks at what stands in it. Never touches the alias.

A collection is named by what it holds, `<alias>__<index_fp>_<vectors version>`, so another model, dimension, distance
or corpus is another collection, and a half-built one is continued under its own name.
"""

# qdrant_client takes and gives untyped unions
# pyright: basic
from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from expectations.contracts.embedding import (
    EmbeddingContract,
    Fusion,
    Level,
    Serving,
    compare,
    dimension_violations,
    read_contract,
)
from expectations.retrieval import vectors_match_texts, without_fusion
from expectations.violations import Refused, Violation
from ft_assets.retrieval.vectors import VectorRow, read_vectors
from ft_assets.settings.model import RetrievalSettings
from resources.artifacts import Artifact
from resources.parquet import read_rows

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

DENSE, SPARSE = "dense", "sparse"
BATCH = 128
_SAMPLED = 16
_NAMESPACE = uuid.UUID("6f0e4c3a-2d0b-5f0e-9d1f-0c7d5b7a4e21")  # ours; makes point ids the same on every run


@dataclass(frozen=True)
class Built:
    """What a build found or made."""

    name: str
    points: int
    upserted: int


@dataclass(frozen=True)
class Collection:
    """What stands in an existing collection: its contract (with the fusion, once released) and its figures."""

    name: str
    contract: EmbeddingContract
    config: Serving | None
    points: int
    dense: int
    sparse: int


def serving_of(settings: RetrievalSettings, contract: EmbeddingContract) -> Serving:
    """How the settings want this model served."""
    dimension = settings.dimension or contract.dense.dimensions[0]
    return Serving(dimension=dimension, distance=settings.distance)


def fusion_of(settings: RetrievalSettings) -> Fusion:
    """How the settings want the two arms fused."""
    return Fusion(
        fusion=settings.fusion,
        dense_weight=settings.dense_weight,
        sparse_weight=settings.sparse_weight,
        prefetch_limit=settings.prefetch_limit,
    )


def collection_name(alias: str, contract: EmbeddingContract, vectors_version: str) -> str:
    """Name of the collection that holds these vectors in this form."""
    return f"{alias}__{contract.index_fp[:12]}_{vectors_version[:8]}"


def point_id(passage_id: str) -> str:
    """The same id for the same passage on every run, so that an upsert twice is an upsert once."""
    return str(uuid.uuid5(_NAMESPACE, passage_id))


def build(
    client: QdrantClient,
    name: str,
    contract: EmbeddingContract,
    vectors: Artifact,
    passages: Artifact,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Built:
    """Make `name` hold exactly these vectors; a whole one is left as it is, a half-built one is continued.

    `contract` says how it is served. Raises Refused: FT-EMB-003 untrained dimension, FT-COL-005 another contract stands
    under this name, FT-VEC-004 vectors of other texts.
    """
    from qdrant_client import models

    serving = _serving(contract)
    total = int(vectors.summary["passages"])
    if broken := dimension_violations(contract, serving.dimension, name):
        raise Refused(f"building {name}", broken)
    if not client.collection_exists(name):
        client.create_collection(
            name,
            vectors_config={
                DENSE: models.VectorParams(size=serving.dimension, distance=_DISTANCES[serving.distance](models))
            },
            sparse_vectors_config={SPARSE: models.SparseVectorParams()},
            metadata={"contract": without_fusion(contract).to_json()},
        )
    stored = _stored_contract(client, name)
    if compare(without_fusion(stored), without_fusion(contract)).level is not Level.IDENTICAL:
        raise Refused(f"building {name}", [_foreign(name, stored, contract)])
    if client.count(name, exact=True).count == total:
        return Built(name, total, 0)
    upserted = done = 0
    rows = _with_content(vectors, passages)
    while batch := list(islice(rows, BATCH)):
        ids = [point_id(row.passage_id) for row, _ in batch]
        present = {str(record.id) for record in client.retrieve(name, ids, with_payload=False, with_vectors=False)}
        missing = [
            _point(models, key, row, content, serving.dimension)
            for key, (row, content) in zip(ids, batch, strict=True) if key not in present
        ]  # fmt: skip
        if missing:
            client.upsert(name, missing, wait=True)
        upserted += len(missing)
        done += len(batch)
        progress(done, total)
    return Built(name, client.count(name, exact=True).count, upserted)


def inspect(client: QdrantClient, name: str) -> Collection:
    """Contract, configuration and exact counts of a collection. Raises Refused (FT-COL-006) if it is not there."""
    from qdrant_client import models

    _require(client, name)

    def covered(vector: str) -> int:
        has = models.Filter(must=[models.HasVectorCondition(has_vector=vector)])
        return client.count(name, count_filter=has, exact=True).count

    params = client.get_collection(name).config.params
    dense = params.vectors.get(DENSE) if isinstance(params.vectors, Mapping) else None
    config = Serving(dimension=dense.size, distance=dense.distance.value.lower()) if dense else None  # type: ignore
    has_sparse = SPARSE in (params.sparse_vectors or {})
    return Collection(
        name=name,
        contract=_stored_contract(client, name),
        config=config,
        points=client.count(name, exact=True).count,
        dense=covered(DENSE) if dense else 0,
        sparse=covered(SPARSE) if has_sparse else 0,
    )


def sample_cosines(client: QdrantClient, name: str, vectors: Artifact, contract: EmbeddingContract) -> dict[str, float]:
    """Cosine of stored and encoded vectors, dense and sparse, for some passages spread over the corpus."""
    total = max(int(vectors.summary["passages"]), 1)
    step = max(total // _SAMPLED, 1)
    rows = {point_id(row.passage_id): row for n, row in enumerate(read_vectors(vectors)) if n % step == 0}
    found = {str(p.id): p.vector for p in client.retrieve(name, list(rows), with_payload=False, with_vectors=True)}
    made: dict[str, float] = {}
    for key, row in rows.items():
        stored: Any = found.get(key) or {}
        dense = np.asarray(stored.get(DENSE, []), dtype=np.float32)
        made[f"{row.passage_id} (dense)"] = _cosine(dense, row.dense[: _serving(contract).dimension])
        sparse = stored.get(SPARSE)
        mine = dict(zip(row.indices.tolist(), row.values.tolist(), strict=True))
        theirs = dict(zip(sparse.indices, sparse.values, strict=True)) if sparse else {}
        keys = sorted(mine.keys() | theirs.keys())
        left, right = (np.asarray([d.get(k, 0.0) for k in keys], dtype=np.float32) for d in (mine, theirs))
        made[f"{row.passage_id} (sparse)"] = _cosine(left, right) if keys else 1.0
    return made


def set_fusion(client: QdrantClient, name: str, contract: EmbeddingContract) -> None:
    """Write the contract with its fusion into the collection's metadata: one call, the old one or the new one."""
    client.update_collection(name, metadata={"contract": contract.to_json()})


def _with_content(vectors: Artifact, passages: Artifact) -> Iterator[tuple[VectorRow, str]]:
    columns = ["passage_id", "content", "content_sha256"]
    texts = read_rows(passages.file("passages.parquet"), columns)
    for row, text in zip(read_vectors(vectors), texts, strict=True):
        broken = vectors_match_texts(
            "passage_vectors", {text["passage_id"]: text["content_sha256"]}, {row.passage_id: row.content_sha256}
        )
        if broken or text["passage_id"] != row.passage_id:
            raise Refused("building a collection", broken or [_disordered(row.passage_id, text["passage_id"])])
        yield row, text["content"]


def _point(models: Any, key: str, row: VectorRow, content: str, dimension: int) -> Any:
    from ft_assets.embedding.truncate import truncate

    dense = truncate(row.dense[None, :], dimension)[0]
    return models.PointStruct(
        id=key,
        vector={
            DENSE: dense.tolist(),
            SPARSE: models.SparseVector(indices=row.indices.tolist(), values=row.values.tolist()),
        },
        payload={
            "passage_id": row.passage_id,
            "document_id": row.document_id,
            "heading": row.heading,
            "content": content,
        },
    )


_DISTANCES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda models: models.Distance.COSINE,
    "dot": lambda models: models.Distance.DOT,
    "euclid": lambda models: models.Distance.EUCLID,
}


def _serving(contract: EmbeddingContract) -> Serving:
    if contract.serving is None:
        raise ValueError("a collection's contract says how it is served")
    return contract.serving


def _stored_contract(client: QdrantClient, name: str) -> EmbeddingContract:
    metadata = client.get_collection(name).config.metadata or {}
    return read_contract(metadata.get("contract") or {}, f"collection {name}")


def _require(client: QdrantClient, name: str) -> None:
    if not client.collection_exists(name):
        raise Refused(
            f"reading {name}",
            [
                Violation(
                    code="FT-COL-006", where=name, message="the collection is not in this engine.", field="collection",
                    found="missing", expected="present", mend="ft run --asset qdrant_collection",
                )
            ],
        )  # fmt: skip


def _foreign(name: str, stored: EmbeddingContract, wanted: EmbeddingContract) -> Violation:
    return Violation(
        code="FT-COL-005", where=name, message="another contract stands under this name.", field="index_fp",
        found=stored.index_fp, expected=wanted.index_fp, mend="delete this collection in Qdrant, then run again",
    )  # fmt: skip


def _disordered(vector: str, passage: str) -> Violation:
    return Violation(
        code="FT-VEC-001", where="passage_vectors", message="vectors and passages are not of the same run.",
        field="passage_id", found=vector, expected=passage, mend="ft run --asset passage_vectors",
    )  # fmt: skip


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    if left.shape != right.shape:
        return -1.0
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale else 0.0
