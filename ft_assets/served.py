"""The sensor that judges what serves, every few minutes, and reports on the pages of the released assets.

It compares a sample of the points, other ones every hour; `ft gate --served` and the checks compare all of them.
"""

# the signature of dg.sensor is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import dagster as dg
import msgspec

from expectations.canonical import digest
from ft_assets.adapters import checks as adapter_checks
from ft_assets.graph.gates import Evidence, Gate, Verdict, as_result, evidence_of, judge
from ft_assets.retrieval import served_checks
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.releases import ReleaseKind

INTERVAL = 300
_REPORT_AGAIN = 3600.0
_WAIT = 5.0  # seconds for the embedded engine: Dagster ends a look after a minute, and there is another one soon
RELEASED: dict[str, ReleaseKind] = {"released_adapter": "adapter", "released_collection": "collection"}
"""Asset of a release -> its kind."""
GATES: tuple[Gate, ...] = (*(gate for gate in adapter_checks.GATES if gate.asset in RELEASED), *served_checks.GATES)
"""The gates on what serves now."""


class _Report(msgspec.Struct):
    """The last report of a gate: its outcome, and the time in seconds."""

    outcome: str
    at: float


def watch_served(gates: Sequence[Gate]) -> list[dg.SensorDefinition]:
    """Return the sensor on those of `GATES` that are configured (none without one of them). `gates`: the configured."""
    configured = [gate for gate in GATES if gate in gates]
    if not configured:
        return []

    @dg.sensor(
        name="served_state",
        target=dg.AssetSelection.checks_for_assets(*dict.fromkeys(gate.asset for gate in configured)),
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Judges what serves now: alias, collection, record of releases, consumers. Reports every change, "
        "and once an hour that nothing changed.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, artifacts: ArtifactsResource, qdrant: QdrantResource
    ) -> dg.SensorResult:
        evidence = evidence_of(artifacts, qdrant)
        engine = replace(evidence.qdrant, lock_timeout=min(_WAIT, evidence.qdrant.lock_timeout))
        return _look(context, replace(evidence, qdrant=engine), configured)

    return [sensor]


def _look(context: dg.SensorEvaluationContext, evidence: Evidence, gates: Sequence[Gate]) -> dg.SensorResult:
    reports = msgspec.json.decode(context.cursor, type=dict[str, _Report]) if context.cursor else {}
    events: list[dg.AssetCheckEvaluation] = []
    failed: list[str] = []
    judged = 0
    for gate in gates:
        made = context.instance.get_latest_materialization_event(dg.AssetKey(gate.asset))
        if made is None and not evidence.releases.has_record(RELEASED[gate.asset]):
            continue  # nothing was released; a history that was moved away does not have the event
        judged += 1
        verdict = _judge(gate, evidence)
        if verdict is None:
            return dg.SensorResult(skip_reason="another process has the engine open", cursor=context.cursor)
        failed += [f"{gate.asset}.{gate.name}: {violation}" for violation in verdict.violations[:1]]
        outcome, name = (
            digest([made.timestamp if made else 0.0, *map(str, verdict.violations)]),
            f"{gate.asset}.{gate.name}",
        )
        last = reports.get(name)
        if last is None or last.outcome != outcome or time.time() - last.at > _REPORT_AGAIN:
            events.append(_evaluation(gate, verdict))
            reports[name] = _Report(outcome, time.time())
    served = "what serves is what was released" if judged else "nothing was released"
    reason = "; ".join(failed) or served
    return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=msgspec.json.encode(reports).decode())


def _judge(gate: Gate, evidence: Evidence) -> Verdict | None:
    """Return the verdict on a sample; None while another process has the embedded engine open."""
    if gate.rule is served_checks.release_serves:
        gate = replace(gate, rule=partial(served_checks.judge_served, quick=True))
    verdict = judge(gate, evidence)
    locked = any(violation.code == "FT-QDR-001" for violation in verdict.violations)
    return None if locked else verdict


def _evaluation(gate: Gate, verdict: Verdict) -> dg.AssetCheckEvaluation:
    result = as_result(verdict)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(gate.asset),
        check_name=gate.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        blocking=gate.blocking,
    )
