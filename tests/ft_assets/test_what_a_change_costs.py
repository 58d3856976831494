"""The work that a change costs: each row of the table in docs/automation.md, counted in a whole small project.

The daemon's own sensors and conditions decide what runs, tick by tick; trainings are requested, as a person does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path

import dagster as dg
import msgspec
import pytest

from ft_assets.config.model import SETTINGS_ASSETS
from ft_assets.definitions import GATES
from ft_assets.graph.gates import Evidence, judge
from ft_assets.retrieval.choose_fusion import choice_of
from resources.artifacts import Artifact, ArtifactStore
from resources.dagster_resources import QdrantResource
from resources.parquet import read_rows
from tests.ft_assets.costs import LONG, NOTES, SECTIONS, TRAINED, Whole, note, write_project
from tests.ft_assets.retrieval.cross_encoder import build_cross_encoder

pytestmark = pytest.mark.slow
EVALUATE_AND_RELEASE = {"retrieval_evaluation", "released_collection"}
FOLLOWERS = {"embedding_evaluation", "fusion_sweep", "answer_evaluation"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Generator[Whole]:
    """The project after its first build, in which a person requested the trainings and nothing else."""
    root = tmp_path_factory.mktemp("whole")
    write_project(project / "examples/en", root)
    (root / "state").mkdir()
    home = tmp_path_factory.mktemp("instance")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        whole = Whole(root, instance)
        before = whole.cost()
        assert before.trained == set()  # nobody requested one
        first = whole.cost(*TRAINED)
        assert first.trained == set(TRAINED)
        assert whole.daemon.failed_checks() == set()
        assert set(whole.served()) == {"adapter", "collection"}
        assert first.encoded == first.upserted == whole.store.require("passages").summary["passages"] > 300
        assert first.collections == 1
        yield whole


@pytest.fixture
def whole(built: Whole, tmp_path: Path) -> Generator[Whole]:
    """A copy that a test may change."""
    home = tmp_path / "instance"
    shutil.copytree(built.instance.root_directory, home)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield built.copy(tmp_path / "project", instance)


def test_nothing_costs_nothing(whole: Whole) -> None:
    cost = whole.cost()
    assert cost.requested == set()
    assert cost.made == set()


@pytest.mark.parametrize("weights", [{"sparse_weight": 0.5}, {"fusion": "dbsf"}])
def test_a_weight_costs_an_evaluation(whole: Whole, weights: dict[str, object]) -> None:
    before = whole.served()
    whole.configure(retrieval=weights)
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, 0, 0)
    assert cost.judged == {"retrieval_evaluation", "embedding_evaluation", "answer_evaluation"}
    after = whole.served()
    assert after["adapter"] == before["adapter"]
    assert after["collection"] != before["collection"]
    # the sweep compares the other fusions with the configured one
    assert cost.made == {"retrieval_settings", *EVALUATE_AND_RELEASE, *FOLLOWERS}
    # these read the same section: requested, and reused. Nothing else is.
    assert cost.requested == {*cost.made, "passage_vectors", "qdrant_collection"}


def test_a_rerank_model_costs_an_evaluation(whole: Whole) -> None:
    model = build_cross_encoder(whole.root / "reranker")
    whole.configure(retrieval={"rerank": {"model": str(model), "top_n": 1}})
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, 0, 0)
    assert cost.made == {"retrieval_settings", *EVALUATE_AND_RELEASE, "answer_evaluation"}
    assert whole.daemon.failed_checks() == set()
    whole.configure(retrieval={"rerank": {"model": str(model), "top_n": 1, "batch_size": 8}})
    assert whole.cost().made == {"retrieval_settings"}


def test_new_validation_questions_cost_a_choice_of_weights(whole: Whole) -> None:
    before = whole.store.require("fusion_sweep")
    splits = whole.store.require("retrieval_splits")
    held_out = next(read_rows(splits.file("validation.parquet"), ["query", "positive_ids"]))
    queries, qrels = (whole.root / "retrieval" / name for name in ("queries.jsonl", "qrels/all.tsv"))
    added = json.dumps({"_id": "new-1", "text": f"In other words: {held_out['query'].lower()}"})
    whole.write("retrieval/queries.jsonl", f"{queries.read_text('utf-8').rstrip()}\n{added}\n")
    whole.write(
        "retrieval/qrels/all.tsv", f"{qrels.read_text('utf-8').rstrip()}\nnew-1\t{held_out['positive_ids'][0]}\t1\n"
    )
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, 0, 0)
    assert cost.made >= {"fusion_sweep", "embedding_evaluation", "retrieval_evaluation"}
    after = whole.store.require("fusion_sweep")
    assert after.summary["questions"] == before.summary["questions"] + 1
    release = whole.artifacts.releases().current("collection")
    choice = choice_of(after)
    assert release and release.details["fusion"] == msgspec.to_builtins(choice.fusion)
    assert release.details["fusion_choice"] == {"by": "auto", "questions": choice.questions, "reason": choice.reason}


def test_one_changed_document_costs_its_changed_passages(whole: Whole) -> None:
    whole.write("corpus/note-03.md", note(3, changed="Its lamp is green."))
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted) == (set(), 1, 1)
    assert cost.judged >= {"retrieval_evaluation", "embedding_evaluation"}
    assert "released_collection" in cost.made


def test_a_new_document_costs_its_passages(whole: Whole) -> None:
    whole.write("corpus/note-99.md", note(99))
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.deleted) == (set(), SECTIONS, SECTIONS, 0)
    assert cost.made >= EVALUATE_AND_RELEASE


def test_a_payload_and_its_change_cost_no_encoding_and_no_upsert(whole: Whole) -> None:
    whole.write("corpus/note-03.md", f"---\ntenant: a\n---\n{note(3)}")
    whole.configure(corpus={"payload": ["tenant"]})
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, 0, 1)
    whole.write("corpus/note-03.md", f"---\ntenant: b\n---\n{note(3)}")
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, 0, 1)
    assert whole.store.require("qdrant_collection").summary["relabelled"] == SECTIONS
    assert cost.made >= EVALUATE_AND_RELEASE and whole.daemon.failed_checks() == set()


def test_a_deleted_document_costs_no_encoding(whole: Whole) -> None:
    (whole.root / "corpus/note-03.md").unlink()
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.deleted) == (set(), 0, 0, SECTIONS)
    assert cost.made >= EVALUATE_AND_RELEASE


def test_another_stored_form_costs_a_collection_and_no_encoding(whole: Whole) -> None:
    whole.configure(retrieval={"dimension": 64, "distance": "dot"})
    cost = whole.cost()
    passages = whole.store.require("passages").summary["passages"]
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, passages, 1)
    assert cost.made >= EVALUATE_AND_RELEASE
    assert cost.repeated == set()


def test_other_rules_of_bm25_cost_a_collection_and_no_encoding(whole: Whole) -> None:
    whole.configure(retrieval={"bm25_k1": 0.9, "stop_words": ["device"]})
    cost = whole.cost()
    passages = whole.store.require("passages").summary["passages"]
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, passages, 1)
    assert cost.made >= EVALUATE_AND_RELEASE and whole.daemon.failed_checks() == set()


def test_the_learned_arm_is_encoded_and_bm25_takes_its_dense_vectors(whole: Whole) -> None:
    passages = whole.store.require("passages").summary["passages"]
    before = whole.served()
    whole.configure(retrieval={"lexical": "learned"}, embedding={"lexical_head": True})
    waiting = whole.cost()
    assert (waiting.trained, waiting.encoded) == (set(), 0)  # there is no head yet, and nobody requested its training
    assert whole.served() == before
    cost = whole.cost("embedding_model")
    assert (cost.encoded, cost.upserted, cost.collections) == (passages, passages, 1)
    whole.configure(retrieval={"lexical": "bm25", "bm25_k1": 0.9})
    cost = whole.cost()
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == (set(), 0, passages, 1)


@pytest.mark.parametrize("change", [{"seed": 7}, {"passage_max_tokens": 300}], ids=["weights", "length"])
def test_another_embedding_is_trained_on_request_and_then_costs_everything(
    whole: Whole, change: dict[str, object]
) -> None:
    before = whole.served()
    whole.configure(embedding=change)
    waiting = whole.cost()
    assert waiting.made == {"embedding_settings"}  # nobody requested a training
    assert whole.served() == before
    cost = whole.cost("embedding_model")
    passages = whole.store.require("passages").summary["passages"]
    assert cost.trained == {"embedding_model"}
    assert (cost.encoded, cost.upserted, cost.collections) == (passages, passages, 1)
    assert cost.judged >= {"retrieval_evaluation", "embedding_evaluation"}
    assert "released_collection" in cost.made


def test_a_preference_file_costs_a_dpo_training_on_request(whole: Whole) -> None:
    lines = (whole.root / "preferences.jsonl").read_text("utf-8").splitlines()
    whole.write("preferences.jsonl", "\n".join(lines[1:]) + "\n")
    before = whole.served()
    waiting = whole.cost()
    assert waiting.trained == set()
    assert waiting.made <= {"preference_records", "preference_splits", "split_ledger"}
    assert whole.served() == before
    cost = whole.cost("dpo_adapter")
    assert (cost.trained, cost.encoded, cost.upserted, cost.collections) == ({"dpo_adapter"}, 0, 0, 0)
    assert cost.judged == {"adapter_evaluation", "answer_evaluation"}
    assert "released_adapter" in cost.made
    assert whole.served()["collection"] == before["collection"]


@pytest.mark.parametrize("rule", [{"max_chars": 600}, {"max_tokens": 150}], ids=["characters", "tokens"])
def test_other_text_rules_cost_the_passages_they_change(whole: Whole, rule: dict[str, object]) -> None:
    before = whole.store.require("passages").summary["passages"]
    whole.configure(corpus=rule)
    cost = whole.cost()
    after = whole.store.require("passages").summary["passages"]
    assert cost.trained == set()
    assert cost.encoded == cost.upserted
    # each long section is two passages now: one updates its point, one is new
    assert cost.encoded == 2 * NOTES * LONG
    assert after - before == NOTES * LONG
    assert cost.made >= EVALUATE_AND_RELEASE


def test_a_failing_candidate_is_not_released_until_it_is_fixed(whole: Whole) -> None:
    before = whole.served()
    # no ranking of so small a model finds everything
    whole.configure(retrieval={"min_recall_at_10": 1.0})
    cost = whole.cost()
    assert whole.served() == before
    assert "released_collection" not in cost.requested
    assert whole.daemon.failed_checks() == {"retrieval_evaluation.recall_is_enough"}
    whole.configure(retrieval={"min_recall_at_10": 0.0, "sparse_weight": 0.6})
    fixed = whole.cost()
    assert whole.daemon.failed_checks() == set()
    assert fixed.encoded == 0
    assert whole.served()["collection"] != before["collection"]


def test_every_check_is_judged_again_when_a_section_that_it_reads_changes(built: Whole) -> None:
    """Either its asset depends on that section and is requested, or the gate names the section in `needs`."""
    graph = built.daemon.defs.resolve_asset_graph()
    made = graph.get_all_asset_keys()  # this project generates no rows
    unnoticed: list[str] = []
    for gate in (gate for gate in GATES if dg.AssetKey(gate.asset) in made):
        read: set[str] = set()

        class Noting(ArtifactStore):
            def require(self, asset: str, read: set[str] = read) -> Artifact:
                read.add(asset)
                return super().require(asset)

        artifacts, qdrant = built.artifacts, QdrantResource(state_dir=str(built.root / "state"))
        judge(gate, Evidence(Noting(built.store.root), artifacts.releases(), qdrant.engine(), None))
        node = graph.get(dg.AssetKey(gate.asset))
        parents = {key.to_user_string() for key in node.parent_keys} if node.automation_condition else set[str]()
        judged_with = parents | set(gate.needs) | {gate.asset}
        unnoticed += [
            f"{gate.asset}.{gate.name} reads {name}" for name in read & set(SETTINGS_ASSETS.values()) - judged_with
        ]
    assert unnoticed == []
