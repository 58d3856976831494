"""Qdrant's own engine in this process (`qdrant-edge-py`): one shard a collection, HNSW, a write-ahead log.

A shard knows neither names nor aliases nor metadata. They are in `meta.json` next to the shards, which is replaced
in one step: a collection exists if that file names it and its folder is there; other folders do not count. The library
is in beta and changes between versions: it is pinned.
"""

# the library's stubs type its enums loosely
# pyright: basic
from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import qdrant_edge as edge

from expectations.canonical import digest
from expectations.contracts.embedding import Serving, Storage
from expectations.violations import Refused, violation
from resources import faults
from resources.artifacts import list_files
from resources.engines.fusion import RRF_K
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
    TokenWeights,
    dense_rows,
    one_by_one,
    one_field,
    range_of,
    require_sound,
    require_unaliased,
    weighted_sum,
)
from resources.engines.seal import drop_seals, require_sealed, write_seal
from resources.files import copy_folder, write_json

_LIBRARY = "qdrant-edge-py"
_QUERIES = 64  # in one batch
_REWRITTEN = ("edge_config.json", "tracker_journal.dat")
_OF_FILES = "Service runtime error"
"""Begin of an error about the shard's files; one about a request (`Vector dimension error`) begins otherwise."""
_PAGE = 10_000  # points in one page of a scroll without vectors
_HNSW_M, _HNSW_EF_CONSTRUCT, _FULL_SCAN_KB = 16, 100, 10_000  # of the library, which wants all three or none
_QUANTIZATIONS: dict[str, Any] = {
    "none": None,
    "int8": edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True),
    "binary": edge.BinaryQuantizationConfig(always_ram=True),
}
_DISTANCES = {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot, "euclid": edge.Distance.Euclid}
_SCHEMAS: dict[PayloadType, edge.PayloadSchemaType] = {
    "text": edge.PayloadSchemaType.Keyword,
    "texts": edge.PayloadSchemaType.Keyword,
    "whole": edge.PayloadSchemaType.Integer,
    "number": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}
_ALGEBRA = Algebra(
    constant=edge.Expression.Constant,
    variable=edge.Expression.Variable,
    add=edge.Expression.Sum,
    multiply=edge.Expression.Mult,
)


class _Entry(msgspec.Struct):
    """The entry of a collection in meta.json."""

    serving: Serving
    metadata: OpenJson


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    collections: dict[str, _Entry] = {}
    aliases: dict[str, str] = {}


