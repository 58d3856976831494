"""The cost of a change, the effect of each gate, and the collection that serves, in a real small graph."""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import qdrant_edge

from expectations.contracts.embedding import EmbeddingContract, Fusion, Serving, read_contract
from expectations.violations import Refused
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.graph.gates import judge
from ft_assets.retrieval.checks import GATES
from ft_assets.retrieval.choose_fusion import choice_of
from ft_assets.retrieval.collection import build, collection_name, inspect, point_id
from ft_assets.retrieval.evaluate import main as evaluate
from ft_assets.retrieval.jobs import RetrievalEvaluationJob, SweepJob
from ft_assets.retrieval.search import Hit, Retriever
from ft_assets.retrieval.served_checks import judge_served
from ft_assets.retrieval.sweep import main as choose_on_validation
from ft_assets.retrieval.vectors import contract_of, schema
from ft_assets.rollback import roll_back
from resources.artifacts import Recipe
from resources.engines.protocol import VectorClient
from resources.launcher import ComputeParams, Job
from resources.qdrant import QdrantEngine, aliased
from tests.ft_assets.retrieval.conftest import RETRIEVAL_SIDE, Graph
from tests.ft_assets.retrieval.test_served import delete_alias

pytestmark = pytest.mark.slow

AFTER_CORPUS = ("passages", "retrieval_records", "split_ledger", "retrieval_splits", *RETRIEVAL_SIDE[3:])
AFTER_WEIGHTS = RETRIEVAL_SIDE[1:2] + RETRIEVAL_SIDE[3:]


def served(graph: Graph) -> str | None:
    with graph.qdrant.engine().open() as client:
        return aliased(client, "passages")


def search(graph: Graph, *queries: str, k: int = 5) -> list[list[Hit]]:
    artifacts = graph.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), graph.qdrant.engine()) as retriever:
        return retriever.search(list(queries), k)


def codes_of(graph: Graph, asset: str) -> dict[str, set[str]]:
    """Return gate -> codes of the violations on `asset`."""
    verdicts = {gate.name: judge(gate, graph.evidence) for gate in GATES if gate.asset == asset}
    return {name: {v.code for v in verdict.violations} for name, verdict in verdicts.items() if verdict.violations}


QUESTION = "Which federal standard number did NIST give to AES?"


def test_every_gate_passes_on_a_fresh_release(released: Graph) -> None:
    for asset in ("passage_vectors", "qdrant_collection", "retrieval_evaluation"):
        assert codes_of(released, asset) == {}


def test_the_released_collection_answers_with_both_arms_scores(released: Graph) -> None:
    (hits,) = search(released, QUESTION)
    assert len(hits) == 5
    assert "aes#standard-and-origin" in [hit.passage_id for hit in hits]
    assert hits == sorted(hits, key=lambda hit: -hit.score)
    for hit in hits:
        assert hit.score == pytest.approx(hit.dense + hit.sparse, abs=1e-4)
    assert hits[0].content
    assert hits[0].document_id == hits[0].passage_id.split("#")[0]


def test_a_payload_travels_to_the_search_and_its_change_encodes_nothing(graph: Graph) -> None:
    def label(path: Path, tenant: str) -> None:
        text = path.read_text("utf-8").partition("---\n\n")[2] or path.read_text("utf-8")
        path.write_text(f"---\ntenant: {tenant}\nyear: {len(path.stem)}\n---\n\n{text}", "utf-8")

    files = sorted((graph.root / "corpus").glob("*.md"))
    for path in files:
        label(path, "north" if path.stem == "aes" else "south")
    graph.configure(corpus={"payload": ["tenant", "year"]})
    made = graph.run("corpus_settings", *AFTER_CORPUS)
    assert made["passage_vectors"]["encoded"] == made["qdrant_collection"]["upserted"] == 0
    assert made["qdrant_collection"]["relabelled"] == graph.artifact("passages").summary["passages"]
    artifacts = graph.artifacts

    def find(*where: str) -> list[Hit]:
        with Retriever.open(artifacts.store(), artifacts.releases(), graph.qdrant.engine()) as retriever:
            return retriever.search([QUESTION], 50, where)[0]

    assert {hit.document_id for hit in find("tenant=north")} == {"aes"}
    assert find("tenant=north")[0].payload == {"tenant": "north", "year": 3}
    assert {len(hit.document_id) for hit in find("tenant=south", "year<=4")} <= {3, 4}
    with pytest.raises(Refused, match=r"FT-RET-009.*`tenent`.*tenant \(text\), year \(whole\)"):
        find("tenent=north")
    with pytest.raises(Refused, match=r"FT-RET-009.*number"):
        find("year>=new")
    label(graph.root / "corpus/aes.md", "west")
    again = graph.run(*AFTER_CORPUS)
    sections = len(find("tenant=west"))
    assert again["passage_vectors"]["encoded"] == again["qdrant_collection"]["upserted"] == 0
    assert again["qdrant_collection"]["relabelled"] == sections > 1 and not find("tenant=north")
    for asset in ("passage_vectors", "qdrant_collection", "retrieval_evaluation"):
        assert codes_of(graph, asset) == {}


