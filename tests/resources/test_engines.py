"""All installed engines behave alike: the same answers, the same refusals, no lost points.

`server` is tested where QDRANT_URL names one (its key in QDRANT_API_KEY); its collections are named `ft_test_…`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from expectations.contracts.embedding import Fusion, Serving, Storage
from expectations.violations import Refused
from resources.engines.protocol import Arm, Condition, Points, Query, Scored, VectorClient
from resources.qdrant import QdrantEngine, aliased

DIMENSION, VOCABULARY = 16, 400
SERVING = Serving(dimension=DIMENSION, distance="cosine")
WEIGHTED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)
EMBEDDED = ["local", "edge"]
ENGINES = [
    "local",
    "edge",
    pytest.param("server", marks=pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL is not set")),
]


def engine(path: Path, kind: str = "local", **changes: Any) -> QdrantEngine:
    if kind == "edge":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    url = os.environ["QDRANT_URL"] if kind == "server" else None
    key = os.environ.get("QDRANT_API_KEY") if kind == "server" else None
    return replace(QdrantEngine(kind, path, url, "passages", key, 0.3), **changes)


def key(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def points(first: int, last: int, seed: int = 0) -> Points:
    """Return points that are the same on every call; each has its own generator."""
    dense: list[np.ndarray] = []
    sparse: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(first, last):
        dice = np.random.default_rng([seed, number])
        dense.append(dice.normal(size=DIMENSION))
        ids = np.sort(dice.choice(VOCABULARY, 12, replace=False)).astype(np.int32)
        sparse.append((ids, dice.uniform(0.1, 2.0, 12).astype(np.float32)))
    rows = np.asarray(dense, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    payloads = [{"passage_id": f"段落{n}", "version": f"{seed}"} for n in range(first, last)]
    return Points([key(n) for n in range(first, last)], rows, sparse, payloads)


def queries_of(arm: Arm, limit: int = 10, fusion: Fusion = WEIGHTED, distance: str = "cosine") -> list[Query]:
    made = points(0, 8, seed=7)
    return [
        Query(dense, sparse, arm, limit, ("passage_id",), None, fusion, distance)
        for dense, sparse in zip(made.dense.tolist(), made.sparse, strict=True)
    ]


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def name() -> str:
    return f"ft_test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client(kind: str, tmp_path: Path, name: str) -> Iterator[VectorClient]:
    with engine(tmp_path, kind).open() as opened:
        yield opened
        if kind == "server":
            for left in opened.names():
                if left.startswith(name):
                    opened.client.delete_collection(left)  # type: ignore[attr-defined]


@pytest.fixture
def filled(client: VectorClient, name: str) -> str:
    client.create(name, SERVING, {"contract": {"a": 1}})
    client.upsert(name, points(0, 60))
    client.index(name)
    return name


def exact(arm: Arm, query: Query, stored: Points, distance: str = "cosine") -> list[tuple[str, float]]:
    """Return the ranking by definition, in numpy. The prefetch reaches every point here, so no arm misses one."""
    dense = stored.dense @ np.asarray(query.dense, np.float32)
    mine = dict(zip(*(np.asarray(part).tolist() for part in query.sparse), strict=True))
    lexical = np.asarray(
        [
            sum(mine.get(i, 0.0) * v for i, v in zip(ids.tolist(), values.tolist(), strict=True))
            for ids, values in stored.sparse
        ]
    )
    assert query.fusion is not None
    fused = query.fusion.dense_weight * dense + query.fusion.sparse_weight * lexical
    scores = {"dense": dense, "sparse": lexical, "fused": fused}[arm]
    if arm == "dense" and distance == "euclid":
        scores = -np.linalg.norm(stored.dense - np.asarray(query.dense), axis=1)
    order = [n for n in np.argsort(-scores, kind="stable") if arm != "sparse" or scores[n] > 0]
    return [(stored.ids[n], abs(float(scores[n]))) for n in order[: query.limit]]


def same(found: list[Scored], wanted: list[tuple[str, float]]) -> None:
    assert [point.score for point in found] == pytest.approx([score for _, score in wanted], abs=2e-5)
    assert [point.id for point in found] == [point for point, _ in wanted]


@pytest.mark.parametrize("arm", ["dense", "sparse", "fused"])
@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_every_arm_ranks_by_its_definition_for_every_distance(
    client: VectorClient, name: str, arm: Arm, distance: Any
) -> None:
    client.create(name, Serving(dimension=DIMENSION, distance=distance), {})
    client.upsert(name, points(0, 40))
    client.index(name)
    for query, found in zip(
        queries_of(arm, distance=distance), client.query(name, queries_of(arm, distance=distance)), strict=True
    ):
        same(found, exact(arm, query, points(0, 40), distance))


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.3, 1.0), (2.0, 0.7)])
def test_the_weighted_sum_follows_its_weights(client: VectorClient, name: str, weights: tuple[float, float]) -> None:
    fusion = Fusion(fusion="weighted_sum", dense_weight=weights[0], sparse_weight=weights[1], prefetch_limit=100)
    client.create(name, SERVING, {})
    client.upsert(name, points(0, 40))
    for query, found in zip(
        queries_of("fused", 5, fusion), client.query(name, queries_of("fused", 5, fusion)), strict=True
    ):
        same(found, exact("fused", query, points(0, 40)))


@pytest.mark.parametrize("fusion", ["weighted_sum", "dbsf", "rrf"])
def test_every_fusion_ranks_as_on_the_local_engine(
    client: VectorClient, filled: str, tmp_path: Path, fusion: Any
) -> None:
    # fewer than the points: a point that an arm did not fetch counts 0 in both
    how = Fusion(fusion=fusion, dense_weight=1.0, sparse_weight=0.3, prefetch_limit=20)
    here = client.query(filled, queries_of("fused", 10, how))
    with engine(tmp_path / "other").open() as local:
        local.create("c", SERVING, {})
        local.upsert("c", points(0, 60))
        there = local.query("c", queries_of("fused", 10, how))
    for mine, theirs in zip(here, there, strict=True):
        # equal scores, of which rrf makes many, may be in any order
        assert [p.score for p in mine] == pytest.approx([p.score for p in theirs], abs=1e-4)
        least = mine[-1].score + 1e-6
        assert {p.id for p in mine if p.score > least} == {p.id for p in theirs if p.score > least}


def test_answers_have_the_requested_payload_and_only_the_requested_points(client: VectorClient, filled: str) -> None:
    query = replace(queries_of("dense")[0], ids=(key(3), key(5)))
    (found,) = client.query(filled, [query])
    assert {point.id for point in found} == {key(3), key(5)}
    assert {point.payload["passage_id"] for point in found} == {"段落3", "段落5"}
    assert not client.query(filled, [replace(query, payload=())])[0][0].payload


@pytest.mark.parametrize("arm", ["dense", "sparse", "fused"])
def test_an_exact_query_has_the_same_answers(client: VectorClient, filled: str, arm: Arm) -> None:
    exactly = [replace(query, exact=True) for query in queries_of(arm)]
    for query, found in zip(exactly, client.query(filled, exactly), strict=True):
        same(found, exact(arm, query, points(0, 60)))


def test_more_queries_than_fit_in_a_request_are_answered_in_order(client: VectorClient, filled: str) -> None:
    queries = queries_of("fused", 3) * 20
    answers = client.query(filled, queries)
    assert len(answers) == 160
    assert [[p.id for p in found] for found in answers] == [[p.id for p in found] for found in answers[:8]] * 20


def test_points_are_read_as_they_were_written(client: VectorClient, filled: str) -> None:
    wanted = points(0, 60)
    found = list(client.scroll(filled, batch=64))
    assert sorted(chain.from_iterable(block.ids for block in found)) == sorted(wanted.ids)
    place = {point: n for n, point in enumerate(wanted.ids)}
    for block in found:
        for point, dense, (ids, values), payload in zip(
            block.ids, block.dense, block.sparse, block.payloads, strict=True
        ):
            n = place[point]
            np.testing.assert_allclose(dense, wanted.dense[n], atol=1e-6)
            np.testing.assert_array_equal(np.sort(ids), wanted.sparse[n][0])
            np.testing.assert_allclose(values[np.argsort(ids)], wanted.sparse[n][1], atol=1e-6)
            assert payload == wanted.payloads[n]
    assert client.retrieve(filled, [key(2), key(100_000)]).ids == [key(2)]
    assert client.field(filled, "passage_id") == {key(n): f"段落{n}" for n in range(60)}


def test_a_second_write_of_the_same_points_changes_nothing_and_deleted_points_are_gone(
    client: VectorClient, filled: str
) -> None:
    client.upsert(filled, points(0, 20, seed=1))
    assert client.count(filled) == 60
    assert client.field(filled, "version")[key(19)] == "1"
    client.delete(filled, [key(1), key(2), key(100_000)])
    client.delete(filled, [])
    assert client.count(filled) == client.count(filled, "dense") == client.count(filled, "sparse") == 58


def test_an_empty_lexical_vector_counts_as_a_vector_and_an_empty_query_finds_nothing(
    client: VectorClient, filled: str
) -> None:
    empty = (np.empty(0, np.int32), np.empty(0, np.float32))
    client.upsert(filled, replace(points(0, 1), sparse=[empty]))
    assert client.count(filled, "sparse") == 60
    assert client.query(filled, [replace(queries_of("sparse")[0], sparse=empty)]) == [[]]
    (fused,) = client.query(filled, [replace(queries_of("fused")[0], sparse=empty)])
    (dense,) = client.query(filled, [queries_of("dense")[0]])
    assert [point.id for point in fused] == [point.id for point in dense]


@pytest.mark.parametrize("fault", ["nan", "inf", "dimension", "twice", "sparse_inf"])
def test_all_engines_refuse_invalid_vectors(client: VectorClient, filled: str, fault: str) -> None:
    good = points(0, 3, seed=3)
    dense, sparse = good.dense.copy(), list(good.sparse)
    if fault in ("nan", "inf"):
        dense[1, 4] = float(fault)
    elif fault == "dimension":
        dense = dense[:, :-1]
    elif fault == "twice":
        sparse[1] = (np.asarray([4, 4], np.int32), np.ones(2, np.float32))
    else:
        sparse[1] = (sparse[1][0], np.full(12, np.inf, np.float32))
    with pytest.raises(Refused, match="FT-QDR-006"):
        client.upsert(filled, replace(good, dense=dense, sparse=sparse))
    assert set(client.field(filled, "version").values()) == {"0"}


def test_configuration_and_metadata_are_read_back_and_one_key_changes_alone(client: VectorClient, filled: str) -> None:
    assert client.serving(filled) == SERVING
    client.set_metadata(filled, {"whole": "abc"})
    client.set_metadata(filled, {"contract": {"b": [2, None, "语"]}})
    assert client.metadata(filled) == {"contract": {"b": [2, None, "语"]}, "whole": "abc"}


def test_an_alias_moves_in_one_step_and_its_collection_cannot_be_deleted(client: VectorClient, filled: str) -> None:
    other, alias = f"{filled}_b", f"{filled}_alias"
    client.create(other, SERVING, {})
    assert aliased(client, alias) is None
    client.point(alias, filled)
    assert aliased(client, alias) == filled
    with pytest.raises(Refused, match="FT-QDR-005"):
        client.drop(filled)
    client.point(alias, other)
    client.point(alias, other)
    assert aliased(client, alias) == other
    assert aliased(client, other) is None
    client.drop(filled)
    assert filled not in client.names()
    with pytest.raises(Exception, match=r"[Cc]ollection|FT-COL-006"):
        client.point(alias, "ft_test_no_such")
    assert aliased(client, alias) == other


def test_a_copy_is_independent_of_its_source(client: VectorClient, filled: str, kind: str) -> None:
    copy = f"{filled}_copy"
    assert client.copy(filled, copy, SERVING, {"contract": {"c": 3}}) is (kind != "server")
    if kind == "server":
        return
    client.delete(copy, [key(n) for n in range(5)])
    client.upsert(copy, points(200, 203))
    client.index(copy)
    assert (client.count(copy), client.count(filled)) == (58, 60)
    assert client.metadata(copy) == {"contract": {"c": 3}}
    assert client.metadata(filled) == {"contract": {"a": 1}}
    stored = points(5, 60)
    more = points(200, 203)
    both = Points(stored.ids + more.ids, np.concatenate([stored.dense, more.dense]), stored.sparse + more.sparse, [])
    (found,) = client.query(copy, queries_of("dense")[:1])
    same(found, exact("dense", queries_of("dense")[0], both))


@pytest.mark.parametrize("kind", EMBEDDED)
def test_points_and_metadata_survive_closing(tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, kind).open() as client:
        client.create("c", SERVING, {"m": 1})
        client.upsert("c", points(0, 30))
        client.copy("c", "d", SERVING, {})
        client.point("passages", "c")
    with engine(tmp_path, kind).open() as client:
        assert client.names() == ["c", "d"]
        assert client.aliases() == {"passages": "c"}
        assert client.count("c") == client.count("d", "sparse") == 30
        assert client.metadata("c") == {"m": 1}
        client.drop("d")
    with engine(tmp_path, kind).open() as client:
        assert client.names() == ["c"]


STORAGE = Storage(quantization="int8", oversampling=2.0, on_disk=True, hnsw_m=8, hnsw_ef_construct=64)


def test_edge_stores_as_it_is_asked_to_and_the_exact_vectors_rank(tmp_path: Path) -> None:
    edge = engine(tmp_path, "edge")
    with edge.open() as client:
        client.create("c", msgspec.structs.replace(SERVING, storage=STORAGE), {})
        client.upsert("c", points(0, 2000))
        client.index("c")
        assert client.serving("c") == SERVING
    with edge.open() as client:
        queries = queries_of("fused")
        found = client.query("c", [replace(query, oversampling=STORAGE.oversampling) for query in queries])
        assert found == client.query("c", [replace(query, exact=True) for query in queries])
    dense = json.loads((edge.folder / "shards/c/edge_config.json").read_text())["vectors"]["dense"]
    assert dense["quantization_config"]["scalar"]["type"] == "int8" and dense["on_disk"]
    assert (dense["hnsw_config"]["m"], dense["hnsw_config"]["ef_construct"]) == (8, 64)


@pytest.mark.parametrize("kind", EMBEDDED)
def test_files_of_an_interrupted_creation_are_not_a_collection(tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, kind).open() as client:
        client.create("a", SERVING, {})
        client.upsert("a", points(0, 30))
    folder = engine(tmp_path, kind).folder
    left = folder / ("collection" if kind == "local" else "shards") / "b"
    subprocess.run(["cp", "-r", str(left.with_name("a")), str(left)], check=True)
    with engine(tmp_path, kind).open() as client:
        assert client.names() == ["a"]
        client.create("b", SERVING, {})
        assert client.count("b") == 0


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_second_opening_waits_names_the_holder_and_then_gives_up(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine(tmp_path, kind).open():
        started = time.monotonic()
        with caplog.at_level(logging.WARNING), pytest.raises(Refused, match="FT-QDR-001") as refusal:
            engine(tmp_path, kind).open().__enter__()
        assert time.monotonic() - started >= 0.3
    assert "qdrant.lock_timeout" in refusal.value.violations[0].fix
    assert f"process {os.getpid()}" in refusal.value.violations[0].message
    assert f"process {os.getpid()}" in caplog.text


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_second_opening_continues_as_soon_as_the_first_is_closed(tmp_path: Path, kind: str) -> None:
    first = engine(tmp_path, kind).open()
    first.__enter__()
    threading.Timer(0.3, lambda: first.__exit__(None, None, None)).start()
    with engine(tmp_path, kind, lock_timeout=10.0).open() as client:
        assert client.names() == []


@pytest.mark.parametrize("kind", EMBEDDED)
def test_the_lock_is_free_again_after_an_error_inside(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ZeroDivisionError), engine(tmp_path, kind).open():
        _ = 1 / 0
    with engine(tmp_path, kind).open() as client:
        assert client.names() == []


def test_opening_also_waits_for_another_program_in_the_folder(tmp_path: Path) -> None:
    from qdrant_client import QdrantClient

    foreign = QdrantClient(path=str(tmp_path))
    with engine(tmp_path).open() as client, pytest.raises(Refused, match="FT-QDR-001"):
        client.create("c", SERVING, {})
    threading.Timer(0.3, foreign.close).start()
    with engine(tmp_path, lock_timeout=10.0).open() as client:
        client.create("c", SERVING, {})
        assert client.names() == ["c"]


def test_the_local_engine_reads_names_and_counts_without_reading_points(tmp_path: Path) -> None:
    with engine(tmp_path).open() as client:
        client.create("c", SERVING, {"m": 1})
        client.upsert("c", points(0, 30))
        client.delete("c", [key(0)])
        client.point("passages", "c")
    with engine(tmp_path).open() as client:
        assert (client.names(), client.aliases()) == (["c"], {"passages": "c"})
        assert (client.serving("c"), client.metadata("c"), client.count("c")) == (SERVING, {"m": 1}, 29)
        assert "client" not in vars(client)
        assert client.count("c", "dense") == 29


@pytest.mark.parametrize("kind", EMBEDDED)
def test_writers_that_open_in_turn_lose_no_point(tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, kind).open() as client:
        client.create("c", SERVING, {})

    def write(number: int) -> None:
        for n in range(10):
            with engine(tmp_path, kind, lock_timeout=60.0).open() as client:
                client.upsert("c", points(number * 10 + n, number * 10 + n + 1))
                client.set_metadata("c", {f"{number}": n})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine(tmp_path, kind).open() as client:
        assert client.count("c") == 30
        assert client.metadata("c") == {"0": 9, "1": 9, "2": 9}


WRITER = """
import sys
from pathlib import Path
from tests.resources.test_engines import SERVING, engine, points
path, kind, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(5):
    with engine(path, kind, lock_timeout=60.0).open() as client:
        client.create(f"c{number}_{n}", SERVING, {})
        client.upsert(f"c{number}_{n}", points(0, 3))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", EMBEDDED)
