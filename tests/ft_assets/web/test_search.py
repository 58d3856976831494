"""The search page on a small released collection: refusals in words, and answers of a model when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from ft_assets.cli import cli
from ft_assets.commands.project import Project
from ft_assets.web.app import create_app
from tests.ft_assets.adapters.tiny_llm import build_base
from tests.ft_assets.retrieval.conftest import Graph

pytestmark = pytest.mark.slow
QUESTION = "What does GCM authenticate?"


@pytest.fixture(scope="module")
def shown(released: Graph, tmp_path_factory: pytest.TempPathFactory) -> Project:
    graph = released.copy(tmp_path_factory.mktemp("search"))
    base = build_base(graph.root / "base", positions=4096)
    model = {"base_model": str(base)}
    graph.configure(sft=model, dpo=model, answers={"max_new_tokens": 4, "top_k": 2})
    return Project(config=graph.root / "config.yaml", state=graph.root / "state")


@pytest.fixture
def page(shown: Project) -> Generator[TestClient]:
    yield TestClient(create_app(shown))


def test_an_empty_question_is_refused_as_by_the_command(
    page: TestClient, shown: Project, monkeypatch: pytest.MonkeyPatch
):
    view = page.get("/search.json?q=%20").json()
    assert len(view["refusals"]) == 1 and view["rankings"] == []
    monkeypatch.setenv("FT_CONFIG", str(shown.config))
    monkeypatch.setenv("FT_STATE_DIR", str(shown.state))
    refused = CliRunner().invoke(cli, ["search", " "], prog_name="ft")
    assert refused.exit_code != 0
    assert "FT-RET-012" in view["refusals"][0] and "FT-RET-012" in f"{refused.output} {refused.exception}"
    assert "FT-RET-012" in page.get("/search?q=%20").text
    text = page.get("/search?q=").text
    assert "Type a question" in text and "FT-RET-012" not in text


@pytest.mark.parametrize("weights", ["dense=0&sparse=0", "dense=-1&sparse=0"])
def test_without_any_weight_there_is_no_ranking(page: TestClient, weights: str):
    shown = page.get(f"/search.json?q={QUESTION}&{weights}").json()
    assert shown["rankings"] == [] and "Both weights are 0" in shown["refusals"][0]
    assert "Both weights are 0" in page.get(f"/search?q={QUESTION}&{weights}").text
    assert page.get(f"/search.json?q={QUESTION}&dense=0&sparse=1").json()["rankings"]


def test_a_model_answers_when_it_is_asked_and_not_before(page: TestClient):
    link = f"/search?q={QUESTION}&k=3"
    asked = page.get(link).text
    assert "<h3>base</h3>" not in asked
    token = re.search(r'name="token" value="([^"]+)"', asked)
    assert token and "Ask base" in asked
    answer = page.post(link, data={"token": token[1]}, headers={"origin": "http://testserver"})
    assert answer.status_code == 200, answer.text
    assert "<h3>base</h3>" in answer.text and answer.text.count("data-id=") == 3
    assert page.post(link, data={"token": "x"}, headers={"origin": "http://testserver"}).status_code == 403