def test_a_second_run_with_nothing_changed_reuses_everything(graph: Graph) -> None:
    again = graph.run(*RETRIEVAL_SIDE)
    assert all(metadata["reused"] for metadata in again.values())
    assert again["qdrant_collection"]["upserted"] == 0


def test_a_changed_weight_encodes_and_upserts_nothing_and_decides_the_order_served(graph: Graph) -> None:
    before, collection = search(graph, QUESTION, k=20)[0], served(graph)
    trained = graph.artifact("embedding_model").recipe_id
    graph.configure(retrieval={"dense_weight": 0.0, "sparse_weight": 1.0})
    made = graph.run(*AFTER_WEIGHTS)
    assert made["passage_vectors"]["reused"]
    assert made["qdrant_collection"]["reused"]
    assert made["qdrant_collection"]["upserted"] == 0
    assert not made["retrieval_evaluation"]["reused"]
    assert graph.artifact("embedding_model").recipe_id == trained
    assert served(graph) == collection
    (hits,) = search(graph, QUESTION, k=20)
    assert [hit.score for hit in hits] == pytest.approx([hit.sparse for hit in hits], abs=1e-4)
    assert [hit.passage_id for hit in hits] != [hit.passage_id for hit in before]
    summary = graph.artifact("retrieval_evaluation").summary
    assert summary["candidate_fused_ndcg_at_10"] == pytest.approx(summary["candidate_sparse_ndcg_at_10"])


def test_another_storage_is_another_collection_and_encodes_nothing(graph: Graph) -> None:
    before, asked = served(graph), graph.artifact("retrieval_evaluation").summary
    graph.configure(qdrant={"storage": {"quantization": "int8", "hnsw_m": 24}})
    made = graph.run("qdrant_settings", *RETRIEVAL_SIDE)
    assert made["passage_vectors"]["reused"] and made["fusion_sweep"]["reused"]
    assert made["qdrant_collection"]["upserted"] == graph.artifact("passages").summary["passages"]
    assert served(graph) not in {before, None}
    for asset in ("passage_vectors", "qdrant_collection", "retrieval_evaluation"):
        assert codes_of(graph, asset) == {}
    now = graph.artifact("retrieval_evaluation").summary
    assert now["candidate_fused_ndcg_at_10"] == pytest.approx(asked["candidate_fused_ndcg_at_10"], abs=0.005)
    assert graph.run(*RETRIEVAL_SIDE)["qdrant_collection"]["reused"]
    assert [hit.passage_id for hit in search(graph, QUESTION)[0]]


def test_auto_serves_the_weights_that_the_validation_questions_choose(graph: Graph) -> None:
    graph.configure(retrieval={"fusion": "auto"})
    made = graph.run(*AFTER_WEIGHTS)
    assert made["passage_vectors"]["reused"] and made["qdrant_collection"]["reused"]
    sweep = graph.artifact("fusion_sweep")
    choice = choice_of(sweep)
    assert (choice.by, choice.questions) == ("auto", sweep.summary["questions"])
    assert sweep.summary["advice"] == choice.reason
    wanted = msgspec.to_builtins(choice.fusion)
    for asset in ("embedding_evaluation", "retrieval_evaluation"):
        assert graph.artifact(asset).manifest.recipe.settings["fusion"] == wanted
    release = graph.artifacts.releases().current("collection")
    assert release and release.details["fusion"] == wanted
    assert release.details["fusion_choice"]["reason"] == choice.reason
    with graph.qdrant.engine().open() as client:
        stored = client.metadata(str(aliased(client, "passages")))
    assert stored["fusion_choice"] == release.details["fusion_choice"]
    (hits,) = search(graph, QUESTION)
    weights = choice.fusion
    for hit in hits:
        assert hit.score == pytest.approx(
            weights.dense_weight * hit.dense + weights.sparse_weight * hit.sparse, abs=1e-3
        )
    again = graph.run(*RETRIEVAL_SIDE[1:])
    assert all(metadata["reused"] for metadata in again.values())
    # what was fixed before serves again after a rollback, without the note of the choice
    back(graph)
    with graph.qdrant.engine().open() as client:
        assert client.metadata(str(aliased(client, "passages")))["fusion_choice"] == {}


