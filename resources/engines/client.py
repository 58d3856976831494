"""The two engines behind qdrant-client: a server, and the client's own in-process one (`local`)."""

# qdrant_client takes and gives untyped unions
# pyright: basic
from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import msgspec
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from expectations.contracts.collection import configured_serving
from expectations.contracts.embedding import Fusion, Serving, Storage
from expectations.violations import Refused, violation
from resources import faults
from resources.artifacts import list_files
from resources.engines.fusion import fuse
from resources.engines.protocol import (
    DENSE,
    SPARSE,
    Algebra,
    Condition,
    OpenJson,
    PayloadType,
    Points,
    Query,
    Scored,
    dense_rows,
    one_by_one,
    one_field,
    range_of,
    require_sound,
    require_unaliased,
    weighted_sum,
)
from resources.engines.seal import require_sealed, write_seal
from resources.files import sync_to_disk

_log = logging.getLogger(__name__)
_LIBRARY = "qdrant-client"
_QUERIES = 64  # in one request
# where qdrant-client 1.20 keeps a local collection's points, and what it replaces at every change of anything else
_FILE, _META = "storage.sqlite", "meta.json"
_PAGE = 10_000  # points in one page of a scroll without vectors
_UPLOADS = 4  # requests at a time; a shard writes one at a time, so more than four where there are more shards
_REFUSALS = {400, 401, 403, 404, 405, 409, 422}
_COPY_SECONDS = 4 * 3600  # at most, for one answer while a server copies a collection
_GRACE_SECONDS = 60.0
_POLL_SECONDS = 1.0
_IDLE_SECONDS = 300.0
"""Seconds in which a server that has an index to build, and does not build it, may begin."""
_COPYING, _THRESHOLD = "copying", "indexing_threshold"
"""Keys of a collection's metadata on a server: the copy that fills it, and the optimizer's setting while there is no
index yet."""
_QUANTIZATIONS: dict[str, Any] = {
    "none": None,
    "int8": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}
_DISTANCES = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "euclid": models.Distance.EUCLID}
_SCHEMAS: dict[PayloadType, models.PayloadSchemaType] = {
    "text": models.PayloadSchemaType.KEYWORD,
    "texts": models.PayloadSchemaType.KEYWORD,
    "whole": models.PayloadSchemaType.INTEGER,
    "number": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}
_ALGEBRA = Algebra[models.Expression](
    constant=float,
    variable=str,
    add=lambda parts: models.SumExpression(sum=parts),
    multiply=lambda parts: models.MultExpression(mult=parts),
)


class Address(NamedTuple):
    """A server as the platform reaches it; `connect` opens a connection that waits so many seconds for an answer."""

    url: str
    api_key: str | None
    connect: Callable[[float], QdrantClient]


