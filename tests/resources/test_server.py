"""A server gets a collection in parallel and without an index, and copies one itself: what it is sent, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.retrieval.audit import audit, point_violations
from ft_assets.retrieval.collection import Built, build, collection_name
from resources.artifacts import Artifact
from resources.engines import client as engine_client
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from tests.faults.network import THRESHOLD, Server, served
from tests.ft_assets.retrieval.synthetic import DIMENSION, SERVING, contract, corpus, publish
from tests.resources.test_engines import STORAGE, points

SIZE = 600  # three batches
SERVED = contract().served(SERVING, None)


class Counting(Server):
    """Refuses the requests that a test names, or loses them."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[tuple[str, str]] = set()
        self.lost: set[tuple[str, str]] = set()

    def answer(self, method: str, parts: list[str], body: Any) -> Any:
        what = (method, "/".join(parts[2:]))
        if what in self.refused:
            raise ValueError("Snapshot recovery from remote URLs is disabled in the configuration")
        if what in self.lost:
            self.lost.discard(what)
            raise ConnectionError
        return super().answer(method, parts, body)

    def sent(self) -> list[str]:
        """Return the ids of the points that were sent, with repetition."""
        puts = [body for method, path, body in self.requests if method == "PUT" and path.endswith("/points")]
        return [point["id"] for body in puts for point in body["points"]]

    def paths(self) -> list[str]:
        return [f"{method} {path.partition('/')[2].partition('/')[2]}" for method, path, _ in self.requests]


@pytest.fixture
def server() -> Iterator[Counting]:
    with served(Counting()) as made:
        yield made


@pytest.fixture
def client(server: Counting, tmp_path: Path) -> Iterator[VectorClient]:
    with QdrantEngine("server", tmp_path, server.url, "passages", None, 1.0).open() as opened:
        yield opened


def name_of(vectors: Artifact) -> str:
    return collection_name("passages", SERVED, vectors.data_version)


def test_a_bulk_load_has_no_index_until_the_last_point_is_written(
    tmp_path: Path, server: Counting, client: VectorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.01)
    vectors, passages = publish(tmp_path, corpus(SIZE))
    server.statuses = ["grey", "yellow", "yellow", "green"]
    assert build(client, name_of(vectors), SERVED, vectors, passages) == Built(name_of(vectors), SIZE, SIZE, 0, 0)
    assert len(server.sent()) == len(set(server.sent())) == SIZE
    changes = [
        (number, body["optimizers_config"]["indexing_threshold"])
        for number, (method, _, body) in enumerate(server.requests)
        if method == "PATCH" and body.get("optimizers_config")
    ]
    points = [number for number, path in enumerate(server.paths()) if path == "PUT points"]
    (off, zero), (on, threshold) = changes
    assert off < min(points) and max(points) < on and (zero, threshold) == (0, THRESHOLD)
    assert not server.statuses, "it waits until the collection is green"
    whole = next(
        n for n, (_, _, body) in enumerate(server.requests) if ((body or {}).get("metadata") or {}).get("whole")
    )
    assert whole > on


def test_a_server_is_asked_for_shards_replicas_and_the_stored_form(server: Counting, client: VectorClient) -> None:
    client.create("plain", SERVING, {})
    stored = msgspec.structs.replace(STORAGE, shards=6, replicas=2)
    client.create("stored", msgspec.structs.replace(SERVING, storage=stored), {})
    plain, large = (body for method, _, body in server.requests if method == "PUT")
    assert plain["vectors"] == {"dense": {"size": DIMENSION, "distance": "Cosine"}} and "shard_number" not in plain
    assert (large["shard_number"], large["replication_factor"], large["on_disk_payload"]) == (6, 2, True)
    assert large["vectors"]["dense"] == {
        "size": DIMENSION,
        "distance": "Cosine",
        "on_disk": True,
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        "hnsw_config": {"m": 8, "ef_construct": 64, "on_disk": True},
    }
    assert large["sparse_vectors"]["sparse"]["index"]["on_disk"]


def test_a_server_that_builds_no_index_is_named(
    tmp_path: Path, server: Counting, client: VectorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.01)
    vectors, passages = publish(tmp_path, corpus(20))
    server.statuses = ["grey", "red", "red"]
    with pytest.raises(Refused, match="FT-QDR-013"):
        build(client, name_of(vectors), SERVED, vectors, passages)
    monkeypatch.setattr(engine_client, "_IDLE_SECONDS", 0.02)
    server.statuses = ["grey"] * 100
    with pytest.raises(Refused, match="FT-QDR-013"):
        build(client, name_of(vectors), SERVED, vectors, passages)
    server.statuses = []
    assert build(client, name_of(vectors), SERVED, vectors, passages).points == 20