def test_a_choice_made_with_other_settings_or_vectors_is_not_evaluated(graph: Graph) -> None:
    graph.configure(retrieval={"fusion": "auto"})
    graph.run(*AFTER_WEIGHTS)
    graph.configure(retrieval={"prefetch_limit": 200})
    graph.run("retrieval_settings")
    with pytest.raises(Exception, match="FT-RET-014"):
        graph.run("retrieval_evaluation")
    graph.configure(retrieval={"prefetch_limit": 100})
    path = sorted((graph.root / "corpus").glob("*.md"))[0]
    path.write_text(path.read_text("utf-8").replace("formalised by Phillip Rogaway", "worked out by Phillip Rogaway"))
    graph.run("retrieval_settings", "passages", "passage_vectors", "qdrant_collection")
    with pytest.raises(Exception, match=r"FT-LIN-001.*fusion_sweep|fusion_sweep.*FT-LIN-001"):
        graph.run("retrieval_evaluation")


def test_without_validation_questions_auto_keeps_the_configured_weights(graph: Graph, tmp_path: Path) -> None:
    splits, store = graph.artifact("retrieval_splits"), graph.artifacts.store()
    with store.stage(msgspec.structs.replace(splits.manifest.recipe, code_version="none")) as staging:
        empty = pq.read_table(splits.file("validation.parquet")).slice(0, 0)
        pq.write_table(empty, staging.path / "validation.parquet")
        empty_splits = staging.publish(splits.summary)
    store.point(empty_splits)
    sweep = graph.artifact("fusion_sweep").manifest.recipe
    inputs = {**sweep.inputs, "retrieval_splits": empty_splits.data_version}
    params = SweepJob(
        fusion=Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.8, prefetch_limit=100),
        auto=True,
        serving=Serving(dimension=64, distance="cosine"),
        nothing_found_share=0.05,
        compute=ComputeParams(state_dir=str(graph.root / "state"), device="cpu", dtype="float32"),
    )
    recipe = msgspec.structs.replace(sweep, code_version="none", inputs=inputs)
    job = Job(recipe=recipe, store=str(store.root), run_dir=str(tmp_path), params=msgspec.to_builtins(params))
    made = choose_on_validation(job)
    assert made.summary["questions"] == 0
    choice = choice_of(made)
    assert (choice.by, choice.fusion) == ("auto", params.fusion)
    assert "too few" in choice.reason


def test_a_question_that_nothing_answers_is_told_from_one_with_an_answer(graph: Graph) -> None:
    release = graph.artifacts.releases().current("collection")
    floor = choice_of(graph.artifact("fusion_sweep")).floor
    assert release and floor and release.details["score_floor"] == msgspec.to_builtins(floor) == served_floor(graph)
    assert floor.lost <= 0.05 and floor.caught >= 0.25
    assert judge_served(graph.evidence, quick=False).violations == []
    with Retriever.open(graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()) as retriever:
        answers = retriever.answer([QUESTION, "How do I bake bread?"], 5)
        dense = retriever.answer(["How do I bake bread?"], 5, arm="dense")[0]
    assert [answer.found for answer in answers] == [True, False]
    assert answers[1].hits and answers[1].hits[0].score < floor.score
    assert answers[1].notes[-1].startswith("nothing found: the best score is")
    assert dense.found  # the floor is one of fused scores
    with graph.qdrant.engine().open() as client:
        client.set_metadata(str(aliased(client, "passages")), {"score_floor": {}})
    assert {v.code for v in judge_served(graph.evidence, quick=False).violations} == {"FT-REL-006"}
    graph.configure(retrieval={"nothing_found_share": 0.0})
    made = graph.run(*AFTER_WEIGHTS)
    assert made["retrieval_evaluation"]["reused"] and not made["released_collection"]["reused"]
    assert served_floor(graph) == {}
    back(graph)
    assert served_floor(graph) == msgspec.to_builtins(floor)


def served_floor(graph: Graph) -> dict[str, float]:
    with graph.qdrant.engine().open() as client:
        return client.metadata(str(aliased(client, "passages")))["score_floor"]


@pytest.mark.parametrize("fusion", ["dbsf", "rrf"])
def test_unweighted_fusions_serve_too(graph: Graph, fusion: str) -> None:
    graph.configure(retrieval={"fusion": fusion})
    graph.run(*AFTER_WEIGHTS)
    assert len(search(graph, QUESTION)[0]) == 5