class ServerClient:
    """Everything through the public API of qdrant-client. Without an address it copies no collection."""

    def __init__(self, connect: Callable[[], QdrantClient], address: Address | None = None) -> None:
        self._connect = connect
        self._address = address
        self._dimensions: dict[str, int] = {}

    @cached_property
    def client(self) -> QdrantClient:
        return self._connect()

    @property
    def changing(self) -> QdrantClient:
        """The client for a call that writes."""
        return self.client

    @property
    def copies(self) -> bool:
        """True for a server of one node: a snapshot holds the shards of one."""
        if self._address is None:
            return False
        try:
            status = self.client.cluster_status()
        except UnexpectedResponse as error:
            return self._cannot_copy("a collection", error)
        return len(getattr(status, "peers", None) or {}) <= 1

    def names(self) -> list[str]:
        return sorted(collection.name for collection in self.client.get_collections().collections)

    def aliases(self) -> dict[str, str]:
        return {alias.alias_name: alias.collection_name for alias in self.client.get_aliases().aliases}

    def create(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        """Creates the collection without an index, which `index` builds once: in a bulk load it would be built again
        and again for segments that grow."""
        self._create(name, serving, metadata)
        threshold = self.client.get_collection(name).config.optimizer_config.indexing_threshold
        if threshold:
            never = models.OptimizersConfigDiff(indexing_threshold=0)
            self.changing.update_collection(name, optimizers_config=never, metadata={_THRESHOLD: threshold})

    def _create(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        storage = serving.storage or Storage()
        hnsw = None
        if storage.shapes_index:
            hnsw = models.HnswConfigDiff(
                m=storage.hnsw_m, ef_construct=storage.hnsw_ef_construct, on_disk=storage.on_disk or None
            )
        dense = models.VectorParams(
            size=serving.dimension,
            distance=_DISTANCES[serving.distance],
            on_disk=storage.on_disk or None,
            quantization_config=_QUANTIZATIONS[storage.quantization],
            hnsw_config=hnsw,
        )
        index = models.SparseIndexParams(on_disk=True) if storage.on_disk else None
        self.changing.create_collection(
            name,
            vectors_config={DENSE: dense},
            sparse_vectors_config={SPARSE: models.SparseVectorParams(index=index)},
            on_disk_payload=storage.on_disk or None,
            shard_number=storage.shards,
            replication_factor=storage.replicas,
            metadata=dict(metadata),
        )

    def copy(self, source: str, name: str, serving: Serving, metadata: Mapping[str, object]) -> bool:
        """Lets the server restore a snapshot of `source` in the new collection: no point passes through here."""
        if self._address is None:
            return False
        address, started = self._address, time.time()
        with closing(address.connect(_COPY_SECONDS)) as patient:
            try:
                snapshot = patient.create_snapshot(source)
            except UnexpectedResponse as error:
                return self._cannot_copy(source, error)
            copying: OpenJson = {
                "source": source,
                "snapshot": snapshot.name if snapshot else "",
                "points": self.count(source),
                # restoring takes about as long as the snapshot did
                "until": time.time() + _GRACE_SECONDS + 3 * (time.time() - started),
            }
            self.create(name, serving, {**metadata, _COPYING: copying})
            faults.point("server.copy")
            try:
                patient.recover_snapshot(
                    name,
                    f"{address.url.rstrip('/')}/collections/{quote(source)}/snapshots/{quote(copying['snapshot'])}",
                    api_key=address.api_key,
                    priority=models.SnapshotPriority.SNAPSHOT,
                )
            except UnexpectedResponse as error:
                possible = self._cannot_copy(source, error)
                self._end_copy(name, copying)
                self.drop(name)
                return possible
        faults.point("server.copied")
        self._end_copy(name, copying)
        return True

    def _cannot_copy(self, source: str, error: UnexpectedResponse) -> bool:
        """Return False where a copy was refused. Raises the error of a network, behind which it may go on."""
        if not _is_refusal(error):
            raise error
        reason = " ".join(str(error).split())
        _log.warning("the server does not copy %s, so every point is sent: %s", source, reason)
        return False

    def _end_copy(self, name: str, copying: OpenJson) -> None:
        """Delete the snapshot of a copy that is over, and its note."""
        try:
            self.changing.delete_snapshot(copying["source"], copying["snapshot"])
        except UnexpectedResponse as error:  # deleted already, or with its collection
            if not _is_refusal(error):
                raise
        self.set_metadata(name, {_COPYING: None})

    def settle(self, name: str) -> None:
        """Waits for the server, which restores a snapshot to its end also when nobody waits for the answer.

        Points that were written before that would be lost. It is over once there are as many points as in the source;
        or it never began, or failed, and nothing is to be expected after three times its usual length.
        """
        copying: OpenJson = self.metadata(name).get(_COPYING) or {}
        if not copying:
            return
        _log.warning("a copy of %s into %s was interrupted: waiting for the server", copying["source"], name)
        while self.count(name) != copying["points"] and time.time() < copying["until"]:
            time.sleep(_POLL_SECONDS)
        self._end_copy(name, copying)

    def drop(self, name: str) -> None:
        require_unaliased(name, self.aliases())
        self._dimensions.pop(name, None)
        self.changing.delete_collection(name)

    def serving(self, name: str) -> Serving | None:
        return configured_serving(self.client.get_collection(name).config)

    def metadata(self, name: str) -> OpenJson:
        return dict(self.client.get_collection(name).config.metadata or {})

    def set_metadata(self, name: str, changes: Mapping[str, object]) -> None:
        self.changing.update_collection(name, metadata=dict(changes))

    def count(self, name: str, holding: str | None = None) -> int:
        having = models.Filter(must=[models.HasVectorCondition(has_vector=holding)]) if holding else None
        return self.client.count(name, count_filter=having, exact=True).count

    def upsert(self, name: str, points: Points) -> None:
        if not points.ids:
            return
        if name not in self._dimensions:
            serving = self.serving(name)
            self._dimensions[name] = serving.dimension if serving else 0
        require_sound(name, points, self._dimensions[name])
        rows = zip(points.ids, points.dense.tolist(), points.sparse, points.payloads, strict=True)
        self.changing.upsert(
            name,
            [
                models.PointStruct(
                    id=key,
                    vector={
                        DENSE: dense,
                        SPARSE: models.SparseVector(
                            indices=np.asarray(ids).tolist(), values=np.asarray(values).tolist()
                        ),
                    },
                    payload=payload,
                )
                for key, dense, (ids, values), payload in rows
            ],
            wait=True,
        )

    def upload(self, name: str, batches: Iterable[Points]) -> Iterator[int]:
        shards = self.client.get_collection(name).config.params.shard_number or 1
        running: deque[tuple[Future[None], int]] = deque()
        with ThreadPoolExecutor(max(_UPLOADS, shards), thread_name_prefix="upload") as pool:
            for points in batches:
                if len(running) >= max(_UPLOADS, shards):  # so that no more batches are in memory
                    yield _written(running)
                running.append((pool.submit(self.upsert, name, points), len(points.ids)))
            while running:
                yield _written(running)

    def delete(self, name: str, ids: Sequence[str]) -> None:
        if ids:
            self.changing.delete(name, models.PointIdsList(points=list(ids)), wait=True)

    def set_payloads(self, name: str, payloads: Mapping[str, OpenJson]) -> None:
        operations = [
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=payload, points=[key]))
            for key, payload in payloads.items()
        ]
        if operations:
            self.changing.batch_update_points(name, operations, wait=True)

    def index_payload(self, name: str, fields: Mapping[str, PayloadType]) -> None:
        for field, kind in fields.items():
            self.changing.create_payload_index(name, field, _SCHEMAS[kind], wait=True)

    def retrieve(self, name: str, ids: Sequence[str]) -> Points:
        return _columns(self.client.retrieve(name, list(ids), with_payload=True, with_vectors=True))

    def scroll(self, name: str, batch: int = 256) -> Iterator[Points]:
        offset = None
        while True:
            records, offset = self.client.scroll(name, limit=batch, offset=offset, with_payload=True, with_vectors=True)
            if records:
                yield _columns(records)
            if offset is None:
                return

    def payloads(self, name: str, keys: Sequence[str] | None = None) -> Iterator[dict[str, OpenJson]]:
        wanted = True if keys is None else list(keys)
        offset = None
        while True:
            records, offset = self.client.scroll(
                name, limit=_PAGE, offset=offset, with_payload=wanted, with_vectors=False
            )
            yield {str(record.id): record.payload or {} for record in records}
            if offset is None:
                return

    def field(self, name: str, key: str) -> OpenJson:
        return one_field(self.payloads(name, [key]), key)

    def query(self, name: str, queries: Sequence[Query]) -> list[list[Scored]]:
        answers: list[list[Scored]] = []
        for start in range(0, len(queries), _QUERIES):
            requests = [_request(query) for query in queries[start : start + _QUERIES]]
            for answer in self.client.query_batch_points(name, requests):
                answers.append([Scored(str(p.id), float(p.score), p.payload or {}) for p in answer.points])
        return answers

    def index(self, name: str) -> None:
        """Lets the server build the index, and waits for it: until then a search compares with every point."""
        if threshold := self.metadata(name).get(_THRESHOLD):
            usual = models.OptimizersConfigDiff(indexing_threshold=threshold)
            self.changing.update_collection(name, optimizers_config=usual, metadata={_THRESHOLD: None})
        active = time.monotonic()
        while (found := self.client.get_collection(name)).status != models.CollectionStatus.GREEN:
            if found.status == models.CollectionStatus.YELLOW:  # it is building
                active = time.monotonic()
            if found.status == models.CollectionStatus.RED or time.monotonic() - active > _IDLE_SECONDS:
                _refuse_index(name, found)
            time.sleep(_POLL_SECONDS)

    def point(self, alias: str, name: str) -> None:
        now = self.aliases().get(alias)
        if now == name:
            return
        create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        self.changing.update_collection_aliases([delete, create] if now else [create])

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


