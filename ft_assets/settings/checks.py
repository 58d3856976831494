"""The gate on settings: what the graph stands on is what config.yaml says."""

from __future__ import annotations

from typing import Any

from ft_assets.gates import Evidence, Gate, Verdict
from ft_assets.settings.model import SETTINGS_ASSETS, Settings
from ft_assets.settings.read import SETTINGS_FILE


def _valid(section: str, asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        values = evidence.store.require(asset).json(SETTINGS_FILE)
        model: Any = Settings.model_fields[section].annotation
        model.model_validate(values)
        return Verdict(figures={"settings": values})

    rule.__doc__ = f"Section `{section}` reads back as this release's typed settings."
    return Gate(asset, "settings_are_readable", rule)


GATES = [_valid(section, asset) for section, asset in SETTINGS_ASSETS.items()]
