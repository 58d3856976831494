"""The page of all answers of an evaluation: marks, filters, passages, pages."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from ft_assets.commands.project import Project
from ft_assets.web import all_answers
from ft_assets.web.app import create_app
from tests.page_state import GOLDS, HOSTILE, IDS, QUESTIONS, build_adapters


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    root = tmp_path_factory.mktemp("answers")
    (root / "config.yaml").write_text("{}")
    project = Project(config=root / "config.yaml", state=root / "state")
    build_adapters(project.state)
    return TestClient(create_app(project))


def answers(page: TestClient, /, **query: str | int) -> dict[str, Any]:
    response = page.get("/answers/adapter_evaluation.json", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def records(view: dict[str, Any]) -> list[str]:
    return [question["record"] for question in view["questions"]]


def test_every_question_has_the_answer_of_each_model_with_its_mark(page: TestClient) -> None:
    view = answers(page)
    assert (view["models"], view["total"], view["asked"], view["pages"]) == (["base", "sft"], 4, 4, 1)
    assert records(view) == IDS and [question["gold"] for question in view["questions"]] == GOLDS
    for question in view["questions"]:
        base, sft = question["answers"]
        assert (base["model"], base["right"], sft["model"]) == ("base", False, "sft")
        assert sft["right"] == (sft["text"] == question["gold"]) == (sft["f1"] == 1.0)
        assert question["is_test"]
    assert any("GCM proves integrity" in one["text"] for q in view["questions"] for one in q["passages"])


def test_filters_keep_what_they_name(page: TestClient) -> None:
    right = records(answers(page, model="sft", mark="right"))
    wrong = records(answers(page, model="sft", mark="wrong"))
    assert right and wrong and [*right, *wrong] == IDS
    assert records(answers(page, model="base", mark="right")) == []
    assert records(answers(page, mark="wrong")) == IDS
    assert records(answers(page, q=QUESTIONS[2][:3])) == [IDS[2]]
    assert records(answers(page, q="SESSION key")) == [IDS[1]]
    assert records(answers(page, q="no such text")) == []


def test_pages_follow_each_other(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_answers, "PAGE_SIZE", 3)
    first, second, beyond = (answers(page, page=number) for number in (1, 2, 9))
    assert records(first) + records(second) == IDS and (first["pages"], second["page"]) == (2, 2)
    assert records(beyond) == []
    html = page.get("/answers/adapter_evaluation", params={"q": "", "page": 1}).text
    assert "Next ›" in html and "✗ not exact" in html and "✓ right" in html and HOSTILE not in html


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/answers/adapter_evaluation?model=dpo", "It asked base, sft"),
        ("/answers/passages", "asks no questions"),
        ("/answers/answer_evaluation", "answer_evaluation"),
        ("/answers/adapter_evaluation?recipe=0000", "0000"),
    ],
)
def test_what_there_is_not_is_not_found(page: TestClient, path: str, reason: str) -> None:
    response = page.get(path)
    assert response.status_code == 404 and reason in response.text


def test_the_reports_lead_to_all_answers(page: TestClient) -> None:
    assert 'href="/answers/adapter_evaluation"' in page.get("/reports").text
