"""One section of config.yaml, one asset. Its data version is the hash of what the section says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from expectations.canonical import digest
from ft_assets.config.from_artifact import SETTINGS_FILE
from ft_assets.config.load import load_settings
from ft_assets.config.model import SETTINGS_ASSETS, section_json
from ft_assets.graph.produce import produce
from resources.artifacts import Recipe, Staging, write_json
from resources.dagster_resources import ArtifactsResource

_VERSION = "1"


def _settings_asset(section: str, name: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        group_name="settings",
        kinds={"yaml"},
        owners=["team:ft-assets"],
        code_version=_VERSION,
        description=f"Section `{section}` of config.yaml after profile and environment, as this run read it.",
    )
    def asset(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
        values = section_json(load_settings(Path(artifacts.config_path)), section)

        def compute(staging: Staging) -> dict[str, Any]:
            write_json(staging.path / SETTINGS_FILE, values)
            return {"sha256": digest(values)}

        metadata = {"settings": values}
        return produce(artifacts, settings_recipe(name, values), compute=compute, metadata=lambda _: metadata)

    return asset


def settings_recipe(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe of the settings asset `name` for what its section says."""
    return Recipe(asset=name, code_version=_VERSION, settings=values)


ASSETS = [_settings_asset(section, name) for section, name in SETTINGS_ASSETS.items()]