def test_a_changed_document_is_all_that_a_server_is_sent(
    tmp_path: Path, server: Counting, client: VectorClient
) -> None:
    before, passages = publish(tmp_path, corpus(SIZE))
    build(client, name_of(before), SERVED, before, passages)
    server.requests.clear()
    texts = corpus(SIZE, changed={5: "第五段换了", SIZE: "新的一段"})
    del texts["文档20#80"]
    after, passages = publish(tmp_path, texts)
    built = build(client, name_of(after), SERVED, after, passages)
    assert built == Built(name_of(after), SIZE, 2, SIZE - 2, 1)
    assert len(server.sent()) == 2
    scrolls = [body for _, path, body in server.requests if path.endswith("scroll")]
    assert not any(body.get("with_vector") for body in scrolls), "no vector is read"
    assert server.snapshots == {}, "the snapshot is deleted"
    for made, texts_of in ((after, passages), (before, publish(tmp_path, corpus(SIZE))[1])):
        audited = audit(client, name_of(made), made, texts_of, SERVED)
        assert point_violations(name_of(made), audited) == []


@pytest.mark.parametrize("why", ["refused snapshot", "refused restore", "two nodes"])
def test_where_a_server_cannot_copy_every_point_is_sent_and_nothing_is_left(
    tmp_path: Path, server: Counting, client: VectorClient, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, passages = publish(tmp_path, corpus(40))
    build(client, name_of(before), SERVED, before, passages)
    if why == "two nodes":
        server.peers = 2
    else:
        server.refused = {("POST", "snapshots")} if "snapshot" in why else {("PUT", "snapshots/recover")}
    after, changed = publish(tmp_path, corpus(40, changed={1: "改了"}))
    assert build(client, name_of(after), SERVED, after, changed) == Built(name_of(after), 40, 40, 0, 0)
    assert server.snapshots == {}
    assert ("every point is sent" in caplog.text) is (why != "two nodes")


def lose_a_copy(tmp_path: Path, server: Counting, client: VectorClient) -> tuple[Artifact, Artifact]:
    """Build a collection, and the next one until the answer about its copy is lost. Return the next one's artifacts."""
    before, passages = publish(tmp_path, corpus(40))
    build(client, name_of(before), SERVED, before, passages)
    after, changed = publish(tmp_path, corpus(40, changed={1: "改了"}))
    server.lost = {("PUT", "snapshots/recover")}
    with (
        pytest.raises(Refused, match="FT-QDR-003"),
        QdrantEngine("server", tmp_path, server.url, "passages", None, 1.0).open() as other,
    ):
        build(other, name_of(after), SERVED, after, changed)
    return after, changed


def test_a_copy_that_was_interrupted_is_awaited_before_a_point_is_written(
    tmp_path: Path, server: Counting, client: VectorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_GRACE_SECONDS", 3.0)
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.05)
    after, changed = lose_a_copy(tmp_path, server, client)
    (snapshot,) = server.snapshots
    server.requests.clear()

    def restore() -> None:  # as the server does although nobody waits for it
        with server.lock:
            server.answer("PUT", ["collections", name_of(after), "snapshots", "recover"], {"location": snapshot})

    late = threading.Timer(0.3, restore)
    late.start()
    built = build(client, name_of(after), SERVED, after, changed)
    late.join()
    assert built == Built(name_of(after), 40, 1, 39, 0)
    assert server.snapshots == {} and len(server.sent()) == 1


def test_a_copy_that_never_began_is_given_up(
    tmp_path: Path, server: Counting, client: VectorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.05)
    after, changed = lose_a_copy(tmp_path, server, client)
    assert build(client, name_of(after), SERVED, after, changed) == Built(name_of(after), 40, 40, 0, 0)
    assert server.snapshots == {}


def test_uploads_run_at_the_same_time(tmp_path: Path, server: Counting, client: VectorClient) -> None:
    name, together = "ft_test_uploads", threading.Barrier(3, timeout=20)
    client.create(name, SERVING, {})
    upsert = client.upsert

    def meeting(where: str, batch: Any) -> None:
        together.wait()  # three uploads have begun
        upsert(where, batch)

    client.upsert = meeting  # type: ignore[method-assign]
    batches = [points(start, start + 10) for start in range(0, 30, 10)]
    assert list(client.upload(name, batches)) == [10, 10, 10]
    assert client.count(name) == 30