class _Meta(msgspec.Struct):
    """The parts of the client's meta.json that the platform reads."""

    collections: dict[str, OpenJson]
    aliases: dict[str, str]


class LocalClient(ServerClient):
    """The client's own engine in a folder: exact, slow, every point a commit of its own. For small collections.

    Connecting unpickles every point of every collection (20,000: more than a second), so only what needs points does;
    names, metadata and the plain count are read from the files.
    """

    def __init__(self, connect: Callable[[], QdrantClient], folder: Path) -> None:
        super().__init__(lambda: self._checked(connect))
        self._folder, self._meta_file, self._seal = folder / "collection", folder / _META, folder / ".seal.json"
        self._is_checked = False

    @property
    def copies(self) -> bool:
        return True

    @property
    def changing(self) -> QdrantClient:
        client = self.client
        self._seal.unlink(missing_ok=True)
        return client

    def close(self) -> None:
        connected = "client" in self.__dict__
        super().close()
        if connected and not self._seal.is_file():
            write_seal(self._seal, self._folder.parent, self._files(), _LIBRARY)

    def _sync(self) -> None:
        """Put meta.json on the disk: the library replaces it, and a power cut could leave an empty file."""
        sync_to_disk(self._meta_file)
        sync_to_disk(self._meta_file.parent)

    def settle(self, name: str) -> None:
        """Nothing to do: a copy enters the collection when it is whole."""

    def upload(self, name: str, batches: Iterable[Points]) -> Iterator[int]:
        return one_by_one(self, name, batches)

    def index(self, name: str) -> None:
        """Nothing to do: this engine has no index."""

    def drop(self, name: str) -> None:
        super().drop(name)
        self._sync()

    def set_metadata(self, name: str, changes: Mapping[str, object]) -> None:
        super().set_metadata(name, changes)
        self._sync()

    def point(self, alias: str, name: str) -> None:
        super().point(alias, name)
        self._sync()

    def _files(self) -> list[Path]:
        points = list_files(self._folder) if self._folder.is_dir() else []
        return [*points, *self._folder.parent.glob(_META)]

    def _checked(self, connect: Callable[[], QdrantClient]) -> QdrantClient:
        self._check()
        return connect()

    def _check(self) -> None:
        """Compare the files with their seal, once; from the first change on there is none."""
        if not self._is_checked:
            folder = self._folder.parent
            fix = (
                "move the folder of that file away, then ft run --asset qdrant_collection (for meta.json: ft run "
                "--asset released_collection --upstream)"
            )
            require_sealed(self._seal, folder, self._files(), _LIBRARY, fix)
            self._is_checked = True

    def names(self) -> list[str]:
        return sorted(self._meta().collections)

    def aliases(self) -> dict[str, str]:
        return dict(self._meta().aliases)

    def serving(self, name: str) -> Serving | None:
        dense = (self._meta().collections[name].get("vectors") or {}).get(DENSE)
        return Serving(dimension=dense["size"], distance=dense["distance"].lower()) if dense else None

    def metadata(self, name: str) -> OpenJson:
        return dict(self._meta().collections[name].get("metadata") or {})

    def count(self, name: str, holding: str | None = None) -> int:
        self._check()
        file = self._folder / name / _FILE
        if holding or not file.is_file():
            return super().count(name, holding)
        try:
            with closing(sqlite3.connect(file)) as points:
                return int(points.execute("SELECT COUNT(*) FROM points").fetchone()[0])
        except sqlite3.DatabaseError as error:
            raise unreadable(self._folder.parent, error) from error

    def index_payload(self, name: str, fields: Mapping[str, PayloadType]) -> None:
        """Nothing to do: this engine has no index."""

    def query(self, name: str, queries: Sequence[Query]) -> list[list[Scored]]:
        """Answers the fused arm from the vectors of the candidates, in several requests.

        Here a search among some points costs one among all: nested prefetches took 3.5 times as long.
        """
        answers: list[list[Scored]] = []
        for query in queries:
            answers += [self._fused(name, query)] if query.arm == "fused" else super().query(name, [query])
        return answers

    def _fused(self, name: str, query: Query) -> list[Scored]:
        fusion = _fusion(query)
        arms = [replace(query, arm=arm, limit=fusion.prefetch_limit, payload=()) for arm in (DENSE, SPARSE)]
        found = chain.from_iterable(super().query(name, arms))
        points = self.retrieve(name, list(dict.fromkeys(point.id for point in found)))
        if not points.ids:
            return []
        weights = dict(zip(*(np.asarray(part).tolist() for part in query.sparse), strict=True))
        lexical = [
            sum(weights.get(token, 0.0) * value for token, value in zip(ids.tolist(), values.tolist(), strict=True))
            for ids, values in points.sparse
        ]
        dense = points.dense @ np.asarray(query.dense, np.float32)
        (scores,) = fuse(fusion, dense[None], np.asarray([lexical], np.float32))
        return [
            Scored(points.ids[n], float(scores[n]), {field: points.payloads[n].get(field) for field in query.payload})
            for n in np.argsort(-scores, kind="stable")[: query.limit]
        ]

    def create(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        _ = self.changing  # its lock is held before a folder is removed
        if name not in self.names():
            place = self._folder / name
            shutil.rmtree(place, ignore_errors=True)  # of a copy that was interrupted
            place.mkdir(parents=True)
            # the client commits every point: with a write-ahead log that is one fsync instead of four
            with closing(sqlite3.connect(place / _FILE)) as file:
                file.execute("PRAGMA journal_mode=WAL")
        self._create(name, serving, metadata)
        self._sync()

    def copy(self, source: str, name: str, serving: Serving, metadata: Mapping[str, object]) -> bool:
        """Copies the file that holds the points, which the new collection then reads."""
        _ = self.changing  # its lock is held before a folder is removed
        file = self._folder / source / _FILE
        if not file.is_file():  # another version of the client may keep points elsewhere
            return False
        copied, place = self._folder / f".copy-{name}", self._folder / name
        for left in (copied, place):  # of a copy that was interrupted
            shutil.rmtree(left, ignore_errors=True)
        copied.mkdir()
        with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(copied / _FILE)) as new:
            old.backup(new)
        sync_to_disk(copied / _FILE)
        faults.point("local.copied")
        copied.rename(place)
        faults.point("local.enter")
        self._create(name, serving, metadata)
        self._sync()
        return True

    def _meta(self) -> _Meta:
        self._check()
        if not self._meta_file.is_file():  # nobody connected yet
            return _Meta({}, {})
        try:
            return msgspec.json.decode(self._meta_file.read_bytes(), type=_Meta)
        except (ValueError, RecursionError) as error:  # no JSON, not UTF-8, of another shape, nested too deeply
            raise unreadable(self._folder.parent, error) from error


