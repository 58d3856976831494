"""A gate: one rule, three callers. The asset check shows it, the consumer's guard enforces it, `ft gate` runs it in CI.

A blocking check stops only its own run in Dagster; a later manual launch would run past it. So every consumer calls
`enforce` with the gates of what it consumes, and refuses on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from expectations.violations import Refused, Violation
from resources import telemetry
from resources.artifacts import ArtifactStore
from resources.dagster_faces import ArtifactsResource, QdrantResource
from resources.qdrant import QdrantEngine
from resources.releases import Releases


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at."""

    store: ArtifactStore
    releases: Releases
    qdrant: QdrantEngine


def evidence_of(artifacts: ArtifactsResource, qdrant: QdrantResource) -> Evidence:
    """The evidence that a run's resources give."""
    return Evidence(artifacts.store(), artifacts.releases(), qdrant.engine())


@dataclass(frozen=True)
class Verdict:
    """Broken rules (none means passed) and the figures they were judged by, shown on the check's page."""

    violations: list[Violation] = field(default_factory=list[Violation])
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Gate:
    """`rule` judges `asset`; a blocking gate stops whatever consumes it."""

    asset: str
    name: str
    rule: Callable[[Evidence], Verdict]
    blocking: bool = True
    needs: tuple[str, ...] = ()
    """Other assets the rule reads, which a run that makes both must make first."""

    @property
    def description(self) -> str:
        return " ".join((self.rule.__doc__ or self.name).split())


def build_checks(gates: Sequence[Gate]) -> list[dg.AssetChecksDefinition]:
    """The gates as Dagster asset checks."""
    return [_build_check(gate) for gate in gates]


def judge(gate: Gate, evidence: Evidence) -> Verdict:
    """The rule's verdict. Missing or damaged evidence is a failed gate, never a passed or a crashed one."""
    try:
        return gate.rule(evidence)
    except Refused as refusal:
        return Verdict(refusal.violations)


def enforce(subject: str, evidence: Evidence, *rooms: Sequence[Gate], assets: Sequence[str]) -> None:
    """Refuse (raises Refused) unless every blocking gate on `assets` holds right now."""
    wanted = [gate for room in rooms for gate in room if gate.blocking and gate.asset in assets]
    violations = [violation for gate in wanted for violation in judge(gate, evidence).violations]
    if violations:
        raise Refused(subject, violations)


def _build_check(gate: Gate) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=gate.asset,
        name=gate.name,
        description=gate.description,
        blocking=gate.blocking,
        additional_deps=gate.needs or None,
    )
    def check(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.AssetCheckResult:
        verdict = judge(gate, evidence_of(artifacts, qdrant))
        passed = not verdict.violations
        telemetry.emit(
            telemetry.Progress(
                asset=gate.asset, kind="check", step=int(passed), text="; ".join(map(str, verdict.violations[:3]))
            )
        )
        return dg.AssetCheckResult(
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"{len(verdict.violations)} broken rules" if verdict.violations else "holds",
            metadata={**as_metadata(verdict.figures), **_violation_table(verdict.violations)},
        )

    return check


def as_metadata(figures: Mapping[str, Any]) -> dict[str, dg.MetadataValue[Any]]:
    """Figures as typed metadata: numbers are plotted by the UI, Markdown and JSON are rendered, paths can be copied."""
    made: dict[str, dg.MetadataValue[Any]] = {}
    for name, value in figures.items():
        match value:
            case dg.MetadataValue():
                made[name] = value
            case bool():
                made[name] = dg.MetadataValue.bool(value)
            case int():
                made[name] = dg.MetadataValue.int(value)
            case float():
                made[name] = dg.MetadataValue.float(value)
            case Path():
                made[name] = dg.PathMetadataValue(value)
            case str() if value.startswith(("file://", "http://", "https://")):
                made[name] = dg.MetadataValue.url(value)
            case str() if value.startswith(("#", "|", "![")):
                made[name] = dg.MetadataValue.md(value)
            case str():
                made[name] = dg.MetadataValue.text(value)
            case _:
                made[name] = dg.MetadataValue.json(value)
    return made


def _violation_table(violations: Sequence[Violation]) -> dict[str, dg.MetadataValue[Any]]:
    if not violations:
        return {}
    rows = [
        dg.TableRecord(
            {
                "code": v.code, "where": v.where, "message": v.message, "field": v.field,
                "found": str(v.found), "expected": str(v.expected), "mend": v.mend,
            }
        )
        for v in violations[:50]
    ]  # fmt: skip
    return {"violations": dg.MetadataValue.table(rows), "violation_count": dg.MetadataValue.int(len(violations))}


def whole_gate(asset: str) -> Gate:
    """The gate that every artifact asset gets: what stands on disk is byte for byte what was published."""

    def rule(evidence: Evidence) -> Verdict:
        """Every file of the artifact is there and has the size and sha256 that its manifest records."""
        artifact = evidence.store.require(asset)
        files = artifact.manifest.files
        return Verdict(artifact.verify(), {"files": len(files), "bytes": sum(seal.size for seal in files.values())})

    return Gate(asset, "artifact_is_whole", rule)
