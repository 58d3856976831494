"""A gate: one rule with three callers: the asset check, the consumer's guard, and `ft gate` in CI.

In Dagster a blocking check stops only its own run; a later manual launch would ignore it. So every consumer calls
`enforce` with the gates of the assets it consumes.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import dagster as dg

from expectations.markdown import Markdown
from expectations.rules.lineage import made_from_current
from expectations.violations import Refused, Violation, violation
from ft_assets.config.model import SETTINGS_ASSETS
from ft_assets.graph.automation import BY_HAND
from resources import telemetry
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Releases

if TYPE_CHECKING:
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

CheckState = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Evidence:
    """All that a rule may read."""

    store: ArtifactStore
    releases: Releases
    qdrant: QdrantEngine
    config: Path | None = None
    """config.yaml, for the one rule that judges the file itself."""
    open_client: Callable[[], VectorClient] | None = None
    """Returns the engine's client that stays open for several rules."""

    @contextmanager
    def collections(self) -> Generator[VectorClient]:
        """Yield the engine's client: the one that stays open, or else one opened for this rule alone."""
        if self.open_client:
            yield self.open_client()
            return
        with self.qdrant.open() as client:
            yield client

    @contextmanager
    def holding(self) -> Generator[Evidence]:
        """Yield this evidence for several rules: the first that needs the engine opens it, leaving closes it."""
        with ExitStack() as stack:
            yield replace(self, open_client=cache(lambda: stack.enter_context(self.qdrant.open())))


def evidence_of(artifacts: ArtifactsResource, qdrant: QdrantResource) -> Evidence:
    """Return the evidence from the resources of a run."""
    return Evidence(artifacts.store(), artifacts.releases(), qdrant.engine(), Path(artifacts.config_path))


@dataclass(frozen=True)
class Verdict:
    """The violations (none means passed) and the figures shown on the page of the check."""

    violations: list[Violation] = field(default_factory=list[Violation])
    figures: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class Gate:
    """A rule on an asset. A blocking gate stops every asset that consumes it."""

    asset: str
    name: str
    rule: Callable[[Evidence], Verdict]
    blocking: bool = True
    needs: tuple[str, ...] = ()
    """Other assets that the rule reads. A run that makes them too makes them first."""

    @property
    def description(self) -> str:
        """The rule's docstring on one line, as Dagster shows it."""
        return " ".join((self.rule.__doc__ or self.name).split())


Condition = dg.AutomationCondition[Any]
MetadataValue = dg.MetadataValue[Any]
CRASHED = "crashed"
"""Metadata of a check whose rule raised an error: its traceback."""
_SETTINGS = frozenset(SETTINGS_ASSETS.values())
_SHOWN_VIOLATIONS = 50
_ROUNDED_BELOW = 1e4


def build_checks(gates: Sequence[Gate], again: Condition | None = None) -> list[dg.AssetChecksDefinition]:
    """Return the gates as Dagster asset checks.

    The gates of an asset share a step, because a step costs more than most rules. One that reads an asset which the
    others do not read has a step of its own: it must wait for that asset, and the others must not.

    `again`: the condition to run a check alone, for checks that do not block and read other assets than settings.
    """
    groups: dict[tuple[str, frozenset[str], bool], list[Gate]] = {}
    for gate in gates:
        key = gate.asset, frozenset(gate.needs) - _SETTINGS, _may_run_alone(gate)
        groups.setdefault(key, []).append(gate)
    numbers = Counter[str]()
    checks: list[dg.AssetChecksDefinition] = []
    for (asset, _, alone), group in groups.items():
        numbers[asset] += 1
        name = f"{asset}_gates" if numbers[asset] == 1 else f"{asset}_gates_{numbers[asset]}"
        checks.append(_build_checks(name, group, again if alone else None))
    return checks


def _may_run_alone(gate: Gate) -> bool:
    # a check that reads settings only is run again by the watcher
    return not gate.blocking and not _SETTINGS.issuperset(gate.needs)


def judge(gate: Gate, evidence: Evidence) -> Verdict:
    """Return the verdict of the rule. Missing or damaged evidence fails the gate; it never passes or crashes it."""
    try:
        return gate.rule(evidence)
    except Refused as refusal:
        return Verdict(refusal.violations)


