"""The settings assets: one for each section of config.yaml. The data version is the hash of the section's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from expectations.canonical import digest
from expectations.violations import Refused, violation
from ft_assets.config.from_artifact import SETTINGS_FILE
from ft_assets.config.load import load_settings
from ft_assets.config.model import SETTINGS_ASSETS, sections_json
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.produce import produce
from resources.artifacts import Recipe, Staging, write_json
from resources.dagster_resources import ArtifactsResource


def _settings_spec(section: str, name: str) -> AssetSpec:
    return AssetSpec(
        name=name,
        group="settings",
        kinds={"yaml"},
        code_version="1",
        description=f"Section `{section}` of config.yaml after profile and environment, as this run read it.",
    )


_BY_SECTION = {section: _settings_spec(section, name) for section, name in SETTINGS_ASSETS.items()}
_BY_NAME = {spec.name: spec for spec in _BY_SECTION.values()}
SPECS = tuple(_BY_SECTION.values())


def _settings_asset(section: str, spec: AssetSpec) -> dg.AssetsDefinition:
    @spec.asset
    def asset(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
        sections = sections_json(load_settings(Path(artifacts.config_path)))
        if section not in sections:  # it was deleted after the graph was loaded
            raise Refused(spec.name, [violation("FT-CFG-002", where=artifacts.config_path, field=section)])
        values = sections[section]

        def compute(staging: Staging) -> dict[str, object]:
            write_json(staging.path / SETTINGS_FILE, values)
            return {"sha256": digest(values)}

        metadata = {"settings": values}
        return produce(artifacts, settings_recipe(spec.name, values), compute=compute, metadata=lambda _: metadata)

    return asset


def settings_recipe(name: str, values: dict[str, object]) -> Recipe:
    """Return the recipe of the settings asset `name` for the values of its section."""
    return _BY_NAME[name].recipe_from(values, {})


ASSETS = [_settings_asset(section, spec) for section, spec in _BY_SECTION.items()]
