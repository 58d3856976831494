"""Builds a collection next to the one that serves, and inspects collections. Never moves the alias.

A collection is named by its content, `<alias>__<index_fp>_<vectors version>`, so another model, dimension, distance or
corpus gives another collection. Each point records the version of its passage. If the engine can copy, a build starts
from a copy of the nearest collection of the same model and writes only the differences. An interrupted build is
continued in the same way.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from expectations.canonical import digest
from expectations.contracts.embedding import (
    EmbeddingContract,
    Level,
    Serving,
    Storage,
    compare,
    dimension_violations,
    read_contract,
)
from expectations.lexical.bm25 import FREQUENCIES_KEY
from expectations.rules.retrieval import vectors_match_texts, without_fusion
from expectations.violations import Refused, Violation, violation
from ft_assets.config.model import QdrantSettings, RetrievalSettings
from ft_assets.corpus.collect import PASSAGES, PayloadSummary
from ft_assets.corpus.payload import read_payload
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.jobs import VectorsSummary
from ft_assets.retrieval.vectors import VECTORS_FILE, VectorRow, frequencies_of, read_vectors
from ft_assets.retrieval.where import FIELDS
from resources import faults
from resources.artifacts import Artifact
from resources.engines.protocol import DENSE, SPARSE, OpenJson, PayloadType, Points, VectorClient
from resources.parquet import read_columns, table_batches

BATCH = 256
CHOICE_KEY = "fusion_choice"
"""Key of a collection's metadata: who chose the fusion, on how many questions, and why. Empty: config.yaml has it."""
FLOOR_KEY = "score_floor"
"""Key of a collection's metadata: the fused score below which a search says that nothing was found. Empty: none."""
_Row = TypeVar("_Row")
_NAMESPACE = uuid.UUID("6f0e4c3a-2d0b-5f0e-9d1f-0c7d5b7a4e21")  # of this project: the same point ids on every run


@dataclass(frozen=True)
class Built:
    """The result of a build. `copied` points were there before, in the copy or from an interrupted build.

    It is 0 if the collection was whole already.
    """

    name: str
    points: int
    upserted: int
    copied: int
    deleted: int
    relabelled: int = 0
    """Points that got other values of their payload, and kept their vectors."""


@dataclass(frozen=True)
class Collection:
    """An existing collection: its contract (with the fusion, once it is released), configuration and counts."""

    name: str
    contract: EmbeddingContract
    config: Serving | None
    points: int
    dense: int
    sparse: int


def serving_of(settings: RetrievalSettings, contract: EmbeddingContract, storage: Storage | None = None) -> Serving:
    """Return the dimension, the distance and the storage that the settings ask for."""
    dimension = settings.dimension or contract.dense.dimensions[0]
    return Serving(dimension=dimension, distance=settings.distance, storage=storage)


def storage_of(settings: QdrantSettings) -> Storage | None:
    """Return the way to store vectors that the settings ask for; None leaves all of it to the engine."""
    given = settings.storage
    if given is None:
        return None
    oversampling = None if given.quantization == "none" else given.oversampling or 2.0
    storage = Storage(**{**given.model_dump(), "oversampling": oversampling})
    return None if storage == Storage() else storage


def collection_name(alias: str, contract: EmbeddingContract, version: str) -> str:
    """Return the name of the collection that holds points of this version (see `points_version`) in this form."""
    return f"{alias}__{contract.index_fp[:12]}_{version[:8]}"


def points_version(vectors: Artifact, passages: Artifact) -> str:
    """Return one version of all that points hold: that of the vectors, and with `corpus.payload` that of its values."""
    if not _payload_types(passages):
        return vectors.data_version
    values = read_columns(passages.table(PASSAGES), ["passage_id", "payload"])
    return digest([vectors.data_version, values])


def is_ours(name: str, alias: str) -> bool:
    """Return whether `collection_name` gives such names for this alias: `kb__x__…` is not of the alias `kb`."""
    return re.fullmatch(re.escape(alias) + "__[0-9a-f]{12}_[0-9a-f]{8}", name) is not None