def enforce(subject: str, evidence: Evidence, *gates: Sequence[Gate], assets: Sequence[str]) -> None:
    """Refuse (raises Refused) unless every blocking gate on `assets` passes now.

    All gates must judge the same artifacts: FT-LIN-002 if another run changed one of them meanwhile.
    """
    before = _current_recipes(evidence.store, assets)
    violations: list[Violation] = []
    with evidence.holding() as held:
        for gate in chain.from_iterable(gates):
            if gate.blocking and gate.asset in assets:
                violations += judge(gate, held).violations
    if not violations:
        violations = [
            violation(
                "FT-LIN-002",
                where=asset,
                field="recipe",
                found=recipe,
                expected=before[asset],
                fix=f"ft run --asset {subject}",
            )
            for asset, recipe in _current_recipes(evidence.store, assets).items()
            if recipe != before[asset]
        ]
    if violations:
        raise Refused(subject, violations)


def _current_recipes(store: ArtifactStore, assets: Sequence[str]) -> dict[str, str | None]:
    return {asset: artifact.recipe_id if (artifact := store.current(asset)) else None for asset in assets}


def _build_checks(name: str, gates: Sequence[Gate], again: Condition | None) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            gate.name,
            asset=gate.asset,
            description=gate.description,
            blocking=gate.blocking,
            additional_deps=gate.needs or None,
            automation_condition=again,
        )
        for gate in gates
    ]

    def checks(
        context: dg.AssetCheckExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {key.name for key in context.selected_asset_check_keys}
        with evidence_of(artifacts, qdrant).holding() as held:  # and closed before Dagster takes the results
            results = [_judge_and_report(gate, held) for gate in gates if gate.name in selected]
        yield from results

    checks.__annotations__["context"] = dg.AssetCheckExecutionContext  # Dagster reads no annotation that is text
    return dg.multi_asset_check(name=name, specs=specs, can_subset=True)(checks)


def _judge_and_report(gate: Gate, evidence: Evidence) -> dg.AssetCheckResult:
    """Return the result of a gate. A rule that raises has not passed, and the other rules are judged all the same."""
    try:
        verdict = judge(gate, evidence)
    except Exception as error:  # a rule may raise anything: its fault is its result
        result = _as_crash(error)
        problem = f"{type(error).__name__}: {error}"
    else:
        result = as_result(verdict)
        problem = "; ".join(map(str, verdict.violations[:3]))
    telemetry.emit(telemetry.Progress(asset=gate.asset, kind="check", step=int(result.passed), text=problem))
    return result._replace(asset_key=dg.AssetKey(gate.asset), check_name=gate.name)


def _as_crash(error: Exception) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"the rule could not judge: {type(error).__name__}: {error}",
        metadata={CRASHED: dg.MetadataValue.text("".join(traceback.format_exception(error)))},
    )


def as_result(verdict: Verdict) -> dg.AssetCheckResult:
    """Return the verdict as Dagster shows it: a table with a row for each violation."""
    return dg.AssetCheckResult(
        passed=not verdict.violations,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(verdict.violations)} violations" if verdict.violations else "passed",
        metadata={**as_metadata(verdict.figures), **violation_table(verdict.violations)},
    )


