"""The gates on settings: the settings artifacts can be read, and so can config.yaml as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expectations.rules.training import check_learning_rate
from expectations.violations import Violation, violation
from ft_assets.config.from_artifact import SETTINGS_FILE
from ft_assets.config.load import Fault, SettingsError, load_settings
from ft_assets.config.model import SETTINGS_ASSETS, DpoSettings, SftSettings, TrainSettings, section_model
from ft_assets.graph.gates import Evidence, Gate, Verdict


def _valid(section: str, asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        values = evidence.store.require(asset).json(SETTINGS_FILE)
        section_model(section).model_validate(values)
        return Verdict(figures={"settings": values})

    rule.__doc__ = f"Section `{section}` is valid for the settings of this version of ft-assets."
    return Gate(asset, "settings_are_readable", rule)


def _usual_rate(section: str, asset: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        """`learning_rate` has a usual size for `method` (not blocking)."""
        values = evidence.store.require(asset).json(SETTINGS_FILE)
        model: type[TrainSettings] = {"sft": SftSettings, "dpo": DpoSettings}[section]
        settings = model.model_validate(values)
        figures: dict[str, Any] = {"method": settings.method, "learning_rate": settings.learning_rate}
        return Verdict(check_learning_rate(**figures, usual_full=settings.usual_full_rate, where=section), figures)

    return Gate(asset, "learning_rate_is_usual", rule, blocking=False)


def config_is_valid(evidence: Evidence) -> Verdict:
    """config.yaml is valid now; while it is not, the last valid values of this section stay in use."""
    return Verdict(config_violations(evidence.config) if evidence.config else [])


def config_violations(path: Path) -> list[Violation]:
    """Return every error of config.yaml, profile and environment (FT-CFG-001)."""
    try:
        load_settings(path)
    except SettingsError as error:
        return [_as_violation(path, fault) for fault in error.errors]
    return []


def _as_violation(path: Path, fault: Fault) -> Violation:
    return violation(
        "FT-CFG-001",
        where=str(path),
        message=fault.reason,
        field=fault.key,
        found=fault.found,
        expected=fault.expected,
    )


VALID = "config_is_valid"
GATES = [
    *(_valid(section, asset) for section, asset in SETTINGS_ASSETS.items()),
    *(_usual_rate(section, SETTINGS_ASSETS[section]) for section in ("sft", "dpo")),
    # a typing error must not stop assets that can use the last valid settings
    *(Gate(asset, VALID, config_is_valid, blocking=False) for asset in SETTINGS_ASSETS.values()),
]