def test_a_smaller_trained_dimension_needs_a_new_collection_and_no_encoding(graph: Graph) -> None:
    live = served(graph)
    graph.configure(retrieval={"dimension": 64})
    made = graph.run("retrieval_settings", "passage_vectors", "qdrant_collection")
    assert made["passage_vectors"]["reused"]
    assert made["qdrant_collection"]["upserted"] == made["qdrant_collection"]["points"]
    candidate = made["qdrant_collection"]["collection"]
    assert candidate != live
    assert served(graph) == live
    graph.run("retrieval_evaluation", "released_collection")
    assert served(graph) == candidate
    with graph.qdrant.engine().open() as client:
        assert inspect(client, str(candidate)).contract.serving.dimension == 64  # type: ignore[union-attr]
        assert live in client.names(), "the collection before is kept for a rollback"
    assert search(graph, QUESTION)[0]


def test_a_dimension_the_model_was_not_trained_for_is_refused_and_the_alias_stays(graph: Graph) -> None:
    live = served(graph)
    graph.configure(retrieval={"dimension": 100})
    with pytest.raises(Exception, match="FT-EMB-003"):
        graph.run("retrieval_settings", "qdrant_collection")
    assert served(graph) == live
    assert "FT-EMB-003" in codes_of(graph, "qdrant_collection")["collection_matches_contract"]


@pytest.mark.parametrize("distance", ["dot", "euclid"])
def test_another_distance_is_another_collection_with_the_same_ranking(graph: Graph, distance: str) -> None:
    before = [hit.passage_id for hit in search(graph, QUESTION)[0]]
    graph.configure(retrieval={"distance": distance})
    made = graph.run("retrieval_settings", "passage_vectors", "qdrant_collection", "retrieval_evaluation")
    assert made["passage_vectors"]["reused"]
    evaluation = graph.artifact("retrieval_evaluation").summary
    assert evaluation["candidate_fused_ndcg_at_10"] == pytest.approx(evaluation["live_fused_ndcg_at_10"])
    if distance == "dot":  # the search service's contract does not take euclid
        graph.run("released_collection")
        assert [hit.passage_id for hit in search(graph, QUESTION)[0]] == before
    else:
        assert codes_of(graph, "retrieval_evaluation") == {"consumers_are_satisfied": {"FT-CON-002"}}


def test_a_failing_gate_is_named_and_the_alias_stays(graph: Graph) -> None:
    live = served(graph)
    before = graph.artifacts.releases().current("collection")
    graph.configure(retrieval={"min_recall_at_10": 1.0, "sparse_weight": 0.2})
    with pytest.raises(Exception, match="FT-RET-002"):
        graph.run(*AFTER_WEIGHTS)
    assert served(graph) == live
    assert graph.artifacts.releases().current("collection") == before


def test_a_release_is_refused_while_its_evaluation_judged_other_weights(graph: Graph) -> None:
    graph.configure(retrieval={"sparse_weight": 0.9})
    graph.run("retrieval_settings")
    with pytest.raises(Exception, match="FT-RET-004"):
        graph.run("released_collection")


def test_a_changed_document_encodes_its_own_passages_alone(graph: Graph) -> None:
    path = sorted((graph.root / "corpus").glob("*.md"))[0]
    path.write_text(path.read_text("utf-8").replace("formalised by Phillip Rogaway", "worked out by Phillip Rogaway"))
    made = graph.run("passages", "passage_vectors")
    assert made["passage_vectors"]["encoded"] == 1
    assert made["passage_vectors"]["reused"] is False
    assert graph.artifact("passage_vectors").summary["reused"] == made["passage_vectors"]["passages"] - 1
    collection = graph.run("qdrant_collection")["qdrant_collection"]
    assert (collection["upserted"], collection["deleted"]) == (1, 0)
    assert collection["copied"] == collection["points"] - 1
    assert codes_of(graph, "qdrant_collection") == {}


def test_a_half_built_collection_is_continued_and_a_lost_one_is_built_again(graph: Graph) -> None:
    name, vectors = str(served(graph)), graph.artifact("passage_vectors")
    gone = [
        point_id(passage) for passage in pq.read_table(vectors.file("vectors.parquet"))["passage_id"].to_pylist()[:7]
    ]
    with graph.qdrant.engine().open() as client:
        client.delete(name, gone)
    assert codes_of(graph, "qdrant_collection")["collection_is_complete"] == {"FT-COL-001"}
    assert graph.run("qdrant_collection")["qdrant_collection"]["upserted"] == 7
    assert codes_of(graph, "qdrant_collection") == {}
    shutil.rmtree(graph.qdrant.engine().folder / "shards" / name)
    assert graph.run("qdrant_collection")["qdrant_collection"]["upserted"] == vectors.summary["passages"]