def point_id(passage_id: str) -> str:
    """Return the id of a passage's point, the same on every run, so that a second upsert changes nothing (uuid5)."""
    digest = hashlib.sha1(_NAMESPACE.bytes + passage_id.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def passage_versions(vectors: Artifact, passages: Artifact) -> dict[str, str]:
    """Return point id -> version of its passage: a hash of all that a point holds except the vectors.

    With `corpus.payload` a second hash, that of the payload's values, follows after a dot.
    """
    return {row.point_id: row.version for row in _passages(vectors, passages).values()}


def version_of(content_sha256: str, document_id: str | None, heading: str | None) -> str:
    """Return the version of a passage's point: a hash of all that the point holds except the vectors."""
    return _hash("\0".join(part or "" for part in (content_sha256, document_id, heading)))


def build(
    client: VectorClient,
    name: str,
    contract: EmbeddingContract,
    vectors: Artifact,
    passages: Artifact,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Built:
    """Make collection `name` hold exactly these vectors. A whole one is left as it is, an incomplete one is continued.

    `contract` includes how it is served. Raises Refused: FT-EMB-003 untrained dimension, FT-COL-005 another contract is
    stored under this name, FT-VEC-004 vectors of other texts, FT-VEC-007 vectors in another order.
    """
    serving = _serving(contract)
    version = points_version(vectors, passages)
    total = vectors.summary_as(VectorsSummary).passages
    if violations := dimension_violations(contract, serving.dimension, name):
        raise Refused(f"building {name}", violations)
    exists = name in client.names()
    if exists:
        stored = stored_contract(client, name)
        if compare(without_fusion(stored), without_fusion(contract)).level is not Level.IDENTICAL:
            raise Refused(f"building {name}", [_other_contract(name, stored, contract)])
        if client.metadata(name).get("whole") == version and client.count(name) == total:
            return Built(name, total, 0, 0, 0)
    rows = _passages(vectors, passages)
    wanted = {row.point_id: row.version for row in rows.values()}
    metadata: OpenJson = {"contract": without_fusion(contract).to_json()}
    if frequencies := frequencies_of(vectors):
        metadata[FREQUENCIES_KEY] = frequencies
    stored_versions = _continue(client, name) if exists else _start(client, name, serving, metadata, wanted)
    gone = sorted(stored_versions.keys() - wanted.keys())
    for start in range(0, len(gone), BATCH):
        faults.point("build.delete")
        client.delete(name, gone[start : start + BATCH])
    changed = {passage: row for passage, row in rows.items() if stored_versions.get(row.point_id) != row.version}
    relabelled = {passage: row for passage, row in changed.items() if row.has_text_of(stored_versions)}
    types = _payload_types(passages)
    client.index_payload(name, types)
    for payloads in _batches(_payloads(passages, relabelled)):
        faults.point("build.payloads")
        client.set_payloads(name, dict(payloads))
    rewritten = {passage: row for passage, row in changed.items() if passage not in relabelled}
    upserted, copied = 0, len(rows) - len(changed)
    for written in client.upload(name, _points(vectors, passages, serving.dimension, rewritten)):
        upserted += written
        progress(copied + len(relabelled) + upserted, total)
    faults.point("build.index")
    client.index(name)
    faults.point("build.whole")
    client.set_metadata(name, {"whole": version, "touched": time.time(), **({FIELDS: types} if types else {})})
    return Built(name, client.count(name), upserted, copied, len(gone), len(relabelled))


def _continue(client: VectorClient, name: str) -> dict[str, str]:
    """Mark a collection as not whole, until the last difference is written. Return the versions of its points."""
    faults.point("build.continue")
    client.settle(name)
    client.set_metadata(name, {"whole": "", "touched": time.time()})
    return client.field(name, "version")


def _start(
    client: VectorClient, name: str, serving: Serving, metadata: OpenJson, wanted: dict[str, str]
) -> dict[str, str]:
    """Create a collection, as a copy of the nearest one if there is one. Return the versions of its points."""
    metadata = {**metadata, "whole": "", "touched": time.time()}
    faults.point("build.start")
    source, versions = _nearest(client, name, wanted) if client.copies else ("", {})
    if source and client.copy(source, name, serving, metadata):
        return versions
    client.create(name, serving, metadata)
    return {}


def inspect(client: VectorClient, name: str) -> Collection:
    """Return contract, configuration and exact counts of a collection. Raises Refused (FT-COL-006) if it is missing."""
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
    """Return the contract in a collection's metadata, without counting points.

    Raises Refused: FT-COL-006 the collection is missing, FT-EMB-001 it has no contract.
    """
    _require(client, name)
    return read_contract(client.metadata(name).get("contract") or {}, f"collection {name}")


def set_fusion(client: VectorClient, name: str, contract: EmbeddingContract, notes: OpenJson) -> None:
    """Write the contract with its fusion, and the `notes` on it, into the collection's metadata, in one call."""
    client.set_metadata(name, {"contract": contract.to_json(), **notes})


def _nearest(client: VectorClient, name: str, wanted: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the collection to copy and the versions of its points: ("", {}) if there is none.

    It is whole, has the same model and stored form, and holds at least half of the wanted points. Of several, the one
    built last.
    """
    prefix = name.rpartition("_")[0] + "_"
    same_form = {other: client.metadata(other) for other in client.names() if other.startswith(prefix)}
    whole = [other for other, metadata in same_form.items() if metadata.get("whole")]
    for other in sorted(whole, key=lambda other: same_form[other].get("touched", 0.0), reverse=True):
        versions = client.field(other, "version")
        if sum(_text_of(wanted.get(key, "")) == _text_of(found) for key, found in versions.items()) * 2 >= len(wanted):
            return other, versions
    return "", {}


class _Passage(NamedTuple):
    """The id of a passage's point, and the version of the passage that it records."""

    point_id: str
    version: str

    def has_text_of(self, stored: Mapping[str, str]) -> bool:
        """True if a stored point differs only in the values of its payload."""
        return _text_of(stored.get(self.point_id, "")) == _text_of(self.version)


def _text_of(version: str) -> str:
    """Return the part of a passage's version that its texts decide."""
    return version.partition(".")[0]


def _payload_types(passages: Artifact) -> dict[str, PayloadType]:
    return passages.summary_as(PayloadSummary).payload


def _passages(vectors: Artifact, passages: Artifact) -> dict[str, _Passage]:
    columns = read_columns(vectors.table(VECTORS_FILE), ["passage_id", "content_sha256", "document_id", "heading"])
    labels = payload_labels(passages)
    found: dict[str, _Passage] = {}
    for passage, *parts in zip(*columns.values(), strict=True):
        version = version_of(*parts)
        label = labels.get(passage)
        found[passage] = _Passage(point_id(passage), f"{version}.{_hash(label)}" if label else version)
    return found


def payload_labels(passages: Artifact) -> dict[str, str]:
    """Return passage id -> its payload as JSON; empty without `corpus.payload`."""
    if not _payload_types(passages):
        return {}
    columns = read_columns(passages.table(PASSAGES), ["passage_id", "payload"])
    return dict(zip(columns["passage_id"], columns["payload"], strict=True))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _points(vectors: Artifact, passages: Artifact, dimension: int, changed: dict[str, _Passage]) -> Iterator[Points]:
    """Yield the points of these passages, in batches, each with its text."""
    if changed:
        for batch in _batches(zip(read_vectors(vectors, only=changed), _texts(passages, changed), strict=True)):
            points = _batch_points(batch, dimension, changed)
            faults.point("build.upsert")
            yield points


def _batches(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def _payloads(passages: Artifact, changed: dict[str, _Passage]) -> Iterator[tuple[str, OpenJson]]:
    """Yield (point id, payload) of these passages."""
    for text in _texts(passages, changed) if changed else ():
        row = changed[text.passage_id]
        yield row.point_id, _payload(text, row)


class _Text(NamedTuple):
    """A row of the table of passages, as far as a point holds it."""

    passage_id: str
    document_id: str
    heading: str
    content: str
    content_sha256: str
    payload: str = "{}"


def _texts(passages: Artifact, only: Container[str]) -> Iterator[_Text]:
    """Yield the texts of these passages, in order."""
    columns = [name for name in _Text._fields if name != "payload" or _payload_types(passages)]
    for block in table_batches(passages.table(PASSAGES), 1024, columns):
        numbers = [n for n, passage in enumerate(block.column("passage_id").to_pylist()) if passage in only]
        if numbers:
            rows = block.take(numbers)
            for cells in zip(*(rows.column(name).to_pylist() for name in columns), strict=True):
                yield _Text(*cells)


def _payload(text: _Text, passage: _Passage) -> OpenJson:
    return {
        "passage_id": text.passage_id,
        "document_id": text.document_id,
        "heading": text.heading,
        "content": text.content,
        "version": passage.version,
        **read_payload(text.payload),
    }


def _batch_points(batch: list[tuple[VectorRow, _Text]], dimension: int, passages: dict[str, _Passage]) -> Points:
    rows = [row for row, _ in batch]
    for row, text in batch:
        if row.passage_id != text.passage_id:
            raise Refused("building a collection", [_other_order(row.passage_id, text.passage_id)])
    violations = vectors_match_texts(
        "passage_vectors",
        {text.passage_id: text.content_sha256 for _, text in batch},
        {row.passage_id: row.content_sha256 for row in rows},
    )
    if violations:
        raise Refused("building a collection", violations)
    return Points(
        ids=[passages[row.passage_id].point_id for row in rows],
        dense=truncate(np.stack([row.dense for row in rows]), dimension),
        sparse=[(row.indices, row.values) for row in rows],
        payloads=[_payload(text, passages[text.passage_id]) for _, text in batch],
    )


def _serving(contract: EmbeddingContract) -> Serving:
    if contract.serving is None:
        raise ValueError("the contract does not say how the collection is served")
    return contract.serving


def _require(client: VectorClient, name: str) -> None:
    if name not in client.names():
        missing = violation("FT-COL-006", where=name, field="collection", found="missing", expected="present")
        raise Refused(f"reading {name}", [missing])


def _other_contract(name: str, stored: EmbeddingContract, wanted: EmbeddingContract) -> Violation:
    return violation("FT-COL-005", where=name, field="index_fp", found=stored.index_fp, expected=wanted.index_fp)


def _other_order(vector: str, passage: str) -> Violation:
    return violation("FT-VEC-007", where="passage_vectors", field="passage_id", found=vector, expected=passage)
