"""After a release, every difference between what serves and what was released is named."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest

from expectations.contracts import consumer
from expectations.lexical.bm25 import FREQUENCIES_KEY, DocumentFrequencies
from expectations.violations import Refused
from ft_assets.graph.gates import judge
from ft_assets.retrieval import release as release_module
from ft_assets.retrieval.collection import set_fusion, stored_contract
from ft_assets.retrieval.search import Retriever
from ft_assets.retrieval.served_checks import GATES, judge_served
from ft_assets.rollback import roll_back, rollback
from ft_assets.served import watch_served
from resources.engines.protocol import VectorClient
from resources.qdrant import aliased
from tests.ft_assets.retrieval.conftest import RETRIEVAL_SIDE, Graph

pytestmark = pytest.mark.slow

QUESTION = "Which federal standard number did NIST give to AES?"
RELEASE = ("retrieval_settings", "retrieval_evaluation", "released_collection")


def codes(graph: Graph) -> dict[str, set[str]]:
    """Return gate -> codes of the violations of what serves."""
    verdicts = {gate.name: judge(gate, graph.evidence) for gate in GATES}
    return {name: {one.code for one in verdict.violations} for name, verdict in verdicts.items() if verdict.violations}


def search(graph: Graph, **options: bool) -> tuple[list[str], str]:
    artifacts = graph.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), graph.qdrant.engine(), **options) as retriever:
        return [hit.passage_id for hit in retriever.search([QUESTION], 5)[0]], retriever.note


def record(graph: Graph) -> dict[str, Any]:
    return json.loads((graph.artifacts.state() / "released" / "collection.json").read_text("utf-8"))


def test_a_fresh_release_serves(released: Graph) -> None:
    assert codes(released) == {}
    assert judge_served(released.evidence, quick=True).violations == []
    assert search(released)[1] == ""


# -- one damage at a time -----------------------------------------------------------------------------------------
def delete_alias(client: VectorClient, name: str) -> None:
    """Ours has no such call."""
    del client._meta.aliases["passages"]  # type: ignore[attr-defined]
    client._save()  # type: ignore[attr-defined]


def point_elsewhere(client: VectorClient, name: str) -> None:
    other = name[:-8] + "00000000"
    client.copy(name, other, client.serving(name), client.metadata(name)) or client.create(  # type: ignore[arg-type]
        other,
        client.serving(name),  # type: ignore[arg-type]
        client.metadata(name),
    )
    client.point("passages", other)


def change_fusion(client: VectorClient, name: str) -> None:
    contract = stored_contract(client, name)
    fusion = msgspec.structs.replace(contract.fusion, dense_weight=0.0, sparse_weight=2.0)  # type: ignore[type-var]
    set_fusion(client, name, msgspec.structs.replace(contract, fusion=fusion), {})


def change_probes(client: VectorClient, name: str) -> None:
    contract = stored_contract(client, name)
    probes = [msgspec.structs.replace(probe, dense=probe.dense[::-1]) for probe in contract.probes]
    client.set_metadata(name, {"contract": msgspec.structs.replace(contract, probes=probes).to_json()})


def change_frequencies(client: VectorClient, name: str) -> None:
    client.set_metadata(name, {FREQUENCIES_KEY: DocumentFrequencies(3, {5: 2}).to_text()})


def mark_as_half_built(client: VectorClient, name: str) -> None:
    client.set_metadata(name, {"whole": ""})


def delete_points(client: VectorClient, name: str) -> None:
    client.delete(name, next(client.scroll(name)).ids[:2])


def edit_one_text(client: VectorClient, name: str) -> None:
    points = next(client.scroll(name, batch=1000))
    payloads = [dict(payload) for payload in points.payloads]
    payloads[7]["content"] += " Not."
    client.upsert(name, replace(points, payloads=payloads))


def turn_one_number(client: VectorClient, name: str) -> None:
    points = next(client.scroll(name, batch=1000))
    dense = points.dense.copy()
    dense[11, 3] = -dense[11, 3] - 0.01
    client.upsert(name, replace(points, dense=dense))


@pytest.mark.parametrize(
    ("damage", "expected", "refused"),
    [
        (delete_alias, "FT-REL-005", "FT-RET-006"),
        (point_elsewhere, "FT-REL-005", "FT-REL-005"),
        (change_fusion, "FT-REL-006", "FT-REL-006"),
        (change_probes, "FT-COL-002", "BROKEN"),
        (change_frequencies, "FT-LEX-003", "FT-LEX-003"),
        (mark_as_half_built, "FT-COL-001", ""),
        (delete_points, "FT-COL-001", ""),
        (edit_one_text, "FT-COL-007", ""),
        (turn_one_number, "FT-COL-004", ""),
    ],
)
def test_a_change_of_what_serves_is_named(
    graph: Graph, damage: Callable[[VectorClient, str], None], expected: str, refused: str
) -> None:
    with graph.qdrant.engine().open() as client:
        damage(client, str(aliased(client, "passages")))
    assert expected in codes(graph)["release_serves"]
    if refused:
        with pytest.raises(Refused, match=refused):
            search(graph)
    if refused.startswith("FT-REL"):
        assert search(graph, unreleased=True)[0]
    # and the way back
    if refused.startswith("FT-REL") or damage is delete_alias:
        store, releases = graph.artifacts.store(), graph.artifacts.releases()
        roll_back(
            "collection", store, releases, graph.qdrant.engine(), to=record(graph)["current"], who="me", why="alias"
        )
        assert codes(graph) == {}
        assert search(graph)[0]


def test_without_a_record_the_gate_fails_and_the_search_answers_with_a_note(graph: Graph) -> None:
    path = graph.artifacts.state() / "released" / "collection.json"
    whole = path.read_text("utf-8")
    path.unlink()
    assert codes(graph) == {"release_serves": {"FT-REL-004"}}
    hits, note = search(graph)
    assert hits and "no record of releases" in note
    path.write_text(whole[:100])
    assert codes(graph)["release_serves"] == {"FT-REL-003"}
    hits, note = search(graph)
    assert hits and str(path) in note
    path.write_text(whole.replace('"sparse_weight": 1.0', '"sparse_weight": 0.9'))  # an edit that is valid JSON
    assert codes(graph)["release_serves"] == {"FT-REL-003"}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_file_of_the_released_encoder_is_named_before_a_search_fails(
    graph: Graph, damage: str, quick: bool
) -> None:
    assert judge_served(graph.evidence, quick=quick).violations == []
    path = graph.artifact("embedding_model").path / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage == "flip":
        path.write_bytes(content)
    (found,) = judge_served(graph.evidence, quick=quick).violations
    assert found.code == {"flip": "FT-ART-003", "delete": "FT-ART-002"}[damage] and "model.safetensors" in found.where
    with pytest.raises(Refused, match=found.code):
        search(graph)


def test_a_lost_record_is_not_replaced_by_a_new_one_without_a_word(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    (graph.artifacts.state() / "released/collection.json").unlink()
    graph.configure(retrieval={"sparse_weight": 0.5})
    with pytest.raises(Refused, match=r"FT-REL-004.*FT_NEW_HISTORY"):
        graph.run(*RELEASE)
    assert not graph.artifacts.releases().has_record("collection") and search(graph)[0]
    monkeypatch.setenv(release_module.NEW_HISTORY, "passages")
    graph.run("released_collection")
    assert codes(graph) == {} and len(record(graph)["history"]) == 1


def test_a_damaged_note_of_a_move_switches_no_check_off_and_its_fix_leads_back(graph: Graph) -> None:
    store, releases, engine = graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()
    intent = graph.artifacts.state() / "released" / "collection.intent.json"
    intent.write_text("{}")
    hits, note = search(graph)
    assert hits and note == ""  # the record is whole, and names what serves
    with engine.open() as client:
        point_elsewhere(client, str(aliased(client, "passages")))
    with pytest.raises(Refused, match="FT-REL-005"):
        search(graph)
    with pytest.raises(Refused, match=r"FT-REL-003.*ft gate --served"):
        roll_back("collection", store, releases, engine, to=None, who="me", why="alias")
    intent.unlink()  # the fix
    assert codes(graph)["release_serves"] == {"FT-REL-005"}
    roll_back("collection", store, releases, engine, to=record(graph)["current"], who="me", why="alias")
    assert codes(graph) == {} and search(graph)[0] == hits


# -- interrupted and at the same time -------------------------------------------------------------------------------
def test_a_release_that_was_killed_before_its_record_is_finished_by_the_next_look(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record(graph)["current"]
    graph.configure(retrieval={"sparse_weight": 0.5})
    graph.run(*RETRIEVAL_SIDE[1:2], *RETRIEVAL_SIDE[3:-1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resources.releases.Releases.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            release_module.release_collection(
                graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()
            )
    assert record(graph)["current"] == before  # the alias serves 0.5, the record names 1.0
    assert search(graph)[1] == ""  # it was announced
    assert codes(graph) == {}
    assert record(graph)["current"] != before
    assert graph.artifacts.releases().announced("collection") is None


def test_a_rollback_leaves_the_release_that_it_finishes(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    before = record(graph)["current"]
    graph.configure(retrieval={"sparse_weight": 0.5})
    graph.run(*RETRIEVAL_SIDE[1:2], *RETRIEVAL_SIDE[3:-1])
    store, releases, engine = graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("resources.releases.Releases.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            release_module.release_collection(store, releases, engine)
    intent = roll_back("collection", store, releases, engine, to=None, who="a test", why="it ranks worse")
    assert (intent.move.after, record(graph)["current"]) == (before, before)
    assert intent.move.before != before and codes(graph) == {}


def test_a_release_that_was_killed_before_the_alias_moved_is_withdrawn(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record(graph)
    graph.configure(retrieval={"sparse_weight": 0.5})
    graph.run(*RETRIEVAL_SIDE[1:2], *RETRIEVAL_SIDE[3:-1])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(release_module, "serve", killed)
        with pytest.raises(KeyboardInterrupt):
            release_module.release_collection(
                graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()
            )
    assert graph.artifacts.releases().announced("collection") is not None
    assert codes(graph) == {}
    assert record(graph) == before
    assert graph.artifacts.releases().announced("collection") is None


def _roll_back_and_forth(root: Path, versions: list[str], times: int) -> None:
    graph = Graph(root)
    engine = replace(graph.qdrant.engine(), lock_timeout=60.0)
    for number in range(times):
        roll_back(
            "collection", graph.artifacts.store(), graph.artifacts.releases(), engine,
            to=versions[number % len(versions)], who="me", why="",
        )  # fmt: skip


def test_alias_and_record_agree_while_three_processes_roll_back(graph: Graph) -> None:
    graph.configure(retrieval={"sparse_weight": 0.6})
    graph.run(*RELEASE)
    versions = [release["version"] for release in record(graph)["history"]]
    assert len(versions) == 2
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_roll_back_and_forth, args=(graph.root, versions[turn:] + versions[:turn], 6))
        for turn in (0, 1, 0)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert codes(graph) == {}
    moves = [move for move in record(graph)["moves"] if move["kind"] == "rollback"]
    assert all(move["before"] != move["after"] for move in moves)
    assert all(first["after"] == second["before"] for first, second in pairwise(moves))


# -- Dagster --------------------------------------------------------------------------------------------------------
def test_the_job_rolls_back_and_leaves_an_event(graph: Graph) -> None:
    first = record(graph)["current"]
    graph.configure(retrieval={"sparse_weight": 0.6})
    graph.run(*RELEASE)
    second = record(graph)["current"]
    with dg.DagsterInstance.ephemeral() as instance:  # type: ignore[attr-defined]
        config = {"ops": {"move_release": {"config": {"kind": "COLLECTION", "why": "worse on tariffs"}}}}
        result = rollback.execute_in_process(
            run_config=config,
            instance=instance,
            resources={"artifacts": graph.artifacts, "qdrant": graph.qdrant},
        )
        assert result.success
        (event,) = [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()] or [
            instance.get_latest_materialization_event(dg.AssetKey("released_collection")).asset_materialization  # type: ignore[union-attr]
        ]
    assert record(graph)["current"] == first
    assert event.tags["dagster/data_version"] == first
    shown = {name: value.value for name, value in event.metadata.items()}
    assert (shown["rolled_back_from"], shown["why"]) == (second, "worse on tariffs")
    assert codes(graph) == {}


def test_the_sensor_reports_a_change_once_and_again_when_it_ends(graph: Graph) -> None:
    (served_state,) = watch_served(GATES)
    defs = dg.Definitions(sensors=[served_state], resources={"artifacts": graph.artifacts, "qdrant": graph.qdrant})
    with dg.DagsterInstance.ephemeral() as instance:  # type: ignore[attr-defined]
        cursor = None

        def tick() -> dict[str, bool]:
            nonlocal cursor
            context = dg.build_sensor_context(
                instance, cursor=cursor, definitions=defs,
                resources={"artifacts": graph.artifacts, "qdrant": graph.qdrant},
            )  # fmt: skip
            result = served_state(context)
            cursor = result.cursor
            return {event.check_name: event.passed for event in result.asset_events}

        both = {"release_serves": True, "consumers_accept_what_serves": True}
        assert tick() == both  # also in a history that was moved away, and does not know the release
        assert tick() == {}
        instance.report_runless_asset_event(dg.AssetMaterialization("released_collection"))
        assert tick() == both
        assert tick() == {}
        with graph.qdrant.engine().open() as client:
            change_fusion(client, str(aliased(client, "passages")))
        assert tick() == {"release_serves": False}
        assert tick() == {}


def test_a_consumer_that_changes_its_needs_after_the_release_is_judged(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "consumers"
    folder.mkdir()
    contract = {
        "name": "answers",
        "owner": "team:answers",
        "description": "Reads passages.",
        "retrieval": {"min_recall_at_10": 0.0, "dimensions": [4096]},
    }
    (folder / "answers.yaml").write_text(json.dumps(contract))
    monkeypatch.setattr(consumer, "CONSUMER_FOLDER", folder)
    assert codes(graph) == {"consumers_accept_what_serves": {"FT-CON-002"}}