def test_processes_that_open_in_turn_lose_no_collection(tmp_path: Path, kind: str, project: Path) -> None:
    # qdrant-client alone loses some: it reads the folder before it takes its lock
    engine(tmp_path, kind)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), kind, str(number)], cwd=project)
        for number in range(4)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    with engine(tmp_path, kind).open() as client:
        assert client.names() == [f"c{number}_{n}" for number, n in product(range(4), range(5))]
        assert {client.count(name) for name in client.names()} == {3}


@pytest.mark.parametrize("url", ["http://qdrant.example.com:6333", "http://10.0.0.7:6333"])
def test_an_api_key_over_plain_http_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(Refused, match="FT-QDR-002"):
        QdrantEngine("server", tmp_path, url, "passages", "secret", 0.3).open().__enter__()


def test_a_key_to_the_loopback_is_allowed_and_a_silent_server_is_named(tmp_path: Path) -> None:
    silent = QdrantEngine("server", tmp_path, "http://127.0.0.1:9", "passages", "secret", 0.3)
    with pytest.raises(Refused, match=r"FT-QDR-003.*127\.0\.0\.1:9") as refusal:
        silent.open().__enter__()
    assert "secret" not in str(refusal.value)
    assert (silent.address, engine(tmp_path).address) == ("http://127.0.0.1:9", "local")


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resources.engines.edge", None)
    with pytest.raises(Refused, match="FT-QDR-008") as refusal:
        QdrantEngine("edge", tmp_path, None, "passages", None, 0.3).open().__enter__()
    assert "ft-assets[platform]" in refusal.value.violations[0].fix


