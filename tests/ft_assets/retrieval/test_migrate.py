"""Moving to another engine: everything arrives, both answer alike, and what differs is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused
from ft_assets.cli import cli
from ft_assets.retrieval.collection import build, collection_name, inspect
from ft_assets.retrieval.migrate import migrate
from ft_assets.retrieval.release import serve
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from tests.ft_assets.retrieval.synthetic import SERVING, contract, corpus, publish
from tests.resources.test_engines import engine

pytestmark = pytest.mark.slow

SERVED = contract().served(SERVING, None)
WEIGHTED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=200)
WAYS = [("local", "edge"), ("edge", "local")]


@pytest.fixture(params=WAYS, ids=[" to ".join(way) for way in WAYS])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[QdrantEngine, QdrantEngine]:
    return engine(tmp_path / "q", request.param[0]), engine(tmp_path / "q", request.param[1])


def release(opened: QdrantEngine, root: Path, texts: dict[str, str], fusion: Fusion = WEIGHTED) -> str:
    vectors, passages = publish(root, texts)
    name = collection_name("passages", SERVED, vectors.data_version)
    with opened.open() as client:
        build(client, name, SERVED, vectors, passages)
        serve(client, "passages", name, fusion)
    return name


def test_all_released_collections_are_copied_and_give_equal_answers(
    way: tuple[QdrantEngine, QdrantEngine], tmp_path: Path
) -> None:
    source, target = way
    first = release(source, tmp_path, corpus(30))
    second = release(
        source, tmp_path, corpus(30, changed={3: "改了"}), msgspec.structs.replace(WEIGHTED, sparse_weight=2)
    )
    done = migrate(source, target, [second, first, "passages__retired"])
    assert done.alias == second
    assert [(one.name, one.points, one.upserted) for one in done.moved] == [(second, 30, 30), (first, 30, 30)]
    for one in done.moved:
        assert one.scores > 400
        assert one.largest_difference < 1e-4
        assert one.agreement == {"dense": 1.0, "sparse": 1.0, "fused": 1.0}
    with source.open() as old, target.open() as new:
        assert new.names() == old.names()
        assert new.aliases() == old.aliases() == {"passages": second}
        for name in (first, second):
            assert inspect(new, name) == inspect(old, name)
            assert new.metadata(name) == old.metadata(name)
            assert new.field(name, "content") == old.field(name, "content")
    assert [one.upserted for one in migrate(source, target, [first]).moved] == [0, 0]


def test_an_interrupted_migration_continues_with_the_missing_points(
    way: tuple[QdrantEngine, QdrantEngine], tmp_path: Path
) -> None:
    source, target = way
    name = release(source, tmp_path, corpus(30))
    migrate(source, target, [])
    with target.open() as client:
        points = next(client.scroll(name))
        client.delete(name, points.ids[:7])
    assert migrate(source, target, []).moved[0].upserted == 7


def test_changed_vectors_in_the_target_are_detected_by_their_scores(
    way: tuple[QdrantEngine, QdrantEngine], tmp_path: Path
) -> None:
    source, target = way
    name = release(source, tmp_path, corpus(30))
    migrate(source, target, [])
    with target.open() as client:
        points = next(client.scroll(name))
        points.dense[:] = np.roll(points.dense, 1, axis=0)
        client.upsert(name, points)
    with pytest.raises(Refused, match=r"FT-QDR-009|FT-QDR-010"):
        migrate(source, target, [])


def test_another_contract_in_the_target_is_refused_and_not_changed(
    way: tuple[QdrantEngine, QdrantEngine], tmp_path: Path
) -> None:
    source, target = way
    name = release(source, tmp_path, corpus(20))
    other = contract("9" * 64).served(SERVING, None)
    with target.open() as client:
        client.create(name, SERVING, {"contract": other.to_json()})
    with pytest.raises(Refused, match="FT-COL-005"):
        migrate(source, target, [])
    with target.open() as client:
        assert client.aliases() == {}
        assert client.count(name) == 0


def test_a_broken_source_is_not_copied(way: tuple[QdrantEngine, QdrantEngine], tmp_path: Path) -> None:
    source, target = way
    name = release(source, tmp_path, corpus(20))
    with source.open() as client:
        wrong = SERVED.served(msgspec.structs.replace(SERVING, dimension=8), None)
        client.set_metadata(name, {"contract": wrong.to_json()})
    with pytest.raises(Refused, match="FT-COL-003"):
        migrate(source, target, [])
    with target.open() as client:
        assert client.names() == []


def test_the_command_prints_the_new_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    engine(tmp_path, "edge")
    monkeypatch.setenv("FT_CONFIG", str(project / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FT__QDRANT__ENGINE", "local")
    run = CliRunner().invoke
    nothing = run(cli, ["migrate", "--to", "edge"])
    assert "nothing is released" in nothing.output
    local = QdrantEngine("local", tmp_path / "state/qdrant", None, "passages", None, 1.0)
    first, second = (release(local, tmp_path, corpus(20 + n)) for n in range(2))
    books = Releases(tmp_path / "state/released")
    for name in (first, second):
        books.commit("collection", books.plan_release("collection", {}, {"collection": name}))
    done = run(cli, ["migrate", "--to", "edge"])
    assert done.exit_code == 0, done.output
    assert "engine: edge" in done.output
    report = json.loads(run(cli, ["migrate", "--to", "edge", "--json"]).output)
    assert [(one["name"], one["upserted"]) for one in report["moved"]] == [(second, 0), (first, 0)]
    for wrong in (["--to", "local"], ["--to", "server"], ["--to", "edge", "--url", "http://x"]):
        assert run(cli, ["migrate", *wrong]).exit_code == 2
