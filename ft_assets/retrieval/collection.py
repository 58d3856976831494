"""Builds a collection beside the one that serves, and looks at what stands in it. Never touches the alias.

A collection is named by what it holds, `<alias>__<index_fp>_<vectors version>`, so another model, dimension, distance
or corpus is another collection. Each point says which version of its passage it was made from: a build starts from a
copy of the nearest collection of the same model where the engine can copy, and writes what differs. The same rule
continues a build that was interrupted.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

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
from expectations.rules.retrieval import vectors_match_texts, without_fusion
from expectations.violations import Refused, Violation
from ft_assets.config.model import RetrievalSettings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.vectors import FILE, VectorRow, read_vectors
from resources.artifacts import Artifact
from resources.engines.protocol import DENSE, SPARSE, Points, VectorClient
from resources.parquet import read_columns

BATCH = 256
_SAMPLED = 16
_NAMESPACE = uuid.UUID("6f0e4c3a-2d0b-5f0e-9d1f-0c7d5b7a4e21")  # ours; makes point ids the same on every run


@dataclass(frozen=True)
class Built:
    """What a build found or made. `copied`: points that stood already, in the copy or in a build that was interrupted
    (none of them counted where the collection was whole)."""

    name: str
    points: int
    upserted: int
    copied: int
    deleted: int


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


def is_ours(name: str, alias: str) -> bool:
    """Whether `collection_name` makes such names for this alias: `kb__x__…` is not of the alias `kb`."""
    return re.fullmatch(re.escape(alias) + "__[0-9a-f]{12}_[0-9a-f]{8}", name) is not None


def point_id(passage_id: str) -> str:
    """The same id for the same passage on every run, so that an upsert twice is an upsert once: uuid5, written out."""
    digest = hashlib.sha1(_NAMESPACE.bytes + passage_id.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def passage_versions(vectors: Artifact) -> dict[str, str]:
    """Point id -> version of its passage: whatever a point holds of it, beside the model."""
    return {row.point_id: row.version for row in _passages(vectors).values()}


def build(
    client: VectorClient,
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
    serving = _serving(contract)
    total = int(vectors.summary["passages"])
    if broken := dimension_violations(contract, serving.dimension, name):
        raise Refused(f"building {name}", broken)
    if name in client.names():
        stored = stored_contract(client, name)
        if compare(without_fusion(stored), without_fusion(contract)).level is not Level.IDENTICAL:
            raise Refused(f"building {name}", [_foreign(name, stored, contract)])
        if client.metadata(name).get("whole") == vectors.data_version and client.count(name) == total:
            return Built(name, total, 0, 0, 0)
    rows = _passages(vectors)
    wanted = {row.point_id: row.version for row in rows.values()}
    if name not in client.names():
        metadata = {"contract": without_fusion(contract).to_json(), "whole": "", "touched": time.time()}
        source, standing = _nearest(client, name, wanted) if client.copies else ("", {})
        if not source or not client.copy(source, name, serving, metadata):
            client.create(name, serving, metadata)
            standing = {}
    else:
        client.set_metadata(name, {"whole": "", "touched": time.time()})  # until the last difference is written
        standing = client.field(name, "version")
    gone = sorted(standing.keys() - wanted.keys())
    for start in range(0, len(gone), BATCH):
        client.delete(name, gone[start : start + BATCH])
    changed = {passage: row for passage, row in rows.items() if standing.get(row.point_id) != row.version}
    upserted, copied = 0, len(rows) - len(changed)
    for points in _points(vectors, passages, serving.dimension, changed):
        client.upsert(name, points)
        upserted += len(points.ids)
        progress(copied + upserted, total)
    client.index(name)
    client.set_metadata(name, {"whole": vectors.data_version, "touched": time.time()})
    return Built(name, client.count(name), upserted, copied, len(gone))


def inspect(client: VectorClient, name: str) -> Collection:
    """Contract, configuration and exact counts of a collection. Raises Refused (FT-COL-006) if it is not there."""
    contract, config = stored_contract(client, name), client.serving(name)
    return Collection(
        name=name,
        contract=contract,
        config=config,
        points=client.count(name),
        dense=client.count(name, DENSE) if config else 0,
        sparse=client.count(name, SPARSE),
    )


def stored_contract(client: VectorClient, name: str) -> EmbeddingContract:
    """The contract that a collection carries; counts nothing. Raises Refused: FT-COL-006 it is not there, FT-EMB-001 it
    carries none."""
    _require(client, name)
    return read_contract(client.metadata(name).get("contract") or {}, f"collection {name}")


def sample_cosines(client: VectorClient, name: str, vectors: Artifact, contract: EmbeddingContract) -> dict[str, float]:
    """Cosine of stored and encoded vectors, dense and sparse, for some passages spread over the corpus. Raises Refused
    (FT-COL-006) if the collection is not there."""
    _require(client, name)
    ids = read_columns(vectors.file(FILE), ["passage_id"])["passage_id"]
    sampled = set(ids[:: max(len(ids) // _SAMPLED, 1)])
    rows = {point_id(row.passage_id): row for row in read_vectors(vectors, only=sampled)}
    found = client.retrieve(name, list(rows))
    stored = dict(zip(found.ids, zip(found.dense, found.sparse, strict=True), strict=True))
    none = (np.empty(0, np.float32), (np.empty(0, np.int32), np.empty(0, np.float32)))
    made: dict[str, float] = {}
    for key, row in rows.items():
        dense, (indices, values) = stored.get(key, none)
        made[f"{row.passage_id} (dense)"] = _cosine(dense, row.dense[: _serving(contract).dimension])
        mine = dict(zip(row.indices.tolist(), row.values.tolist(), strict=True))
        theirs = dict(zip(indices.tolist(), values.tolist(), strict=True))
        keys = sorted(mine.keys() | theirs.keys())
        left, right = (np.asarray([d.get(k, 0.0) for k in keys], dtype=np.float32) for d in (mine, theirs))
        made[f"{row.passage_id} (sparse)"] = _cosine(left, right) if keys else 1.0
    return made


def set_fusion(client: VectorClient, name: str, contract: EmbeddingContract) -> None:
    """Write the contract with its fusion into the collection's metadata: one call, the old one or the new one."""
    client.set_metadata(name, {"contract": contract.to_json()})