def test_a_collection_whose_folder_was_deleted_is_gone_and_can_be_created_again(tmp_path: Path) -> None:
    with engine(tmp_path, "edge").open() as client:
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 3))
        client.point("passages", "c")
    shutil.rmtree(engine(tmp_path, "edge").folder / "shards/c")
    with engine(tmp_path, "edge").open() as client:
        assert (client.names(), client.aliases()) == ([], {"passages": "c"})
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 5))
    with engine(tmp_path, "edge").open() as client:
        assert client.count("c") == 5


def test_a_shard_that_differs_from_its_entry_is_refused_by_name(tmp_path: Path) -> None:
    with engine(tmp_path, "edge").open() as client:
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 3))
    meta = engine(tmp_path, "edge").folder / "meta.json"
    content = json.loads(meta.read_text("utf-8"))
    content["collections"]["c"]["serving"]["dimension"] = 8
    meta.write_text(json.dumps(content), "utf-8")
    with pytest.raises(Refused, match=r"FT-QDR-012.*meta\.json.*its digest is"), engine(tmp_path, "edge").open():
        pass
    del content["digest"]  # as an earlier product version wrote it
    meta.write_text(json.dumps(content), "utf-8")
    with engine(tmp_path, "edge").open() as client, pytest.raises(Refused, match="FT-QDR-007"):
        assert not list(meta.parent.rglob("*.seal.json"))  # it changed shards and left their seals
        client.count("c")


