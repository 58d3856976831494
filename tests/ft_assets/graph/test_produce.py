"""An artifact is what its recipe says that it was made from, also when another run makes an input meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from expectations.violations import Refused
from ft_assets.graph.produce import produce
from resources.artifacts import ArtifactStore, Recipe, Staging
from resources.dagster_resources import ArtifactsResource


def publish(store: ArtifactStore, text: str) -> None:
    """Make a new current version of `numbers`, as another run does."""
    with store.stage(Recipe(asset="numbers", code_version="1", settings={"text": text})) as staging:
        (staging.path / "numbers.txt").write_text(text)
        store.point(staging.publish())


def test_an_input_that_another_run_makes_meanwhile_is_not_taken_for_the_one_of_the_recipe(tmp_path: Path):
    artifacts = ArtifactsResource(state_dir=str(tmp_path), config_path=str(tmp_path / "config.yaml"))
    store = artifacts.store()
    publish(store, "1")
    others = ["2"]  # made by another run before the next reading

    def compute(staging: Staging) -> Mapping[str, object]:
        if others:
            publish(artifacts.store(), others.pop())
        (staging.path / "sum.txt").write_bytes(store.require("numbers").file("numbers.txt").read_bytes())
        return {}

    def make() -> None:
        inputs = {"numbers": store.require("numbers").data_version}
        produce(artifacts, Recipe(asset="sum", code_version="1", inputs=inputs), compute=compute)

    with pytest.raises(Refused, match=r"FT-LIN-002.*numbers.*ft run --asset sum"):
        make()
    assert store.current("sum") is None and store.versions("sum") == []
    make()
    made = store.require("sum")
    assert made.file("sum.txt").read_text() == "2"
    assert made.manifest.recipe.inputs == {"numbers": store.require("numbers").data_version}