def test_a_point_without_its_sparse_vector_is_detected(graph: Graph) -> None:
    with graph.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        points = next(client.scroll(name))
        client.delete(name, points.ids[:1])
        bare = qdrant_edge.Point(points.ids[0], {"dense": points.dense[0].tolist()}, {})
        client._shard(name).update(qdrant_edge.UpdateOperation.upsert_points([bare]))  # type: ignore[attr-defined]
    assert codes_of(graph, "qdrant_collection")["collection_is_complete"] == {"FT-COL-001"}


def test_exchanged_vectors_in_the_engine_are_detected(graph: Graph) -> None:
    with graph.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        points = next(client.scroll(name, batch=1000))
        moved = replace(points, dense=np.roll(points.dense, 1, axis=0), sparse=points.sparse[1:] + points.sparse[:1])
        client.upsert(name, moved)
    assert codes_of(graph, "qdrant_collection") == {"points_are_current": {"FT-COL-004"}}


def test_another_model_of_the_same_dimension_is_refused_by_name(graph: Graph) -> None:
    graph.configure(embedding={"seed": 7})
    graph.run("embedding_settings", "embedding_model")
    stale = codes_of(graph, "passage_vectors")["vectors_are_of_this_model"]
    assert stale == {"FT-VEC-006"}
    assert "FT-COL-002" in codes_of(graph, "qdrant_collection")["collection_matches_contract"]
    with pytest.raises(Exception, match="weights_sha256"):
        graph.run("released_collection")
    # what is released still answers: its own model is in the store
    assert search(graph, QUESTION)[0]


def test_a_search_without_the_model_of_the_index_is_refused(graph: Graph) -> None:
    with graph.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        stored = inspect(client, name).contract
        other = msgspec.structs.replace(stored, weights_sha256="0" * 64)
        client.set_metadata(name, {"contract": other.to_json()})
    with pytest.raises(Refused, match="FT-RET-007"):
        search(graph, QUESTION)


def test_a_search_is_refused_when_the_probes_differ(graph: Graph) -> None:
    with graph.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        stored = inspect(client, name).contract
        shifted = [msgspec.structs.replace(p, dense=p.dense[::-1]) for p in stored.probes]
        client.set_metadata(name, {"contract": msgspec.structs.replace(stored, probes=shifted).to_json()})
    with pytest.raises(Refused, match="BROKEN"):
        search(graph, QUESTION)


def test_a_search_without_a_release_names_the_command(graph: Graph) -> None:
    with graph.qdrant.engine().open() as client:
        delete_alias(client, "")
    with pytest.raises(Refused, match="FT-RET-006"):
        search(graph, QUESTION)


def back(graph: Graph, to: str | None = None) -> None:
    store, releases = graph.artifacts.store(), graph.artifacts.releases()
    roll_back("collection", store, releases, graph.qdrant.engine(), to=to, who="a person", why="worse")


def test_rollback_moves_alias_fusion_and_pointer_back_and_forth(graph: Graph) -> None:
    artifacts, first = graph.artifacts, served(graph)
    one = artifacts.releases().current("collection")
    before = search(graph, QUESTION)[0]
    graph.configure(retrieval={"dimension": 64, "sparse_weight": 0.6})
    graph.run(*AFTER_WEIGHTS)
    two = artifacts.releases().current("collection")
    assert one is not None
    assert two is not None
    assert served(graph) != first
    releases = artifacts.releases()
    back(graph)
    assert served(graph) == first
    assert releases.current("collection") == one
    assert search(graph, QUESTION)[0] == before
    back(graph, two.version)
    assert served(graph) == two.details["collection"]
    (hits,) = search(graph, QUESTION)
    assert hits[0].score == pytest.approx(hits[0].dense + 0.6 * hits[0].sparse, abs=1e-4)


def test_a_release_that_was_rolled_back_is_not_released_again_unless_new_or_requested(graph: Graph) -> None:
    def weight() -> float:
        return search_contract(graph).fusion.sparse_weight  # type: ignore[union-attr]

    releases = graph.artifacts.releases()
    for changed in (0.5, 0.6):
        graph.configure(retrieval={"sparse_weight": changed})
        graph.run(*AFTER_WEIGHTS)
    book = releases.book("collection")
    assert book is not None
    first, _, last = book.history
    back(graph, first.version)
    # as the daemon does, or a run of everything; the evaluation runs again, compared with what is live now
    again = graph.run(*AFTER_WEIGHTS)
    assert not again["retrieval_evaluation"]["reused"]
    assert (again["released_collection"]["candidate_withheld"], weight()) == (True, 1.0)
    back(graph, last.version)
    assert weight() == 0.6
    back(graph, first.version)
    graph.configure(retrieval={"sparse_weight": 0.7})
    assert not graph.run(*AFTER_WEIGHTS)["released_collection"]["candidate_withheld"]
    assert weight() == 0.7