@pytest.mark.parametrize(("kind", "code"), [("local", "FT-QDR-011"), ("edge", "FT-QDR-012")])
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"null",
        b'{"collections": [], "aliases": {}}',
        b'{"collections": {}, "aliases": \xff}',
        b"[" * 100_000,
    ],
    ids=["cut", "list", "null", "shape", "bytes", "deep"],
)
def test_metadata_of_the_wrong_shape_is_refused_with_its_place(
    tmp_path: Path, kind: str, code: str, content: bytes
) -> None:
    meta = engine(tmp_path, kind).folder / "meta.json"
    meta.parent.mkdir(exist_ok=True)
    meta.write_bytes(content)
    with pytest.raises(Refused, match=code) as refusal, engine(tmp_path, kind).open() as client:
        client.aliases()
    assert str(meta.parent) in refusal.value.violations[0].where


def test_local_metadata_without_its_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}")
    for read in (lambda client: client.names(), lambda client: client.metadata("c"), lambda client: client.scroll("c")):
        with pytest.raises(Refused, match="FT-QDR-011"), engine(tmp_path, "local").open() as client:
            list(read(client))


@pytest.mark.parametrize(
    "read",
    [
        lambda client: client.query("c", queries_of("dense")),
        lambda client: client.retrieve("c", [key(1)]),
        lambda client: list(client.scroll("c")),
    ],
    ids=["query", "retrieve", "scroll"],
)
def test_a_file_of_a_shard_that_is_lost_after_it_was_opened_is_named_with_its_folder(
    tmp_path: Path, read: Callable[[VectorClient], object]
) -> None:
    place = engine(tmp_path, "edge").folder / "shards/c"
    with engine(tmp_path, "edge").open() as client:
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 60))
    (place.parent / ".c.seal.json").unlink()  # as a search does that is then killed
    next(place.rglob("chunk_0.mmap")).unlink()
    with engine(tmp_path, "edge").open() as client, pytest.raises(Refused, match="FT-QDR-007") as refusal:
        read(client)
    assert refusal.value.violations[0].fix == f"delete the folder {place}, then ft run --asset qdrant_collection"


