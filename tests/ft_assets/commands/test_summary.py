"""`ft summary` shows retrieval with BM25, in pairs, and what to do next."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_assets.commands.summary import command
from ft_assets.embedding.scores import BM25, SCORES_FILE, Scores, score_arms, summarise, write_scores
from resources.artifacts import ArtifactStore, Recipe
from resources.releases import Releases

QUESTIONS = 40


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text("{}")
    monkeypatch.setenv("FT_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "state"


def ranked(*places: int) -> list[list[str]]:
    """Return rankings of each question in which the right passage has a place (taken in turn; 0: it is missing)."""
    found = (places[n % len(places)] for n in range(QUESTIONS))
    return [[f"wrong {n}" for n in range(1, place)] + ["right"] * (place > 0) for place in found]


def publish(state: Path, scores: Scores) -> None:
    store = ArtifactStore(state / "artifacts")
    with store.stage(Recipe("embedding_evaluation", "1")) as staging:
        write_scores(staging.path / SCORES_FILE, [f"q{n}" for n in range(QUESTIONS)], scores)
        store.point(staging.publish(summarise(scores)))


def scores_of(system: str, **rankings: list[list[str]]) -> Scores:
    qrels = [{"right": 1}] * QUESTIONS
    documents = {name: name for ranking in rankings.values() for found in ranking for name in found}
    return score_arms(system, rankings, qrels, documents)


def rows(output: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a table by its first column."""
    lines = output.partition(title)[2].splitlines()[2:]
    table = [re.split(r"  +", line.strip()) for line in lines[: lines.index("")]]
    return {name: cells for name, *cells in table}


def test_every_arm_is_compared_in_pairs_with_itself_before_and_with_bm25(state: Path) -> None:
    scores = scores_of("base", dense=ranked(0, 3), sparse=ranked(1, 2), fused=ranked(1, 2))
    scores |= scores_of("trained", dense=ranked(2), sparse=ranked(1, 2), fused=ranked(1, 1, 1, 2))
    scores |= scores_of(BM25, sparse=ranked(1, 2))
    publish(state, scores)
    output = CliRunner().invoke(command).output
    for title in ("training, by passage", "training, by document"):
        table = rows(output, title)
        assert list(table) == ["BM25", "dense", "fused"], "the lexical arm is BM25 here"
        before, after, change, over_bm25, *_ = table["fused"]
        assert (before, after) == ("0.815", "0.908")
        assert change == over_bm25 and re.fullmatch(r"\+0\.092 \[\+0\.0\d+, \+0\.1\d+\]", change)
        assert table["dense"][2].startswith("+0.381 [+0.") and table["dense"][3].startswith("-0.185 [-0.")


def test_without_a_release_the_next_command_makes_one(state: Path) -> None:
    assert "Next: `ft run --all`" in CliRunner().invoke(command).output
    releases = Releases(state / "released")
    fusion = {"fusion": "weighted_sum", "dense_weight": 1.0, "sparse_weight": 1.0}
    releases.commit("collection", releases.plan_release("collection", {}, {"collection": "a", "fusion": fusion}))
    assert "`ft search TEXT`" in CliRunner().invoke(command).output
