"""Two encoders next to each other: better and worse only by a paired interval, questions won, the right advice."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ft_assets.commands.project import Project
from ft_assets.retrieval.jobs import RetrievalEvaluationSummary
from ft_assets.web.app import create_app
from ft_assets.web.export import export_comparison
from ft_assets.web.rankings import compare_encoders
from tests.page_state import (
    HOSTILE,
    Encoders,
    build_adapters,
    build_encoders,
    evaluate_encoder,
    release_collection,
    run_folder,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(config=tmp_path / "config.yaml", state=tmp_path / "state")


@pytest.fixture
def encoders(project: Project) -> Encoders:
    return build_encoders(project.state)


@pytest.fixture
def page(project: Project) -> TestClient:
    return TestClient(create_app(project))


def test_encoders_are_compared_by_the_questions_that_both_ranked(page: TestClient, encoders: Encoders):
    first, second = encoders.first.recipe_id, encoders.second.recipe_id
    view = page.get(f"/trainings.json?ids={first},{second}").json()
    found = view["rankings"]
    assert (len(found["won"]), len(found["lost"]), found["equal"], found["note"]) == (39, 1, 0, "")
    assert found["lost"][0]["query"] == f"query 39 {HOSTILE}"
    fused, dense = found["scores"]
    assert fused["verdict"].startswith(
        f"embedding_model {second[:8]} is better than embedding_model {first[:8]}: +0.38"
    )
    assert fused["difference"]["low"] > 0 and fused["difference"]["n"] == 40
    assert "No difference" in dense["verdict"] and "dense" in dense["verdict"]
    assert view["advice"] == [] and view["answers"] is None
    html = page.get(f"/trainings?ids={first},{second}").text
    assert "is better than" in html and HOSTILE not in html and "adapter_evaluation" not in html
    worse = page.get(f"/trainings.json?ids={second},{first}").json()["rankings"]["scores"][0]
    assert "is worse than" in worse["verdict"] and worse["difference"]["high"] < 0


def test_one_encoder_is_compared_with_its_base(page: TestClient, encoders: Encoders):
    link = f"/trainings/embedding_model/{encoders.second.recipe_id}"
    found = page.get(f"{link}.json").json()["rankings"]
    assert found["before"] == "base model" and found["scores"][0]["before"]["mean"] == pytest.approx(0.3)
    assert "How good it is" in page.get(link).text
    assert page.get(f"/trainings/embedding_model/{encoders.third.recipe_id}.json").json()["rankings"] is None


def test_an_encoder_without_an_evaluation_leads_to_the_one_of_encoders(page: TestClient, encoders: Encoders):
    first, third = encoders.first.recipe_id, encoders.third.recipe_id
    view = page.get(f"/trainings.json?ids={first},{third}").json()
    assert view["rankings"] is None and len(view["advice"]) == 1
    assert view["advice"][0]["command"] == "ft run --asset embedding_evaluation --upstream"
    assert third[:8] in view["advice"][0]["why"] and "config.yaml" not in view["advice"][0]["why"]  # it is current
    text = page.get(f"/trainings?ids={first},{third}").text
    assert "ft run --asset embedding_evaluation --upstream" in text and "adapter_evaluation" not in text


def test_a_training_that_is_not_current_has_to_become_it(page: TestClient, project: Project, encoders: Encoders):
    project.store.point(encoders.first)
    view = page.get(f"/trainings.json?ids={encoders.first.recipe_id},{encoders.third.recipe_id}").json()
    assert "give config.yaml the settings of this training" in view["advice"][0]["why"]


def test_trainings_that_nothing_can_compare_get_no_command(page: TestClient, project: Project, encoders: Encoders):
    adapter = build_adapters(project.state).first.recipe_id
    view = page.get(f"/trainings.json?ids={encoders.first.recipe_id},{adapter}").json()
    assert [(one["why"][:22], one["command"]) for one in view["advice"]] == [("They do different work", "")]
    stopped = run_folder(project.state).name
    view = page.get(f"/trainings.json?ids={adapter},{stopped}").json()
    assert ["has not reached its last step" in one["why"] for one in view["advice"]] == [True]


def test_evaluations_that_agree_are_taken_and_others_are_named(project: Project, encoders: Encoders):
    sides = ("one", encoders.first), ("two", encoders.second)
    evaluate_encoder(project.store, encoders.second, encoders.splits, 0.2, fusion={"dense_weight": 3})
    alike = compare_encoders(project.store, *sides)
    assert alike and alike.note == "" and alike.scores[0].difference.low > 0
    evaluate_encoder(project.store, encoders.third, encoders.splits, 0.2, fusion={"dense_weight": 3})
    other = compare_encoders(project.store, sides[0], ("three", encoders.third))
    assert other and "fusion.dense_weight" in other.note


def test_two_releases_of_a_collection_are_compared_by_two_metrics(page: TestClient, project: Project):
    old, new = (
        release_collection(
            project.state, RetrievalEvaluationSummary(questions=40, unresolved=0, collection=name, live=""), fused
        ).version
        for name, fused in (("c1", 0.5), ("c2", 0.6))
    )
    link = f"/releases/collection/compare?before={old}&after={new}"
    found = page.get(link.replace("?", ".json?")).json()["retrieval"]
    assert [score["title"] for score in found["scores"]] == ["nDCG@10", "Recall@10"]
    assert len(found["won"]) == 40 and found["lost"] == []
    assert f"{new} is better than {old}: +0.100 Recall@10" in page.get(link).text


def test_figures_have_four_digits_on_the_page_and_all_in_the_twin(page: TestClient, encoders: Encoders):
    link = f"/trainings/embedding_model/{encoders.second.recipe_id}"
    assert page.get(f"{link}.json").json()["figures"]["best_ndcg_at_10"] == "0.5674956728017624"
    text = page.get(link).text
    assert "<dt>best_ndcg_at_10</dt><dd>0.5675</dd>" in text and "0.567495" not in text and "0.1234567" not in text


def test_a_file_of_two_encoders_has_no_links(project: Project, encoders: Encoders):
    text = export_comparison(project, encoders.first.recipe_id[:8], encoders.second.recipe_id[:8])
    assert "is better than" in text and "<a " not in text and HOSTILE not in text