def _nearest(client: VectorClient, name: str, wanted: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The collection to start from, and the versions of its points: of the whole ones of the same stored form, the one
    built last that holds half of what is wanted. Empty, if none does."""
    form = name.rpartition("_")[0] + "_"
    alike = {other: client.metadata(other) for other in client.names() if other.startswith(form)}
    whole = [other for other, metadata in alike.items() if metadata.get("whole")]
    for other in sorted(whole, key=lambda other: alike[other].get("touched", 0.0), reverse=True):
        versions = client.field(other, "version")
        if sum(wanted.get(key) == version for key, version in versions.items()) * 2 >= len(wanted):
            return other, versions
    return "", {}


class _Passage(NamedTuple):
    """What a point says of its passage."""

    point_id: str
    version: str


def _passages(vectors: Artifact) -> dict[str, _Passage]:
    columns = read_columns(vectors.file(FILE), ["passage_id", "content_sha256", "document_id", "heading"])
    made: dict[str, _Passage] = {}
    for passage, *parts in zip(*columns.values(), strict=True):
        said = "\0".join(part or "" for part in parts)
        version = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        made[passage] = _Passage(point_id(passage), version)
    return made


def _points(vectors: Artifact, passages: Artifact, dimension: int, changed: dict[str, _Passage]) -> Iterator[Points]:
    """The points of these passages, in batches, each with its text."""
    if not changed:
        return
    rows = zip(read_vectors(vectors, only=changed), _texts(passages, changed), strict=True)
    while batch := list(islice(rows, BATCH)):
        yield _columns(batch, dimension, changed)


def _texts(passages: Artifact, only: Container[str]) -> Iterator[tuple[str, str, str]]:
    """Passage id, content and its hash of these passages, in order."""
    import pyarrow.parquet as pq

    columns = ["passage_id", "content", "content_sha256"]
    for block in pq.ParquetFile(passages.file(PASSAGES)).iter_batches(batch_size=1024, columns=columns):
        picked = [n for n, passage in enumerate(block.column("passage_id").to_pylist()) if passage in only]
        if picked:
            taken = block.take(picked)
            yield from zip(*(taken.column(name).to_pylist() for name in columns), strict=True)


def _columns(
    batch: list[tuple[VectorRow, tuple[str, str, str]]], dimension: int, passages: dict[str, _Passage]
) -> Points:
    rows = [row for row, _ in batch]
    if odd := next(((row.passage_id, text[0]) for row, text in batch if row.passage_id != text[0]), None):
        raise Refused("building a collection", [_disordered(*odd)])
    broken = vectors_match_texts(
        "passage_vectors",
        {passage: sha for _, (passage, _, sha) in batch},
        {row.passage_id: row.content_sha256 for row in rows},
    )
    if broken:
        raise Refused("building a collection", broken)
    return Points(
        ids=[passages[row.passage_id].point_id for row in rows],
        dense=truncate(np.stack([row.dense for row in rows]), dimension),
        sparse=[(row.indices, row.values) for row in rows],
        payloads=[
            {
                "passage_id": row.passage_id,
                "document_id": row.document_id,
                "heading": row.heading,
                "content": content,
                "version": passages[row.passage_id].version,
            }
            for row, (_, content, _) in batch
        ],
    )


def _serving(contract: EmbeddingContract) -> Serving:
    if contract.serving is None:
        raise ValueError("a collection's contract says how it is served")
    return contract.serving


def _require(client: VectorClient, name: str) -> None:
    if name not in client.names():
        violation = Violation(
            code="FT-COL-006", where=name, message="the collection is not in this engine.", field="collection",
            found="missing", expected="present", fix="ft run --asset qdrant_collection",
        )  # fmt: skip
        raise Refused(f"reading {name}", [violation])


def _foreign(name: str, stored: EmbeddingContract, wanted: EmbeddingContract) -> Violation:
    return Violation(
        code="FT-COL-005", where=name, message="another contract stands under this name.", field="index_fp",
        found=stored.index_fp, expected=wanted.index_fp, fix="delete this collection in Qdrant, then run again",
    )  # fmt: skip


def _disordered(vector: str, passage: str) -> Violation:
    return Violation(
        code="FT-VEC-001", where="passage_vectors", message="vectors and passages are not of the same run.",
        field="passage_id", found=vector, expected=passage, fix="ft run --asset passage_vectors",
    )  # fmt: skip


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    if left.shape != right.shape:
        return -1.0
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale else 0.0