def _written(running: deque[tuple[Future[None], int]]) -> int:
    """Return the number of points of the oldest upload, once they are written. Raises what went wrong in it."""
    upload, points = running.popleft()
    upload.result()
    return points


def _is_refusal(error: UnexpectedResponse) -> bool:
    """Return whether a request was refused, and not lost on its way: a proxy's 502 may hide that it is still served."""
    if error.status_code in _REFUSALS:
        return True
    try:
        status = error.structured()["status"]
    except (ValueError, TypeError, KeyError):
        return False
    return isinstance(status, dict) and "error" in status


def _refuse_index(name: str, found: models.CollectionInfo) -> NoReturn:
    error = getattr(found.optimizer_status, "error", "none")
    status = f"status {found.status}, error: {error}"
    refusal = violation("FT-QDR-013", where=name, field="index", found=status, expected="status green")
    raise Refused(f"indexing {name}", [refusal])


def unreadable(folder: Path, error: Exception) -> Refused:
    """Return the refusal (FT-QDR-011) that names what is damaged below the folder of a local engine."""
    damaged = [file.parent for file in sorted((folder / "collection").glob(f"*/{_FILE}")) if not _is_sound(file)]
    places = ", ".join(str(place) for place in damaged) or str(folder)
    refusal = violation(
        "FT-QDR-011",
        where=places,
        message=f"the local engine's files cannot be read: {error}",
        field="qdrant",
        found="damaged",
        expected="what qdrant-client wrote",
        fix=f"move {places} away, then ft run --asset qdrant_collection (built again from vectors that are kept)",
    )
    return Refused("opening Qdrant", [refusal])


