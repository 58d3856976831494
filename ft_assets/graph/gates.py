"""A gate: one rule, three callers. The asset check shows it, the consumer's guard enforces it, `ft gate` runs it in CI.

A blocking check stops only its own run in Dagster; a later manual launch would run past it. So every consumer calls
`enforce` with the gates of what it consumes, and refuses on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from expectations.rules.lineage import made_from_current
from expectations.violations import Refused, Violation
from ft_assets.config.model import SETTINGS_ASSETS
from resources import telemetry
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Releases


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at."""

    store: ArtifactStore
    releases: Releases
    qdrant: QdrantEngine
    config: Path | None = None
    """config.yaml, for the one rule that judges the file itself."""
    held: Callable[[], VectorClient] | None = None
    """The engine, where it stays open for several rules."""

    @contextmanager
    def collections(self) -> Generator[VectorClient]:
        """The engine's collections: those held open, or else opened for this once."""
        if self.held:
            yield self.held()
            return
        with self.qdrant.open() as client:
            yield client

    @contextmanager
    def holding(self) -> Generator[Evidence]:
        """This evidence for several rules in a row: the first that needs the engine opens it, leaving closes it."""
        with ExitStack() as opened:
            yield replace(self, held=cache(lambda: opened.enter_context(self.qdrant.open())))


def evidence_of(artifacts: ArtifactsResource, qdrant: QdrantResource) -> Evidence:
    """The evidence that a run's resources give."""
    return Evidence(artifacts.store(), artifacts.releases(), qdrant.engine(), Path(artifacts.config_path))


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


Condition = dg.AutomationCondition[Any]


def build_checks(gates: Sequence[Gate], again: Condition | None = None) -> list[dg.AssetChecksDefinition]:
    """The gates as Dagster asset checks. `again`: when one that stops nothing and reads other assets runs by itself."""
    watched = set(SETTINGS_ASSETS.values())  # what needs no more than these is judged with them
    alone = {id(gate) for gate in gates if not gate.blocking and set(gate.needs) - watched}
    return [_build_check(gate, again if id(gate) in alone else None) for gate in gates]


def judge(gate: Gate, evidence: Evidence) -> Verdict:
    """The rule's verdict. Missing or damaged evidence is a failed gate, never a passed or a crashed one."""
    try:
        return gate.rule(evidence)
    except Refused as refusal:
        return Verdict(refusal.violations)


def enforce(subject: str, evidence: Evidence, *rooms: Sequence[Gate], assets: Sequence[str]) -> None:
    """Refuse (raises Refused) unless every blocking gate on `assets` holds right now, and all judged the same artifacts
    (FT-LIN-002: a run beside this one moved one of them meanwhile)."""
    wanted = [gate for room in rooms for gate in room if gate.blocking and gate.asset in assets]
    before = _standing(evidence.store, assets)
    with evidence.holding() as held:
        violations = [violation for gate in wanted for violation in judge(gate, held).violations]
    violations = violations or [
        Violation(
            code="FT-LIN-002", where=asset, message="another run made it again while it was judged.", field="recipe",
            found=recipe, expected=before[asset], fix=f"ft run --asset {subject}",
        )
        for asset, recipe in _standing(evidence.store, assets).items() if recipe != before[asset]
    ]  # fmt: skip
    if violations:
        raise Refused(subject, violations)


def _standing(store: ArtifactStore, assets: Sequence[str]) -> dict[str, str | None]:
    return {asset: found.recipe_id if (found := store.current(asset)) else None for asset in assets}


def _build_check(gate: Gate, again: Condition | None) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=gate.asset,
        name=gate.name,
        description=gate.description,
        blocking=gate.blocking,
        additional_deps=gate.needs or None,
        automation_condition=again,
    )
    def check(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.AssetCheckResult:
        verdict = judge(gate, evidence_of(artifacts, qdrant))
        passed = not verdict.violations
        telemetry.emit(
            telemetry.Progress(
                asset=gate.asset, kind="check", step=int(passed), text="; ".join(map(str, verdict.violations[:3]))
            )
        )
        return as_result(verdict)

    return check


def as_result(verdict: Verdict) -> dg.AssetCheckResult:
    """The verdict as Dagster shows it: every broken rule a row of a table."""
    return dg.AssetCheckResult(
        passed=not verdict.violations,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(verdict.violations)} broken rules" if verdict.violations else "holds",
        metadata={**as_metadata(verdict.figures), **_violation_table(verdict.violations)},
    )


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
                "found": str(v.found), "expected": str(v.expected), "fix": v.fix,
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


# Trainings are made when they are asked for, and the ledger is only ever added to: what those were made from may be
# older than what stands now. Only a model that goes on from another must go on from the current one.
_MAY_LAG = {"embedding_model", "sft_adapter", "dpo_adapter", "split_ledger"}


def lineage_gate(asset: str) -> Gate:
    """The gate on the last asset before a release: nothing on its way was overtaken by a change and forgotten."""

    def rule(evidence: Evidence) -> Verdict:
        """Every artifact that this one rests on was made from the versions of its inputs that stand now."""
        violations: list[Violation] = []
        seen: set[str] = set()
        lagging: list[str] = []
        todo = [asset]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            recipe = evidence.store.require(name).manifest.recipe
            # sources have no artifact: their own consumers look at the files
            now = {key: found.data_version for key in recipe.inputs if (found := evidence.store.current(key))}
            broken = made_from_current(name, recipe.inputs, now)
            if name in _MAY_LAG:
                now = {key: version for key, version in now.items() if key in _MAY_LAG - {name}}
                judged = made_from_current(name, recipe.inputs, now)
                lagging += [f"{name}: {v.field}" for v in broken if v not in judged]
                broken = judged
            violations += broken
            todo += now
        return Verdict(violations, {"artifacts": len(seen), "lagging": ", ".join(sorted(lagging)) or "none"})

    return Gate(asset, "lineage_in_sync", rule)