def test_a_panic_of_the_library_is_named_too_and_a_wrong_query_is_not_damage(tmp_path: Path) -> None:
    place = engine(tmp_path, "edge").folder / "shards/c"
    with engine(tmp_path, "edge").open() as client:
        client.create("c", SERVING, {})
        client.upsert("c", points(0, 60))
        (query,) = queries_of("dense")[:1]
        with pytest.raises(Exception, match="Vector dimension error") as error:
            client.query("c", [replace(query, dense=[1.0] * 3)])
        assert not isinstance(error.value, Refused)
    (place.parent / ".c.seal.json").unlink()
    for status in place.rglob("status.dat"):
        status.write_bytes(b"")
    with engine(tmp_path, "edge").open() as client, pytest.raises(Refused, match="FT-QDR-007"):
        client.count("c")


def labelled(first: int, last: int) -> Points:
    """Return `points` with fields that conditions can name; every tenth point has none."""
    made = points(first, last)
    for n, payload in enumerate(made.payloads, first):
        fields = {
            "tenant": f"t{n % 5}",
            "year": 2000 + n,
            "share": n / 10,
            "open": n % 2 == 0,
            "tags": ["all", f"g{n % 3}"],
        }
        payload.update(fields if n % 10 else dict.fromkeys(fields))
    return made