def _is_sound(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file)) as points:
            return points.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        return False


def _request(query: Query) -> models.QueryRequest:
    lexical = models.SparseVector(
        indices=np.asarray(query.sparse[0]).tolist(), values=np.asarray(query.sparse[1]).tolist()
    )
    must: list[Any] = [_condition(condition) for condition in query.where]
    if query.ids is not None:
        must.append(models.HasIdCondition(has_id=list(query.ids)))
    only = models.Filter(must=must) if must else None
    request: OpenJson
    if query.arm == "dense":
        request = {"query": query.dense, "using": DENSE, "params": _params(query)}
    elif query.arm == "sparse":
        request = {"query": lexical, "using": SPARSE}
    else:
        fusion = _fusion(query)
        # each arm scores the candidates of both (fusion.py); the limits are given: the engine's own default is 10
        prefetch = _arms(query, lexical, fusion.prefetch_limit, only)
        prefetch = _arms(query, lexical, 2 * fusion.prefetch_limit, only, prefetch)
        if fusion.fusion == "weighted_sum":
            formula, defaults = weighted_sum(fusion, query.distance, _ALGEBRA)
            request = {"prefetch": prefetch, "query": models.FormulaQuery(formula=formula, defaults=defaults)}
        else:
            request = {"prefetch": prefetch, "query": models.FusionQuery(fusion=models.Fusion(fusion.fusion))}
    payload = models.PayloadSelectorInclude(include=list(query.payload)) if query.payload else False
    return models.QueryRequest(limit=query.limit, with_payload=payload, filter=only, **request)


