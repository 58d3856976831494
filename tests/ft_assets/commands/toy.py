"""A toy graph with all that a command handles: a source, settings, artifacts, gates of both kinds, a guard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from expectations.canonical import file_digest
from expectations.violations import Violation
from ft_assets.graph.gates import Evidence, Gate, Verdict, build_checks, enforce
from ft_assets.graph.produce import produce
from resources import telemetry
from resources.artifacts import Recipe, Staging
from resources.dagster_resources import ArtifactsResource, QdrantResource


def _violation(asset: str, found: float, expected: str) -> Violation:
    return Violation(
        code="FT-TOY-001",
        where=asset,
        message="the figure is out of bounds.",
        field="figure",
        found=found,
        expected=expected,
        fix="write smaller numbers into numbers.json",
    )


def _numbers_are_small(evidence: Evidence) -> Verdict:
    """Every number stays below the limit of the settings."""
    store = evidence.store
    limit = store.require("limit_settings").json("settings.json")["limit"]
    largest = max(store.require("numbers").json("numbers.json"))
    return Verdict([_violation("numbers", largest, f"< {limit}")] if largest >= limit else [], {"largest": largest})


def _total_is_even(evidence: Evidence) -> Verdict:
    """The total is even (not blocking)."""
    total = evidence.store.require("total").json("total.json")
    return Verdict([_violation("total", total, "even")] if total % 2 else [], {"total": total})


SMALL = Gate("numbers", "numbers_are_small", _numbers_are_small)
EVEN = Gate("total", "total_is_even", _total_is_even, blocking=False)
GATES = (SMALL, EVEN)


@dg.observable_source_asset(group_name="sources")
def numbers_file(artifacts: ArtifactsResource) -> dg.DataVersion:
    return dg.DataVersion(file_digest(artifacts.project() / "numbers.json"))


@dg.asset(group_name="settings", code_version="1")
def limit_settings(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    values = json.loads((artifacts.project() / "limit.json").read_text("utf-8"))

    def compute(staging: Staging) -> dict[str, Any]:
        (staging.path / "settings.json").write_text(json.dumps(values))
        return {}

    return produce(artifacts, Recipe("limit_settings", "1", values), compute=compute)


@dg.asset(deps=[numbers_file, limit_settings], group_name="figures", code_version="1")
def numbers(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    text = (artifacts.project() / "numbers.json").read_text("utf-8")

    def compute(staging: Staging) -> dict[str, Any]:
        for step in (1, 2):
            telemetry.emit(
                telemetry.Progress(asset="numbers", kind="step", step=step, total=2, text="read · 0.1 s/step")
            )
        (staging.path / "numbers.json").write_text(text)
        return {"rows": len(json.loads(text))}

    return produce(artifacts, Recipe("numbers", "1", {"text": text}), compute=compute)


def _from_numbers(artifacts: ArtifactsResource, asset: str) -> Recipe:
    return Recipe(asset, "1", inputs={"numbers": artifacts.store().require("numbers").data_version})


@dg.asset(deps=[numbers, limit_settings], group_name="figures", code_version="1")
def total(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    evidence = Evidence(artifacts.store(), artifacts.releases(), qdrant.engine())
    enforce("total", evidence, GATES, assets=["numbers"])
    values = artifacts.store().require("numbers").json("numbers.json")
    if 0 in values:
        raise ZeroDivisionError("a zero among the numbers")

    def compute(staging: Staging) -> dict[str, Any]:
        (staging.path / "total.json").write_text(json.dumps(sum(values)))
        return {"total": sum(values)}

    return produce(artifacts, _from_numbers(artifacts, "total"), compute=compute)


@dg.asset(deps=[numbers], group_name="adapters", code_version="1")
def sft_adapter(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    def compute(staging: Staging) -> dict[str, Any]:
        (staging.path / "weights.json").write_text("[1]")
        return {"steps": 60}

    return produce(artifacts, _from_numbers(artifacts, "sft_adapter"), compute=compute)


@dg.asset(deps=[numbers], group_name="retrieval", code_version="1")
def passage_vectors(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    count = len(artifacts.store().require("numbers").json("numbers.json"))

    def compute(staging: Staging) -> dict[str, Any]:
        (staging.path / "vectors.json").write_text(json.dumps([1.0] * count))
        return {"encoded": count}

    return produce(artifacts, _from_numbers(artifacts, "passage_vectors"), compute=compute)


ASSETS = (numbers_file, limit_settings, numbers, total, sft_adapter, passage_vectors)


def build(folder: Path, *, gates: Sequence[Gate] = GATES, judged: Sequence[Gate] | None = None) -> dg.Definitions:
    """Return definitions on `folder` (numbers.json, limit.json, state/). `judged`: gates that the gate job runs."""
    config, state = str(folder / "config.yaml"), str(folder / "state")
    chosen = [dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name) for gate in (gates if judged is None else judged)]
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=build_checks(gates),
        jobs=[dg.define_asset_job("compat_gate", selection=dg.AssetSelection.checks(*chosen))],
        resources={
            "artifacts": ArtifactsResource(state_dir=state, config_path=config),
            "qdrant": QdrantResource(state_dir=state),
        },
        executor=dg.in_process_executor,
    )