CONDITIONS: list[tuple[Condition, Callable[[int], bool]]] = [
    (Condition("tenant", "=", "t3"), lambda n: n % 5 == 3),
    (Condition("tags", "=", "g1"), lambda n: n % 3 == 1),
    (Condition("open", "=", value=True), lambda n: n % 2 == 0),
    (Condition("year", "=", 2012), lambda n: n == 12),
    (Condition("year", ">=", 2050.0), lambda n: n >= 50),
    (Condition("year", "<", 2003.0), lambda n: n < 3),
    (Condition("share", ">", 5.5), lambda n: n > 55),
    (Condition("share", "<=", 0.5), lambda n: n <= 5),
    (Condition("share", "=", 1.1), lambda n: n == 11),
    (Condition("tenant", "=", "none"), lambda _: False),
]


@pytest.mark.parametrize("arm", ["dense", "sparse", "fused"])
def test_a_condition_limits_each_arm_before_the_fusion(client: VectorClient, kind: str, name: str, arm: Arm) -> None:
    client.create(name, SERVING, {})
    client.index_payload(name, {"tenant": "text", "year": "whole", "share": "number", "open": "bool", "tags": "texts"})
    client.index_payload(name, {"tenant": "text"})
    client.upsert(name, labelled(0, 60))
    client.index(name)
    small = msgspec.structs.replace(WEIGHTED, prefetch_limit=6)
    (query,) = queries_of(arm, limit=60, fusion=small)[:1]
    for condition, meets in CONDITIONS:
        if isinstance(condition.value, bool) and kind == "edge":
            with pytest.raises(Refused, match="FT-RET-009"):
                client.query(name, [replace(query, where=(condition,))])
            continue
        wanted = {key(n) for n in range(60) if n % 10 and meets(n)}
        (found,) = client.query(name, [replace(query, where=(condition,))])
        ids = {point.id for point in found}
        assert ids <= wanted, condition
        if arm == "dense":
            assert ids == wanted, condition
        elif arm == "fused":  # without the condition in the prefetch, few or none of its six points would meet it
            assert len(ids) >= min(6, len(wanted)), condition
    (both,) = client.query(name, [replace(query, arm="dense", where=(CONDITIONS[0][0], CONDITIONS[4][0]))])
    assert {point.id for point in both} == {key(53), key(58)}


def test_a_payload_is_replaced_whole_and_the_vectors_stay(client: VectorClient, name: str) -> None:
    client.create(name, SERVING, {})
    client.upsert(name, labelled(0, 8))
    before = client.retrieve(name, [key(1)])
    client.set_payloads(name, {key(1): {"version": "new", "tenant": "other"}, key(2): {"version": "new"}})
    client.set_payloads(name, {})
    after = client.retrieve(name, [key(1)])
    assert after.payloads == [{"version": "new", "tenant": "other"}]
    assert np.array_equal(after.dense, before.dense) and np.array_equal(after.sparse[0][1], before.sparse[0][1])
    versions = client.field(name, "version")
    assert [versions[key(n)] for n in range(4)] == ["0", "new", "new", "0"]
