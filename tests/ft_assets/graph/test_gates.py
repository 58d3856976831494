"""A toy graph: one asset made of a file, one blocking gate on it, one consumer that guards itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from expectations.violations import Refused, Violation
from ft_assets.graph.gates import Evidence, Gate, Verdict, as_metadata, build_checks, enforce
from ft_assets.graph.produce import produce
from resources.artifacts import Recipe, Staging
from resources.dagster_resources import ArtifactsResource, QdrantResource

LIMIT = 10
computed: list[str] = []


def _number_is_small(evidence: Evidence) -> Verdict:
    """The number stays below the limit."""
    number = evidence.store.require("number").json("number.json")
    violations = [
        Violation(
            code="FT-TOY-001",
            where="number",
            message="too large.",
            field="number",
            found=number,
            expected=f"< {LIMIT}",
            fix="write a smaller one",
        )
    ]
    return Verdict(violations if number >= LIMIT else [], {"number": number})


GATES = [Gate("number", "number_is_small", _number_is_small)]


def _evidence(artifacts: ArtifactsResource, qdrant: QdrantResource) -> Evidence:
    return Evidence(artifacts.store(), artifacts.releases(), qdrant.engine())


@dg.asset
def number(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    value = (Path(artifacts.config_path).parent / "number.txt").read_text()

    def compute(staging: Staging) -> dict[str, Any]:
        computed.append("number")
        (staging.path / "number.json").write_text(value)
        return {"value": int(value)}

    return produce(artifacts, Recipe("number", "1", {"value": value}), compute=compute)


@dg.asset(deps=["number"])
def consumer(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    enforce("consumer", _evidence(artifacts, qdrant), GATES, assets=["number"])

    def compute(staging: Staging) -> dict[str, Any]:
        computed.append("consumer")
        (staging.path / "copy.json").write_text(str(artifacts.store().require("number").json("number.json")))
        return {}

    inputs = {"number": artifacts.store().require("number").data_version}
    return produce(artifacts, Recipe("consumer", "1", inputs=inputs), compute=compute)


@pytest.fixture
def run(tmp_path: Path):
    computed.clear()
    resources = {
        "artifacts": ArtifactsResource(state_dir=str(tmp_path / "state"), config_path=str(tmp_path / "config.yaml")),
        "qdrant": QdrantResource(state_dir=str(tmp_path / "state")),
    }

    def run(value: int, *assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
        (tmp_path / "number.txt").write_text(str(value))
        checks = build_checks(GATES) if number in assets else []
        return dg.materialize([*assets, *checks], resources=resources, raise_on_error=False)

    return run


def test_a_passing_gate_lets_the_consumer_run_and_shows_its_figures(run: Any):
    result = run(3, number, consumer)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed and evaluation.metadata["number"].value == 3
    assert computed == ["number", "consumer"]


def test_the_same_recipe_computes_nothing_and_is_marked_as_reused(run: Any):
    first, second = run(3, number, consumer), run(3, number, consumer)
    assert computed == ["number", "consumer"]
    made = [r.asset_materializations_for_node("number")[0] for r in (first, second)]
    assert [m.metadata["reused"].value for m in made] == [False, True]
    assert made[0].tags["dagster/data_version"] == made[1].tags["dagster/data_version"]


def test_a_failing_gate_stops_the_run_with_code_both_values_and_fix(run: Any):
    result = run(12, number, consumer)
    assert not result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    (row,) = evaluation.metadata["violations"].records
    assert (row.data["code"], row.data["found"], row.data["expected"]) == ("FT-TOY-001", "12", "< 10")
    assert computed == ["number"]


def test_a_later_manual_launch_of_the_consumer_alone_refuses_too(run: Any):
    run(12, number)
    result = run(12, consumer)
    assert not result.success
    error = result.get_step_failure_events()[0].step_failure_data.error
    assert "FT-TOY-001" in error.to_string() and "write a smaller one" in error.to_string()
    assert computed == ["number"]


def test_a_damaged_artifact_is_rebuilt_by_its_own_asset(run: Any, tmp_path: Path):
    run(3, number)
    (path,) = (tmp_path / "state/artifacts/number").glob("*/number.json")
    path.write_text("4")
    assert run(3, number).success
    assert computed == ["number", "number"]
    (path,) = (tmp_path / "state/artifacts/number").glob("*/number.json")
    assert path.read_text() == "3"


def test_missing_evidence_fails_the_gate_instead_of_passing_it(tmp_path: Path):
    artifacts = ArtifactsResource(state_dir=str(tmp_path), config_path=str(tmp_path / "config.yaml"))
    with pytest.raises(Refused, match=r"FT-ART-001.*ft run --asset number"):
        enforce("x", _evidence(artifacts, QdrantResource(state_dir=str(tmp_path))), GATES, assets=["number"])


def test_an_artifact_that_another_run_changed_meanwhile_is_refused(run: Any, tmp_path: Path):
    run(3, number)
    first = _artifacts(tmp_path).store().require("number")
    run(4, number)

    def _moves(evidence: Evidence) -> Verdict:
        """Pass, and meanwhile the asset is set back to its first version."""
        evidence.store.point(first)
        return Verdict()

    evidence = _evidence(_artifacts(tmp_path), QdrantResource(state_dir=str(tmp_path / "state")))
    gate = Gate("number", "moves", _moves)
    with pytest.raises(Refused, match=r"FT-LIN-002.*ft run --asset consumer"):
        enforce("consumer", evidence, [gate], assets=["number"])
    enforce("consumer", evidence, [gate], assets=["number"])


def _artifacts(tmp_path: Path) -> ArtifactsResource:
    return ArtifactsResource(state_dir=str(tmp_path / "state"), config_path=str(tmp_path / "config.yaml"))


def test_gates_of_an_asset_share_a_step_unless_they_wait_for_another_asset() -> None:
    def gate(name: str, *needs: str, blocking: bool = True) -> Gate:
        return Gate("number", name, lambda _: Verdict(), blocking, needs)

    again = dg.AutomationCondition.missing()
    gates = [
        gate("small"),
        gate("even", "corpus_settings"),
        gate("advised", blocking=False),
        gate("matches", "consumer"),
        gate("judged_again", "consumer", blocking=False),
    ]
    steps = [
        (check.node_def.name, sorted(spec.name for spec in check.check_specs), check.check_specs)
        for check in build_checks(gates, again)
    ]
    assert [(name, names) for name, names, _ in steps] == [
        ("number_gates", ["advised", "even", "small"]),
        ("number_gates_2", ["matches"]),
        ("number_gates_3", ["judged_again"]),
    ]
    assert [spec.automation_condition for _, _, specs in steps for spec in specs] == [None] * 4 + [again]


def test_figures_have_four_significant_digits() -> None:
    shown = as_metadata(
        {"share": 0.123456, "seconds": 12.34567, "bytes": 1234567.5, "rows": 123456, "nothing": math.nan}
    )
    values = {name: value.value for name, value in shown.items()}
    assert math.isnan(float(str(values.pop("nothing"))))
    assert values == {"share": 0.1235, "seconds": 12.35, "bytes": 1234567.5, "rows": 123456}
