"""The serving collection is whole at every moment: through releases, rollbacks, and kill -9 at any point."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.embedding import Fusion
from expectations.rules import retrieval as rules
from expectations.violations import Refused
from ft_assets.retrieval.collection import build, collection_name, inspect, passage_versions
from ft_assets.retrieval.release import retire_collections, serve
from resources.artifacts import Artifact, ArtifactStore
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Release, ReleaseBook
from tests.ft_assets.retrieval.synthetic import SERVING, contract, corpus, publish
from tests.resources.test_engines import EMBEDDED, engine

SIZE, KILLS, VERSIONS = 24, 12, 4
SERVED = contract().served(SERVING, None)
WEIGHTED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=200)


@pytest.fixture(params=EMBEDDED)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def name_of(vectors: Artifact) -> str:
    return collection_name("passages", SERVED, vectors.data_version)


def release_one(engine: QdrantEngine, vectors: Artifact, passages: Artifact, kept: list[str]) -> str:
    """Build, serve, and retire all but the last two of `kept`, as the assets do. Return the name."""
    name = name_of(vectors)
    with engine.open() as client:
        build(client, name, SERVED, vectors, passages)
        assert not violations_of(client, name, vectors, passages)
        serve(client, engine.alias, name, WEIGHTED)
    kept.append(name)
    releases = [_release(name) for name in kept]
    retire_collections(engine, ReleaseBook(current=releases[-1].version, history=releases), 2, name)
    return name


def _release(name: str) -> Release:
    return Release(version=name, released_at=0.0, artifacts={}, details={"collection": name})


def violations_of(client: VectorClient, name: str, vectors: Artifact, passages: Artifact) -> list[Any]:
    stored = inspect(client, name)
    return [
        *rules.collection_is_complete(name, vectors.summary["passages"], stored.points, stored.dense, stored.sparse),
        *rules.points_are_current(name, passage_versions(vectors, passages), client.field(name, "version")),
    ]


def version(number: int) -> dict[str, str]:
    """Return the corpus of the nth release, one of four: some passages change, and the size with them."""
    number %= VERSIONS
    return corpus(SIZE + number % 3, changed={n: f"第 {n} 段第 {number} 版" for n in range(number)})


def test_a_release_moves_the_alias_and_keeps_the_last_ones(tmp_path: Path, kind: str) -> None:
    opened, kept = engine(tmp_path, kind), list[str]()
    for number in range(4):
        release_one(opened, *publish(tmp_path, version(number)), kept)
    with opened.open() as client:
        assert client.aliases() == {"passages": kept[-1]}
        assert client.names() == sorted(kept[-2:])
        assert inspect(client, kept[-1]).contract.fusion == WEIGHTED
        serve(client, "passages", kept[-2], msgspec.structs.replace(WEIGHTED, sparse_weight=0.7))
        assert client.aliases() == {"passages": kept[-2]}
        fusion = inspect(client, kept[-2]).contract.fusion
        assert fusion is not None
        assert fusion.sparse_weight == 0.7


def test_a_missing_collection_is_refused_and_the_alias_stays(tmp_path: Path, kind: str) -> None:
    opened, kept = engine(tmp_path, kind), list[str]()
    name = release_one(opened, *publish(tmp_path, version(0)), kept)
    with opened.open() as client:
        with pytest.raises(Refused, match="FT-COL-006"):
            serve(client, "passages", "passages__gone", WEIGHTED)
        assert client.aliases() == {"passages": name}


def test_an_interrupted_build_cannot_serve(tmp_path: Path, kind: str) -> None:
    opened, kept = engine(tmp_path, kind), list[str]()
    first = release_one(opened, *publish(tmp_path, version(0)), kept)
    second = release_one(opened, *publish(tmp_path, version(1)), kept)
    with opened.open() as client:
        client.set_metadata(first, {"whole": ""})
        with pytest.raises(Refused, match="FT-COL-001"):
            serve(client, "passages", first, WEIGHTED)
        assert client.aliases() == {"passages": second}


def test_no_foreign_and_no_serving_collection_is_retired(tmp_path: Path, kind: str) -> None:
    opened, kept = engine(tmp_path, kind), list[str]()
    first = release_one(opened, *publish(tmp_path, version(0)), kept)
    second = release_one(opened, *publish(tmp_path, version(1)), kept)
    with opened.open() as client:
        client.create("passages_of_others", SERVING, {})
        client.point("staging", first)
        client.create("passages__x__0123456789ab_01234567", SERVING, {})  # of the alias passages__x
    third = _release("passages__third")
    book = ReleaseBook(current=third.version, history=[third])
    assert retire_collections(opened, book, 1, "passages__candidate") == []
    with opened.open() as client:
        assert client.names() == sorted([
            first, second, "passages_of_others", "passages__x__0123456789ab_01234567",
        ])  # fmt: skip


def test_a_collection_that_another_run_may_be_building_is_left_for_a_day(tmp_path: Path, kind: str) -> None:
    opened, kept = engine(tmp_path, kind), list[str]()
    vectors, passages = publish(tmp_path, version(0))
    old = release_one(opened, vectors, passages, kept)
    candidate, _ = publish(tmp_path, version(1))
    built = name_of(candidate)
    with opened.open() as client:
        build(client, built, SERVED, candidate, publish(tmp_path, version(1))[1])
        client.create("passages__ffffffffffff_ffffffff", SERVING, {"whole": "", "touched": time.time()})
        client.set_metadata(old, {"whole": ""})  # one that was released, and is being built again
        client.create("passages__live", SERVING, {})
        client.point("passages", "passages__live")
    live = _release("passages__live")
    book = ReleaseBook(current=live.version, history=[_release(old), live])
    assert retire_collections(opened, book, 1, "passages__candidate") == []
    with opened.open() as client:
        for name in (old, built, "passages__ffffffffffff_ffffffff"):
            client.set_metadata(name, {"touched": time.time() - 25 * 3600})
    assert len(retire_collections(opened, book, 1, "passages__candidate")) == 3


WORKER = """
import sys
from pathlib import Path
from tests.ft_assets.retrieval.synthetic import publish
from tests.ft_assets.retrieval.test_release import release_one, version
from tests.resources.test_engines import engine
root, kind, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("started", flush=True)
kept = []
for number in range(first, last):
    release_one(engine(root, kind, lock_timeout=30.0), *publish(root, version(number)), kept)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_point_the_alias_serves_a_whole_collection_and_a_rerun_converges(
    tmp_path: Path, kind: str, project: Path
) -> None:
    random_delays = random.Random(kind)  # noqa: S311
    opened = engine(tmp_path, kind, lock_timeout=30.0)
    for number in range(VERSIONS):
        publish(tmp_path, version(number))

    def worker(first: int, last: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), kind, str(first), str(last)]
        started = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None
        assert started.stdout.readline() == "started\n"
        return started

    begun = time.monotonic()
    assert worker(0, 3).communicate()[0].split() == ["0", "1", "2"]
    usual = (time.monotonic() - begun) / 3  # seconds for a release on this machine
    released = 3
    for _ in range(KILLS):
        with worker(released, released + 100) as killed:
            time.sleep(random_delays.uniform(0.0, 1.5 * usual))
            killed.send_signal(signal.SIGKILL)
            printed = killed.communicate()[0].split()
        assert killed.returncode == -signal.SIGKILL, "it ran until it was killed"
        released += len(printed)
        serves_a_whole_one(opened, tmp_path)
    assert worker(released, released + 1).communicate()[0].split() == [str(released)]
    vectors, passages = publish(tmp_path, version(released))
    with opened.open() as client:
        assert client.aliases() == {"passages": name_of(vectors)}
        assert not violations_of(client, name_of(vectors), vectors, passages)
    assert released > 3, "no release was completed between two kills"


def serves_a_whole_one(opened: QdrantEngine, root: Path) -> None:
    with opened.open() as client:
        name = client.aliases()["passages"]
        made_of = client.metadata(name)["whole"]
        store = ArtifactStore(root / "artifacts")
        vectors = next(artifact for artifact in store.versions("passage_vectors") if artifact.data_version == made_of)
        assert not violations_of(client, name, vectors, store.require("passages"))
        assert inspect(client, name).contract.fusion == WEIGHTED