class EdgeClient:
    """The collections of one folder. Whoever opens it holds the folder's lock."""

    copies = True

    def __init__(self, folder: Path) -> None:
        self._file = folder / "meta.json"
        self._folder = folder / "shards"
        self._meta = self._read()
        # a person deletes the folder of a shard that cannot be opened: that collection is gone, and is built again
        for name in [name for name in self._meta.collections if not (self._folder / name).is_dir()]:
            del self._meta.collections[name]
        self._shards: dict[str, edge.EdgeShard] = {}

    def names(self) -> list[str]:
        return sorted(self._meta.collections)

    def aliases(self) -> dict[str, str]:
        return dict(self._meta.aliases)

    def create(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        self._clear(name)
        place = self._folder / name
        place.mkdir(parents=True)
        self._shards[name] = edge.EdgeShard.create(str(place), _config(serving))
        self._shards[name].flush()
        faults.point("edge.enter")
        self._enter(name, serving, metadata)

    def copy(self, source: str, name: str, serving: Serving, metadata: Mapping[str, object]) -> bool:
        """Copies the folder of the shard, with the index that was built in it."""
        self._clear(name)
        if shard := self._shards.pop(source, None):
            shard.flush()
            shard.close()
        else:
            self._require_sealed(source)
        copy_folder(self._folder / source, self._folder / name)
        faults.point("edge.copied")
        self._enter(name, serving, metadata)
        return True

    def settle(self, name: str) -> None:
        """Nothing to do: a copy enters the collection when it is whole."""

    def drop(self, name: str) -> None:
        require_unaliased(name, self._meta.aliases)
        if shard := self._shards.pop(name, None):
            shard.close()
        del self._meta.collections[name]
        self._save()
        faults.point("edge.drop")
        self._seal(name).unlink(missing_ok=True)
        shutil.rmtree(self._folder / name)

    def serving(self, name: str) -> Serving | None:
        self._shard(name)  # opening it compares the entry with what the segments hold
        return self._meta.collections[name].serving.form

    def metadata(self, name: str) -> OpenJson:
        return dict(self._meta.collections[name].metadata)

    def set_metadata(self, name: str, changes: Mapping[str, object]) -> None:
        self._meta.collections[name].metadata.update(changes)
        self._save()

    def count(self, name: str, holding: str | None = None) -> int:
        having = edge.Filter(must=[edge.HasVectorCondition(holding)]) if holding else None
        with self._reading(name) as shard:
            return shard.count(edge.CountRequest(exact=True, filter=having))

    def upsert(self, name: str, points: Points) -> None:
        if not points.ids:
            return
        require_sound(name, points, self._meta.collections[name].serving.dimension)
        rows = zip(points.ids, points.dense.tolist(), points.sparse, points.payloads, strict=True)
        made = [
            edge.Point(key, {DENSE: dense, SPARSE: _sparse(sparse)}, payload) for key, dense, sparse, payload in rows
        ]
        self._shard(name).update(edge.UpdateOperation.upsert_points(made))

    def upload(self, name: str, batches: Iterable[Points]) -> Iterator[int]:
        return one_by_one(self, name, batches)

    def delete(self, name: str, ids: Sequence[str]) -> None:
        if ids:
            self._shard(name).update(edge.UpdateOperation.delete_points(list(ids)))

    def set_payloads(self, name: str, payloads: Mapping[str, OpenJson]) -> None:
        for key, payload in payloads.items():
            self._shard(name).update(edge.UpdateOperation.overwrite_payload([key], payload))

    def index_payload(self, name: str, fields: Mapping[str, PayloadType]) -> None:
        for field, kind in fields.items():
            self._shard(name).update(edge.UpdateOperation.create_field_index(field, _SCHEMAS[kind]))

    def retrieve(self, name: str, ids: Sequence[str]) -> Points:
        with self._reading(name) as shard:
            return _columns(shard.retrieve(list(ids), with_payload=True, with_vector=True))

    def scroll(self, name: str, batch: int = 256) -> Iterator[Points]:
        for records in self._pages(name, batch, with_payload=True, with_vector=True):
            yield _columns(records)

    def payloads(self, name: str, keys: Sequence[str] | None = None) -> Iterator[dict[str, OpenJson]]:
        for records in self._pages(name, _PAGE, with_payload=list(keys) if keys else True, with_vector=False):
            yield {str(record.id): record.payload or {} for record in records}

    def field(self, name: str, key: str) -> OpenJson:
        return one_field(self.payloads(name, [key]), key)

    def query(self, name: str, queries: Sequence[Query]) -> list[list[Scored]]:
        answers: list[list[Scored]] = []
        for start in range(0, len(queries), _QUERIES):
            batch = edge.QueryBatchRequest([_request(query) for query in queries[start : start + _QUERIES]])
            with self._reading(name) as shard:
                batches = shard.query_batch(batch)
            for found in batches:
                answers.append([Scored(str(p.id), float(p.score), p.payload or {}) for p in found])
        return answers

    def index(self, name: str) -> None:
        """Builds what is worth an index (synchronous; the shard searches exhaustively before), then flushes."""
        self._shard(name).optimize()
        self._shard(name).flush()

    def point(self, alias: str, name: str) -> None:
        if name not in self._meta.collections:
            refusal = violation("FT-COL-006", where=name, field="collection", found="missing", expected="present")
            raise Refused(f"opening {name}", [refusal])
        if self._meta.aliases.get(alias) != name:
            self._meta.aliases[alias] = name
            self._save()

    def close(self) -> None:
        opened = list(self._shards)
        while self._shards:
            _, shard = self._shards.popitem()
            shard.flush()
            shard.close()
        for name in opened:  # after all are flushed, whatever the disk then does
            if not self._seal(name).is_file():
                write_seal(self._seal(name), self._folder / name, _sealed_files(self._folder / name), _LIBRARY)

    def _shard(self, name: str) -> edge.EdgeShard:
        if name not in self._shards:
            self._require_sealed(name)
            config = _config(self._meta.collections[name].serving)
            with self._refusing(name, "opened"):
                self._shards[name] = edge.EdgeShard.load(str(self._folder / name), config)
            # an open shard may write at any time, also what it repairs after a kill; closing it writes a new seal
            with suppress(OSError):  # a state that may only be read
                self._seal(name).unlink(missing_ok=True)
        return self._shards[name]

    @contextmanager
    def _reading(self, name: str) -> Iterator[edge.EdgeShard]:
        """Yield the shard for a call that reads: a file may be lost or damaged after it was opened, and before its next
        seal."""
        shard = self._shard(name)
        with self._refusing(name, "read", begins=_OF_FILES):
            yield shard

    @contextmanager
    def _refusing(self, name: str, verb: str, begins: str = "") -> Iterator[None]:
        """Refuse (FT-QDR-007), with the collection's folder, where the library fails with a text that begins so."""
        try:
            yield
        except BaseException as error:  # its panic is no Exception, and it raises nothing more particular than that
            failed = isinstance(error, Exception) and str(error).startswith(begins)
            if not failed and type(error).__name__ != "PanicException":
                raise
            refusal = violation(
                "FT-QDR-007",
                where=name,
                message=f"the shard cannot be {verb}: {error}",
                field="collection",
                found="unreadable",
                expected="a shard",
                fix=f"delete the folder {self._folder / name}, then ft run --asset qdrant_collection",
            )
            raise Refused(f"opening {name}" if verb == "opened" else f"reading {name}", [refusal]) from error

    def _seal(self, name: str) -> Path:
        return self._folder / f".{name}.seal.json"

    def _require_sealed(self, name: str) -> None:
        folder = self._folder / name
        fix = f"delete the folder {folder}, then ft run --asset qdrant_collection"
        require_sealed(self._seal(name), folder, _sealed_files(folder), _LIBRARY, fix)

    def _pages(
        self, name: str, size: int, *, with_payload: bool | list[str], with_vector: bool
    ) -> Iterator[list[edge.Record]]:
        offset = None
        while True:
            request = edge.ScrollRequest(offset=offset, limit=size, with_payload=with_payload, with_vector=with_vector)
            with self._reading(name) as shard:
                records, offset = shard.scroll(request)
            if records:
                yield records
            if offset is None:
                return

    def _clear(self, name: str) -> None:
        """Remove what an interrupted creation left behind: no entry names it."""
        if name in self._meta.collections:
            raise ValueError(f"collection {name} already exists")
        self._seal(name).unlink(missing_ok=True)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _enter(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        self._meta.collections[name] = _Entry(serving, dict(metadata))
        self._save()

    def _save(self) -> None:
        content = msgspec.to_builtins(self._meta)
        write_json(self._file, {**content, "digest": digest(content)})

    def _read(self) -> _Meta:
        """Return the content of meta.json. Raises Refused (FT-QDR-012) if it is not as it was written."""
        try:
            content: OpenJson = msgspec.json.decode(self._file.read_bytes(), type=OpenJson)
            # earlier product versions wrote no digest
            stated, found = content.pop("digest", None), digest(content)
            if stated is None:  # and changed shards without a look at their seals
                drop_seals(self._folder.glob(".*.seal.json"))
            if stated not in {None, found}:
                raise ValueError(f"its digest is {found}, and it states {stated}")
            return msgspec.convert(content, _Meta)
        except FileNotFoundError:
            return _Meta()
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, other keys, nested too deeply
            fix = f"move {self._file.parent} away, then ft run --asset released_collection --upstream"
            damaged = violation("FT-QDR-012", where=str(self._file), field="content", found=str(error), fix=fix)
            raise Refused("opening Qdrant", [damaged]) from error


def _sealed_files(folder: Path) -> list[Path]:
    """Return the files of a shard that hold what is searched, without those that the library writes when it loads."""
    return [path for path in list_files(folder) if path.name not in _REWRITTEN and path.parent.name != "wal"]


def _config(serving: Serving) -> edge.EdgeConfig:
    storage = serving.storage or Storage()
    hnsw: edge.HnswIndexConfig | None = None
    if storage.shapes_index:
        hnsw = edge.HnswIndexConfig(
            _HNSW_M if storage.hnsw_m is None else storage.hnsw_m,
            storage.hnsw_ef_construct or _HNSW_EF_CONSTRUCT,
            _FULL_SCAN_KB,
            on_disk=storage.on_disk,
        )
    dense = edge.EdgeVectorParams(
        size=serving.dimension,
        distance=_DISTANCES[serving.distance],
        on_disk=storage.on_disk or None,
        quantization_config=_QUANTIZATIONS[storage.quantization],
        hnsw_config=hnsw,
    )
    sparse = edge.EdgeSparseVectorParams(on_disk=True) if storage.on_disk else edge.EdgeSparseVectorParams()
    return edge.EdgeConfig(
        vectors={DENSE: dense}, sparse_vectors={SPARSE: sparse}, on_disk_payload=storage.on_disk or None
    )


def _sparse(sparse: TokenWeights) -> edge.SparseVector:
    return edge.SparseVector(indices=np.asarray(sparse[0]).tolist(), values=np.asarray(sparse[1]).tolist())


def _request(query: Query) -> edge.QueryRequest:
    dense = edge.Query.Nearest(query.dense, using=DENSE)
    lexical = edge.Query.Nearest(_sparse(query.sparse), using=SPARSE)
    params: edge.SearchParams | None = None
    if query.exact:
        params = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
    elif query.oversampling:
        rescore = edge.QuantizationSearchParams(rescore=True, oversampling=query.oversampling)
        params = edge.SearchParams(quantization=rescore)
    must: list[Any] = [_condition(condition) for condition in query.where]
    if query.ids is not None:
        must.append(edge.HasIdCondition(set(query.ids)))
    only = edge.Filter(must=must) if must else None
    request: OpenJson
    if query.arm == "dense":
        request = {"query": dense, "params": params}
    elif query.arm == "sparse":
        request = {"query": lexical}
    else:
        fusion = query.fusion
        if fusion is None:
            raise ValueError("the fused arm needs a fusion")
        # each arm scores the candidates of both (fusion.py)
        candidates = [edge.Prefetch(fusion.prefetch_limit, arm, None, params, only) for arm in (dense, lexical)]
        prefetches = [
            edge.Prefetch(2 * fusion.prefetch_limit, arm, candidates, params, only) for arm in (dense, lexical)
        ]
        if fusion.fusion == "weighted_sum":
            formula, defaults = weighted_sum(fusion, query.distance, _ALGEBRA)
            request = {"prefetches": prefetches, "query": edge.Formula(formula, defaults)}
        else:
            how = (
                edge.Fusion.Dbsf() if fusion.fusion == "dbsf" else edge.Fusion.Rrf(k=RRF_K)
            )  # the library has no default
            request = {"prefetches": prefetches, "query": how}
    payload = list(query.payload) if query.payload else False
    return edge.QueryRequest(limit=query.limit, with_payload=payload, filter=only, **request)


def _condition(condition: Condition) -> edge.FieldCondition:
    if limits := range_of(condition):
        return edge.FieldCondition(condition.field, range=edge.RangeFloat(**limits))
    if isinstance(condition.value, bool):  # the library takes true for 1, which no stored bool equals
        reason = f"`{condition.field}` is true or false, which the library of the edge engine cannot compare"
        fix = "store a text or a number, or use `qdrant.engine: local` or `server`"
        refusal = violation("FT-RET-009", where="qdrant", message=reason, field="where", found=condition.value, fix=fix)
        raise Refused("searching", [refusal])
    value: Any = condition.value
    return edge.FieldCondition(condition.field, match=edge.MatchValue(value))


def _columns(records: Sequence[edge.Record]) -> Points:
    vectors: list[OpenJson] = [dict(record.vector or {}) for record in records]  # type: ignore[arg-type]
    sparse = [vector.get(SPARSE) for vector in vectors]
    return Points(
        ids=[str(record.id) for record in records],
        dense=dense_rows([vector.get(DENSE) for vector in vectors]),
        sparse=[
            (np.asarray(s.indices if s else [], np.int32), np.asarray(s.values if s else [], np.float32))
            for s in sparse
        ],
        payloads=[dict(record.payload or {}) for record in records],
    )