def search_contract(graph: Graph) -> EmbeddingContract:
    with graph.qdrant.engine().open() as client:
        return inspect(client, str(aliased(client, "passages"))).contract


def test_a_candidate_is_not_released_without_comparison_when_the_live_collection_is_gone(graph: Graph) -> None:
    live = str(served(graph))
    graph.configure(retrieval={"dimension": 64})
    graph.run("retrieval_settings", "qdrant_collection")
    shutil.rmtree(graph.qdrant.engine().folder / "shards" / live)
    with pytest.raises(Exception, match="FT-RET-008"):
        graph.run("retrieval_evaluation")
    assert "evaluation_is_current" in codes_of(graph, "retrieval_evaluation")
    graph.configure(retrieval={"tolerance": 1.0})
    graph.run(*AFTER_WEIGHTS)
    assert served(graph) not in (None, live)


def test_a_release_opens_the_engine_once_for_all_of_its_gates(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    connect = QdrantEngine.open

    def counting(engine: QdrantEngine) -> AbstractContextManager[VectorClient]:
        opened.append(engine.kind)
        return connect(engine)

    monkeypatch.setattr(QdrantEngine, "open", counting)
    graph.run("released_collection")
    assert len(opened) == 3, "its gates, the alias, what is retired"


@pytest.fixture
def local(graph: Graph) -> Graph:
    """The graph, released in the engine `local`, as a config.yaml without an engine was once."""
    shutil.rmtree(graph.qdrant.engine().folder)
    local = replace(graph, engine="local")
    local.run(*RETRIEVAL_SIDE)
    return local


def test_a_state_released_in_the_local_engine_is_named_and_is_moved_or_built_again(local: Graph) -> None:
    graph, name = replace(local, engine="edge"), str(served(local))
    for way in ("qdrant.engine: local", "ft migrate --to edge", "ft run --group retrieval"):
        with pytest.raises(Refused, match="FT-RET-006.*" + re.escape(way)):
            search(graph, QUESTION)
    assert "ft migrate --to edge" in str(judge_served(graph.evidence, quick=True).violations[0])
    assert search(local, QUESTION)[0]
    made = graph.run(*RETRIEVAL_SIDE)["qdrant_collection"]
    assert (made["upserted"], served(graph)) == (made["points"], name)
    assert search(graph, QUESTION)[0]
    assert judge_served(graph.evidence, quick=True).violations == []


def test_a_damaged_local_collection_is_named_and_is_built_again_once_it_is_moved_away(local: Graph) -> None:
    graph, name = local, str(served(local))
    folder = graph.root / "state/qdrant/collection" / name
    file = folder / "storage.sqlite"
    file.write_bytes(b"\xff" * 8192)
    for suffix in ("-wal", "-shm"):
        (folder / f"storage.sqlite{suffix}").unlink(missing_ok=True)
    for ask in (lambda: search(graph, QUESTION), lambda: graph.run("qdrant_collection")):
        with pytest.raises(Exception, match="FT-QDR-011") as refusal:
            ask()
        assert f"move {folder} away" in str(refusal.value)
    folder.rename(graph.root / "damaged")
    made = graph.run("qdrant_collection")["qdrant_collection"]
    assert made["upserted"] == made["points"]
    assert search(graph, QUESTION)[0]
    (graph.root / "state/qdrant/meta.json").write_text("{")
    with pytest.raises(Refused, match="FT-QDR-011"):
        search(graph, QUESTION)
    (graph.root / "state/qdrant").rename(graph.root / "lost")
    graph.run(*RETRIEVAL_SIDE)
    assert served(graph) == name
    assert search(graph, QUESTION)[0]


def test_old_collections_are_retired_but_never_the_one_that_serves(graph: Graph) -> None:
    first = served(graph)
    graph.configure(retrieval={"keep": 1, "dimension": 64})
    made = graph.run(*AFTER_WEIGHTS)
    assert made["released_collection"]["retired"] == [first]
    with graph.qdrant.engine().open() as client:
        assert client.names() == [aliased(client, "passages")]
        client.create("someone_elses", Serving(dimension=2, distance="dot"), {})
    graph.run("released_collection")
    with graph.qdrant.engine().open() as client:
        assert "someone_elses" in client.names()


def test_a_query_of_another_dimension_is_refused_before_it_is_sent(released: Graph) -> None:
    from ft_assets.embedding.model import Encoded
    from ft_assets.retrieval.query import ask

    with released.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        contract = inspect(client, name).contract
        queries = Encoded(np.zeros((1, 17), np.float32), [(np.empty(0, np.int32), np.empty(0, np.float32))], 0)
        with pytest.raises(Refused, match="FT-RET-005"):
            ask(client, name, contract, queries, "fused", limit=3)


def test_the_sweep_agrees_with_the_engine_and_changes_nothing(released: Graph) -> None:
    sweep = released.artifact("fusion_sweep").summary
    assert set(sweep["ndcg_at_10"]) >= {"1.0 / 0", "1.0 / 0.3", "0.5 / 1", "0.125 / 1", "0.0 / 1", "dbsf", "rrf"}
    assert (sweep["chosen"], sweep["chosen_by"]) == ("1.0 / 1", "config")
    assert (sweep["configured"], sweep["questions"]) == ("1.0 / 1", sweep["gain_over_configured"]["n"])
    assert sweep["ndcg_at_10"][sweep["best"]] == max(sweep["ndcg_at_10"].values())
    assert sweep["recommended"] == (sweep["best"] if sweep["gain_is_certain"] else "1.0 / 1")
    # one collection, one model: exact search and the engine rank alike
    exact = released.artifact("embedding_evaluation").summary
    asked = released.artifact("retrieval_evaluation").summary
    for arm in ("dense", "sparse", "fused"):
        for metric in ("ndcg_at_10", "recall_at_10", "mrr_at_10", "document_ndcg_at_10"):
            assert asked[f"candidate_{arm}_{metric}"] == pytest.approx(exact[f"trained_{arm}_{metric}"], abs=1e-3)
            assert asked[f"candidate_{arm}_{metric}"] == pytest.approx(asked[f"exact_{arm}_{metric}"], abs=1e-3)


def test_an_engine_that_ranks_worse_than_its_vectors_is_refused(graph: Graph, tmp_path: Path) -> None:
    name = str(served(graph))
    with graph.qdrant.engine().open() as client:
        points = next(client.scroll(name, batch=1000))
        moved = replace(points, dense=np.roll(points.dense, 1, axis=0), sparse=points.sparse[1:] + points.sparse[:1])
        client.upsert(name, moved)
    recipe = graph.artifact("retrieval_evaluation").manifest.recipe
    params = RetrievalEvaluationJob(
        collection=name,
        fusion=msgspec.convert(recipe.settings["fusion"], Fusion),
        evaluate_on="test",
        live=None,
        must_compare=False,
        bm25=Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75),
        engine=graph.qdrant.engine().params,
        compute=ComputeParams(state_dir=str(graph.root / "state"), device="cpu", dtype="float32"),
    )
    recipe, store = msgspec.structs.replace(recipe, code_version="damaged"), graph.artifacts.store()
    job = Job(recipe=recipe, store=str(store.root), run_dir=str(tmp_path), params=msgspec.to_builtins(params))
    evaluation = evaluate(job)
    store.point(evaluation)
    assert evaluation.summary["recall_of_exact"] == 1.0, "the engine finds what it has: its vectors are others"
    assert codes_of(graph, "retrieval_evaluation")["served_is_exact"] == {"FT-RET-010"}