def _arms(
    query: Query,
    lexical: models.SparseVector,
    limit: int,
    only: models.Filter | None,
    candidates: list[models.Prefetch] | None = None,
) -> list[models.Prefetch]:
    """Return one prefetch an arm, over all points or over these candidates."""
    common: OpenJson = {"prefetch": candidates, "limit": limit, "filter": only}
    return [
        models.Prefetch(query=query.dense, using=DENSE, params=_params(query), **common),
        models.Prefetch(query=lexical, using=SPARSE, **common),
    ]


def _fusion(query: Query) -> Fusion:
    if query.fusion is None:
        raise ValueError("the fused arm needs a fusion")
    return query.fusion


def _params(query: Query) -> models.SearchParams | None:
    if query.exact:
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    if query.oversampling:
        rescore = models.QuantizationSearchParams(rescore=True, oversampling=query.oversampling)
        return models.SearchParams(quantization=rescore)
    return None


def _condition(condition: Condition) -> models.FieldCondition:
    if limits := range_of(condition):
        return models.FieldCondition(key=condition.field, range=models.Range(**limits))
    value: Any = condition.value
    return models.FieldCondition(key=condition.field, match=models.MatchValue(value=value))


def _columns(records: Sequence[Any]) -> Points:
    empty = models.SparseVector(indices=[], values=[])
    sparse = [record.vector.get(SPARSE) or empty for record in records]
    return Points(
        ids=[str(record.id) for record in records],
        dense=dense_rows([record.vector.get(DENSE) for record in records]),
        sparse=[(np.asarray(s.indices, np.int32), np.asarray(s.values, np.float32)) for s in sparse],
        payloads=[dict(record.payload or {}) for record in records],
    )
