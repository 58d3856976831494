"""The reports of a worker while it runs, on Dagster's pages."""

# dagster is partly untyped here
# pyright: basic
from __future__ import annotations

import base64
from pathlib import Path

import dagster as dg

from resources.dagster_resources import LauncherResource
from tests.resources.test_ray_launcher import run


def test_an_observation_has_the_losses_of_this_training_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for does in ("publish", "publish again"):
            run(LauncherResource(state_dir=str(tmp_path), kind="inline"), does, instance)
        records = instance.fetch_observations(dg.AssetKey("things"), limit=5).records
    seen = [record.asset_observation.metadata for record in records if record.asset_observation]
    assert [metadata["loss"].value for metadata in seen] == [0.5, 0.5]
    image = str(seen[0]["loss_curve"].value)
    svg = base64.b64decode(image.partition("base64,")[2].rstrip(")")).decode()
    assert svg.count("<circle") == 1