def test_the_fusions_of_the_sweep_are_the_engines_own(released: Graph) -> None:
    from ft_assets.embedding.exact_search import lexical_scores, named
    from ft_assets.embedding.model import Encoded, HybridEncoder
    from ft_assets.retrieval.query import ask
    from ft_assets.retrieval.vectors import read_vectors
    from resources.engines.fusion import fuse

    rows = list(read_vectors(released.artifact("passage_vectors")))
    corpus = Encoded(np.stack([row.dense for row in rows]), [(row.indices, row.values) for row in rows], 0)
    encoder = HybridEncoder.load(released.artifact("embedding_model").folder())
    queries = encoder.encode([QUESTION, "What is a nonce?"], "query")
    dense, lexical = queries.dense @ corpus.dense.T, lexical_scores(queries.sparse, corpus.sparse)
    with released.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        contract = inspect(client, name).contract
        for kind in ("weighted_sum", "dbsf", "rrf"):
            assert contract.fusion is not None
            fusion = msgspec.structs.replace(contract.fusion, fusion=kind)
            fused = msgspec.structs.replace(contract, fusion=fusion)
            asked = ask(client, name, fused, queries, "fused", limit=5)
            ranked = np.argsort(-fuse(fusion, dense, lexical), axis=1, kind="stable")[:, :5]
            mine = named(ranked, [row.passage_id for row in rows])
            assert [[p.payload["passage_id"] for p in points] for points in asked] == mine, kind


