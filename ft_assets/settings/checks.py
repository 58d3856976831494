"""The gates on settings: what the graph stands on can be read, and so can config.yaml as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expectations.rules.training import check_learning_rate
from expectations.violations import Violation
from ft_assets.config.from_artifact import SETTINGS_FILE
from ft_assets.config.load import SettingsError, load_settings
from ft_assets.config.model import (
    SETTINGS_ASSETS,
    DpoSettings,
    Settings,
    SftSettings,
    TrainSettings,
)
from ft_assets.graph.gates import Evidence, Gate, Verdict


def _valid(section: str, asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        values = evidence.store.require(asset).json(SETTINGS_FILE)
        model: Any = Settings.model_fields[section].annotation
        model.model_validate(values)
        return Verdict(figures={"settings": values})

    rule.__doc__ = f"Section `{section}` reads back as this release's typed settings."
    return Gate(asset, "settings_are_readable", rule)


def _usual_rate(section: str, asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        """`learning_rate` is of a size that `method` is trained with (not blocking)."""
        values = evidence.store.require(asset).json(SETTINGS_FILE)
        model: type[TrainSettings] = {"sft": SftSettings, "dpo": DpoSettings}[section]
        settings = model.model_validate(values)
        figures: dict[str, Any] = {"method": settings.method, "learning_rate": settings.learning_rate}
        return Verdict(check_learning_rate(**figures, usual_full=settings.usual_full_rate, where=section), figures)

    return Gate(asset, "learning_rate_is_usual", rule, blocking=False)


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
                fix="correct it; until then the last settings that were right stay",
            )
            for text in error.errors
        ]  # fmt: skip
    return []


VALID = "config_is_valid"
GATES = [
    *(_valid(section, asset) for section, asset in SETTINGS_ASSETS.items()),
    *(_usual_rate(section, SETTINGS_ASSETS[section]) for section in ("sft", "dpo")),
    # a typing error must not hold back what goes on with the last settings that were right
    *(Gate(asset, VALID, config_is_valid, blocking=False) for asset in SETTINGS_ASSETS.values()),
]
