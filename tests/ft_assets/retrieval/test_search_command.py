"""`ft search` passes its options on: an arm, the terms of the lexical score, conditions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from expectations.violations import Refused
from ft_assets.commands.search import command
from ft_assets.retrieval.search import Retriever
from tests.ft_assets.retrieval.conftest import Graph

pytestmark = pytest.mark.slow
QUESTION = "Which federal standard number did NIST give to AES?"
Search = Callable[..., dict[str, Any]]


@pytest.fixture
def search(released: Graph, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.setenv("FT_CONFIG", str(released.root / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(released.root / "state"))

    def call(*options: str) -> dict[str, Any]:
        result = CliRunner().invoke(command, [QUESTION, "--json", *options])
        if result.exception:
            raise result.exception
        return json.loads(result.output)

    return call


@pytest.mark.parametrize(
    ("arm", "named", "figure"), [("dense", "dense", "dense"), ("sparse", "lexical", "sparse"), ("fused", "", "score")]
)
def test_each_arm_ranks_by_its_own_score(released: Graph, search: Search, arm: Any, named: str, figure: str) -> None:
    hits = search("-k", "6", *(["--arm", named] if named else []))["hits"]
    scores = [hit[figure] for hit in hits]
    assert len(hits) == 6 and scores == sorted(scores, reverse=True)
    artifacts = released.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), released.qdrant.engine()) as retriever:
        found = retriever.answer([QUESTION], 6, (), arm=arm)[0].hits
    assert [hit["passage_id"] for hit in hits] == [hit.passage_id for hit in found]


def test_the_terms_add_up_to_the_lexical_score(search: Search) -> None:
    assert "terms" not in search()["hits"][0]
    for hit in search("--explain")["hits"]:
        assert sum(term["contribution"] for term in hit["terms"]) == pytest.approx(hit["sparse"], abs=1e-3)


def test_a_condition_on_a_field_that_there_is_not_is_refused(search: Search) -> None:
    with pytest.raises(Refused, match=r"FT-RET-009.*tenant"):
        search("--where", "tenant=north")