def as_metadata(figures: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Return figures as typed metadata: the UI plots numbers and renders Markdown and JSON; paths can be copied."""
    return {name: _metadata_value(value) for name, value in figures.items()}


def _metadata_value(value: object) -> MetadataValue:
    match value:
        case dg.MetadataValue():
            return value
        case bool() | int() | float():
            return _number_metadata(value)
        case Path():
            return dg.PathMetadataValue(value)
        case str():
            return _text_metadata(value)
        case _:
            return dg.MetadataValue.json(cast("Mapping[str, Any]", value))


def _number_metadata(value: float) -> MetadataValue:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    # four significant digits, as everywhere on the pages; the artifact has the figure as it was computed
    return dg.MetadataValue.float(float(f"{value:.4g}") if abs(value) < _ROUNDED_BELOW else value)


def _text_metadata(text: str) -> MetadataValue:
    if text.startswith(("file://", "http://", "https://")):
        return dg.MetadataValue.url(text)
    if isinstance(text, Markdown):
        return dg.MetadataValue.md(text)
    return dg.MetadataValue.text(text)


def violation_table(violations: Sequence[Violation]) -> dict[str, MetadataValue]:
    """Return the first violations as a table, and how many there are."""
    if not violations:
        return {}
    rows = [dg.TableRecord(_as_row(one)) for one in violations[:_SHOWN_VIOLATIONS]]
    return {"violations": dg.MetadataValue.table(rows), "violation_count": dg.MetadataValue.int(len(violations))}


def _as_row(broken_rule: Violation) -> dict[str, str]:
    return {
        "code": broken_rule.code,
        "where": broken_rule.where,
        "message": broken_rule.message,
        "field": broken_rule.field,
        "found": str(broken_rule.found),
        "expected": str(broken_rule.expected),
        "fix": broken_rule.fix,
    }


def check_state(record: AssetCheckExecutionRecord | None, made_at: float) -> CheckState:
    """Return the last result of a check on the version of its asset that was materialized at `made_at`."""
    entry = record.event if record else None
    event = entry.dagster_event if entry else None
    if entry is None or event is None or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return "not judged"  # it was planned, but crashed or never started
    evaluation = event.asset_check_evaluation_data
    target = evaluation.target_materialization_data
    # a result counts for the materialization that was judged, not for a later one; one without a target was reported by
    # a sensor, which judges the version of that moment
    judged_at = target.timestamp if target else entry.timestamp
    if judged_at < made_at:
        return "not judged"
    return "passed" if evaluation.passed else "failed"


def violations_of(evaluation: dg.AssetCheckEvaluation) -> list[str]:
    """Return the paragraphs of a failed check: one for each violation, or its description."""
    table = evaluation.metadata.get("violations")
    if not isinstance(table, dg.TableMetadataValue):
        return [evaluation.description or "the check did not pass"]
    return [_paragraph(record.data) for record in table.records]


def _paragraph(row: Mapping[str, object]) -> str:
    text = f"[{row['code']}] {row['where']}: {row['message']}"
    if row["field"]:
        text += f" ({row['field']}: found {row['found']}, expected {row['expected']})"
    return f"{text} Fix: {row['fix']}" if row["fix"] else text


def whole_gate(asset: str) -> Gate:
    """Return the gate of every artifact asset: its files on disk are byte for byte those that were published."""

    def rule(evidence: Evidence) -> Verdict:
        """Every file of the artifact is there and has the size and sha256 that its manifest records."""
        artifact = evidence.store.require(asset)
        files = artifact.manifest.files
        return Verdict(artifact.verify(), {"files": len(files), "bytes": sum(seal.size for seal in files.values())})

    return Gate(asset, "artifact_is_whole", rule)


# Trainings and questions to a model run only on request, and rows are only added to the ledger: their inputs may be
# older than the current ones. But a model that is trained from another model must be trained from the current one.
_MAY_LAG = BY_HAND | {"split_ledger"}
# Answers of an adapter that a setting names stay what they are when a later one is trained.
_MAY_KEEP_THEIR_MODEL = {"ddr_candidates"}


def lineage_gate(asset: str) -> Gate:
    """Return the gate on the last asset before a release: every artifact upstream was made from current inputs."""

    def rule(evidence: Evidence) -> Verdict:
        """This asset and every artifact upstream were made from the current versions of their inputs."""
        violations: list[Violation] = []
        lagging: list[str] = []
        visited: set[str] = set()
        queue = [asset]
        while queue:
            name = queue.pop()
            if name in visited:
                continue
            visited.add(name)
            recipe = evidence.store.require(name).manifest.recipe
            # sources have no artifact: the assets that read them compare the files
            current = {key: found.data_version for key in recipe.inputs if (found := evidence.store.current(key))}
            outdated = made_from_current(name, recipe.inputs, current)
            if name in _MAY_LAG:
                required = set[str]() if name in _MAY_KEEP_THEIR_MODEL else _MAY_LAG - {name}
                lagging += [f"{name}: {one.field}" for one in outdated if one.field not in required]
                outdated = [one for one in outdated if one.field in required]
                current = {key: version for key, version in current.items() if key in required}
            violations += outdated
            queue += current
        return Verdict(violations, {"artifacts": len(visited), "lagging": ", ".join(sorted(lagging)) or "none"})

    return Gate(asset, "lineage_in_sync", rule)
