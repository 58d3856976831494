"""The gates on settings: what the graph stands on can be read, and so can config.yaml as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expectations.violations import Violation
from ft_assets.gates import Evidence, Gate, Verdict
from ft_assets.settings.load import SettingsError, load_settings
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


def config_is_valid(evidence: Evidence) -> Verdict:
    """config.yaml can be used as it is now; while it cannot, this section stays at what it said last."""
    return Verdict(config_violations(evidence.config) if evidence.config else [])


def config_violations(path: Path) -> list[Violation]:
    """Every error of config.yaml, profile and environment (FT-CFG-001)."""
    try:
        load_settings(path)
    except SettingsError as error:
        return [
            Violation(
                code="FT-CFG-001", where=str(path), message=text,
                mend="correct it; until then the last settings that were right stay",
            )
            for text in error.errors
        ]  # fmt: skip
    return []


VALID = "config_is_valid"
GATES = [
    *(_valid(section, asset) for section, asset in SETTINGS_ASSETS.items()),
    # a typing error must not hold back what goes on with the last settings that were right
    *(Gate(asset, VALID, config_is_valid, blocking=False) for asset in SETTINGS_ASSETS.values()),
]