def test_the_contract_travels_whole(released: Graph) -> None:
    model = read_contract(released.artifact("embedding_model").json("contract.json"), "model")
    with released.qdrant.engine().open() as client:
        stored = inspect(client, str(aliased(client, "passages"))).contract
    assert stored.probes == model.probes
    assert stored.encode_fp == model.encode_fp
    assert stored.fusion is not None
    assert model.dense.dimensions == [128, 64]


def publish_vectors(graph: Graph, change: str) -> None:
    """Make a damaged copy of passage_vectors the current one."""
    store, good = graph.artifacts.store(), graph.artifact("passage_vectors")
    table = pq.read_table(good.file("vectors.parquet"))
    dense = [list(row) for row in table["dense"].to_pylist()]
    kept, kind = table.slice(0, len(dense)), schema(128).field("dense").type
    if change == "mixed":
        dense[3], kind = dense[3][:64], pa.list_(pa.float32())
    if change == "infinite":
        dense[3][0] = float("inf")
    kept = kept.set_column(table.schema.get_field_index("dense"), "dense", pa.array(dense, type=kind))
    if change == "missing":
        kept = kept.slice(1)
    if change == "twice":
        kept = pa.concat_tables([kept, kept.slice(0, 1)])
    if change == "stale":
        hashes = ["0" * 64, *table["content_sha256"].to_pylist()[1:]]
        kept = kept.set_column(table.schema.get_field_index("content_sha256"), "content_sha256", pa.array(hashes))
    if change == "collapsed":
        for name in ("sparse_indices", "sparse_values"):
            column = table.schema.get_field_index(name)
            kept = kept.set_column(column, name, pa.array([[]] * len(kept), type=table.schema.field(name).type))
    with store.stage(Recipe(asset="passage_vectors", code_version=change)) as staging:
        pq.write_table(kept, staging.path / "vectors.parquet")
        for name in ("contract.json", "cut.json"):
            (staging.path / name).write_bytes(good.file(name).read_bytes())
        store.point(staging.publish(good.summary))


@pytest.mark.parametrize(
    ("change", "gate", "code"),
    [
        ("mixed", "one_dimension", "FT-VEC-002"),
        ("infinite", "vectors_are_finite", "FT-VEC-003"),
        ("missing", "one_row_a_passage", "FT-VEC-001"),
        ("twice", "one_row_a_passage", "FT-VEC-001"),
        ("stale", "vectors_match_passages", "FT-VEC-004"),
        ("collapsed", "lexical_vectors_are_not_empty", "FT-VEC-005"),
    ],
)
def test_damaged_vectors_are_refused_by_code_and_never_built(graph: Graph, change: str, gate: str, code: str) -> None:
    publish_vectors(graph, change)
    assert codes_of(graph, "passage_vectors") == {gate: {code}}
    with pytest.raises(Exception, match=code):
        graph.run("qdrant_collection")


def test_an_altered_file_of_vectors_is_refused(graph: Graph) -> None:
    path = graph.artifact("passage_vectors").path / "vectors.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert codes_of(graph, "passage_vectors")["artifact_is_whole"] == {"FT-ART-003"}


def test_a_collection_with_another_contract_is_not_overwritten(graph: Graph, tmp_path: Path) -> None:
    vectors, passages = graph.artifact("passage_vectors"), graph.artifact("passages")
    with graph.qdrant.engine().open() as client:
        name = str(aliased(client, "passages"))
        stored = inspect(client, name).contract
        assert stored.serving is not None
        assert name == collection_name("passages", stored, vectors.data_version)
        other = msgspec.structs.replace(contract_of(vectors), weights_sha256="1" * 64).served(stored.serving, None)
        with pytest.raises(Refused, match="FT-COL-005"):
            build(client, name, other, vectors, passages)


def test_the_local_engine_is_refused_above_its_size(local: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = local
    before = graph.artifacts.releases().book("collection")
    monkeypatch.setattr("expectations.rules.retrieval.MAX_LOCAL_POINTS", 5)
    with pytest.raises(Refused, match=r"FT-QDR-004.*ft migrate --to edge"):
        graph.run("qdrant_collection")
    gate = next(gate for gate in GATES if gate.name == "engine_is_enough")
    assert gate.blocking and [one.code for one in judge(gate, graph.evidence).violations] == ["FT-QDR-004"]
    assert graph.artifacts.releases().book("collection") == before
