"""A real training of the encoder on the page: while it runs, after it was killed, and after it was published."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from ft_assets.commands.project import Project
from ft_assets.embedding import train
from ft_assets.web.app import create_app
from resources.launcher import Job
from resources.telemetry import read_metrics
from tests.ft_assets.retrieval.conftest import Graph

pytestmark = pytest.mark.slow


class Killed(Exception):
    """Ends a training between two epochs."""


def test_an_encoder_is_running_then_stopped_then_finished(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    state = graph.root / "state"
    (folder,) = (state / "runs" / "embedding_model").iterdir()
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    job = msgspec.structs.replace(job, run_dir=str(folder), store=str(state / "artifacts"))
    published = graph.artifact("embedding_model")
    graph.artifacts.store().discard(published)
    page = TestClient(create_app(Project(config=graph.root / "config.yaml", state=state)))

    def shown() -> list[dict[str, Any]]:
        return page.get("/trainings.json").json()["trainings"]

    looks: list[dict[str, Any]] = []
    look = train._BetweenEpochs.look

    def look_and_ask(self: train._BetweenEpochs, *, ahead: bool) -> bool:
        looks.extend(shown())
        if len(looks) == 2:
            raise Killed
        return look(self, ahead=ahead)

    assert shown() == []  # it was published, and its artifact was removed
    with monkeypatch.context() as patch:
        patch.setattr(train._BetweenEpochs, "look", look_and_ask)
        with pytest.raises(Killed):
            train.main(job)
    assert [row["state"] for row in looks] == ["running", "running"]
    assert [row["live"]["can_stop"] for row in looks] == [False, False]  # it would lose what it has learned
    assert looks[1]["live"]["figures"].keys() >= {"tokens_per_second", "rss_gib", "loss"}
    (row,) = shown()
    assert row["state"] == "stopped"
    steps = next(step for step in page.get("/index.json").json()["next"] if step["title"].endswith(row["recipe"][:8]))
    assert steps["title"].startswith("Repeat") and steps["command"] == "ft run --asset embedding_model"

    again = train.main(job)
    assert again.data_version == published.data_version
    (row,) = shown()
    assert (row["state"], row["live"]) == ("finished", None)
    trained = [record for record in read_metrics(again.file("metrics.jsonl")) if record["phase"] == "train"]
    assert [record["step"] for record in trained] == list(range(1, len(trained) + 1))
    assert all(record["tokens_per_second"] > 0 and record["rss_gib"] > 0 for record in trained)
    graph.artifacts.store().discard(again)
    assert shown() == []
