"""Sees what a person edits while the daemon runs: config.yaml and the source files. Requests; never computes.

What it finds becomes a version (a settings run, an observation); what follows from a version is automation.py's.
"""

# the signature of dg.sensor is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec

from expectations.canonical import digest, file_digest
from expectations.violations import Refused, Violation
from ft_assets.config.load import accepted_settings
from ft_assets.config.model import SETTINGS_ASSETS, section_json
from ft_assets.corpus import assets as corpus
from ft_assets.datasets import assets as datasets
from ft_assets.graph.gates import Gate, Verdict, as_result
from ft_assets.graph.observe import FilesOf
from ft_assets.graph.source_files import file_inventory, inventory_version
from ft_assets.settings.assets import settings_recipe
from ft_assets.settings.checks import VALID, config_violations
from resources.dagster_resources import ArtifactsResource
from resources.files import file_stamp

INTERVAL = 5
SETTLED = 1.0  # seconds: a younger file may still be being written
SOURCES: Mapping[str, FilesOf] = {**corpus.SOURCES, **datasets.SOURCES}
WATCH_TAG = "ft/watch"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


def watch_settings(gates: Sequence[Gate]) -> dg.SensorDefinition:
    """The sensor on config.yaml. `gates`: all of them; those that did not judge what stands now are judged anew."""

    @dg.sensor(
        name="watch_settings",
        target=dg.AssetSelection.assets(*SETTINGS_ASSETS.values())
        | dg.AssetSelection.checks_for_assets(*(gate.asset for gate in gates)),
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="A changed section of config.yaml becomes a new version of its asset; a wrong file is refused.",
    )
    def sensor(context: dg.SensorEvaluationContext, artifacts: ArtifactsResource) -> dg.SensorResult:
        path = Path(artifacts.config_path)
        if _is_fresh([path]):
            return dg.SensorResult(skip_reason=f"{path} was written a moment ago", cursor=context.cursor)
        violations = config_violations(path)
        said = digest([str(violation) for violation in violations])
        # said once on the pages of the settings assets, and at every look in the sensor's own history
        events = _verdicts(violations) if said != (context.cursor or digest([])) else []
        if violations:
            text = "; ".join(violation.message for violation in violations)
            reason = f"{path} cannot be used, the last settings that were right stay: {text}"
            return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=said)
        settings = accepted_settings(path, artifacts.state())
        store = artifacts.store()
        wanted = {name: settings_recipe(name, section_json(settings, s)).id for s, name in SETTINGS_ASSETS.items()}
        now = {name: found.recipe_id for name in wanted if (found := store.current(name))}
        changed = sorted(name for name in wanted if wanted[name] != now.get(name))
        if not changed:
            overdue = _overdue(context.instance, gates)
            if not overdue:
                return dg.SensorResult(skip_reason="config.yaml says what it said", asset_events=events, cursor=said)
            request = dg.RunRequest(
                run_key=digest(sorted((str(key), last) for key, last in overdue.items()))[:16],
                asset_selection=[],
                asset_check_keys=list(overdue),
                tags={WATCH_TAG: "checks"},
            )
            return dg.SensorResult(run_requests=[request], asset_events=events, cursor=said)
        if running := context.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={WATCH_TAG: "settings"})):
            reason = f"run {running[0].run_id} is taking up the change before"
            return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=said)
        request = dg.RunRequest(
            # one attempt for one edit: a run that failed is not tried again every few seconds
            run_key=digest([wanted, now, path.stat().st_mtime_ns])[:16],
            asset_selection=[dg.AssetKey(name) for name in changed],
            asset_check_keys=[
                dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name) for gate in gates if gate.asset in changed
            ],
            tags={WATCH_TAG: "settings"},
        )
        return dg.SensorResult(run_requests=[request], asset_events=events, cursor=said)

    return sensor


def _overdue(instance: dg.DagsterInstance, gates: Sequence[Gate]) -> dict[dg.AssetCheckKey, str]:
    """Checks that did not judge what stands now -> the run that judged last.

    Those that stop something, and those that read settings. Not while a run makes the asset: to Dagster the execution
    that was planned last is the check's state, and one that was planned after that run but judged what stood before
    would hold back what depends on it. Nor while a run judges the check already; nor a second time when nothing changed
    since it was judged from here and came to no verdict.
    """
    busy: set[dg.AssetKey | dg.AssetCheckKey] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if run.asset_selection is None:
            return {}
        busy |= run.asset_selection | (run.asset_check_selection or frozenset())
    records = instance.get_asset_records([dg.AssetKey(name) for gate in gates for name in (gate.asset, *gate.needs)])
    made = {r.asset_entry.asset_key.to_user_string(): r.asset_entry.last_materialization for r in records}
    found: dict[dg.AssetCheckKey, str] = {}
    for gate in gates:
        sections = set(gate.needs) & set(SETTINGS_ASSETS.values())
        asset = dg.AssetKey(gate.asset)
        key = dg.AssetCheckKey(asset, gate.name)
        standing = made.get(gate.asset)
        if standing is None or not (gate.blocking or sections) or asset in busy or key in busy:
            continue
        newest = max([standing.timestamp, *(event.timestamp for name in sections if (event := made.get(name)))])
        record = instance.get_latest_asset_check_evaluation_record(key)
        entry = record.event if record else None
        event = entry.dagster_event if entry else None
        if entry and event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            target = event.asset_check_evaluation_data.target_materialization_data
            if target and target.timestamp >= standing.timestamp and entry.timestamp >= newest:
                continue
        if record and entry and entry.timestamp >= newest and _asked_here(instance, record.run_id):
            continue  # it was planned, and came to no verdict
        found[key] = record.run_id if record else ""
    return found


def _asked_here(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.tags.get(WATCH_TAG) == "checks"


class _Seen(msgspec.Struct):
    """What was seen of one source: the files' sizes and times, and the version of their contents."""

    stamp: str = ""
    version: str = ""


class _Digests:
    """sha256 of files. One whose size and time are those of the look before is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def of(self, path: Path) -> str:
        stamp = file_stamp(path)  # before the reading: what is written meanwhile is read at the next look
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, file_digest(path))
        return known[1]


_digests = _Digests()


@dg.sensor(
    minimum_interval_seconds=INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Source files that changed are observed: their contents are the new version.",
)
def watch_sources(context: dg.SensorEvaluationContext, artifacts: ArtifactsResource) -> dg.SensorResult:
    seen = msgspec.json.decode(context.cursor, type=dict[str, _Seen]) if context.cursor else {}
    root = artifacts.project()
    settings = accepted_settings(Path(artifacts.config_path), artifacts.state())
    events: list[Any] = []
    refused: list[str] = []
    for name, files_of in SOURCES.items():
        before = seen.get(name, _Seen())
        try:
            files = files_of(settings, root)
            stamp = digest([[str(p), *file_stamp(p)] for p in _flat(files)])
        except (Refused, FileNotFoundError) as error:  # a glob that matches nothing, or a file gone under our eyes
            refused.append(str(error))
            continue
        if stamp == before.stamp or _is_fresh(_flat(files)):
            continue
        version = inventory_version(file_inventory(files, root, _digests.of))
        if version != before.version:
            tags = {"dagster/data_version": version}
            events.append(dg.AssetObservation(name, metadata={"files": len(files)}, tags=tags))
        seen[name] = _Seen(stamp, version)
    found = "; ".join(refused) or ("observed" if events else "no source file changed")
    return dg.SensorResult(skip_reason=found, asset_events=events, cursor=msgspec.json.encode(seen).decode())


def _verdicts(violations: list[Violation]) -> list[dg.AssetCheckEvaluation]:
    result = as_result(Verdict(violations))
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(name), check_name=VALID, passed=result.passed, severity=result.severity,
            description=result.description, metadata=result.metadata,
        )
        for name in SETTINGS_ASSETS.values()
    ]  # fmt: skip


def _flat(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]


def _is_fresh(paths: Sequence[Path]) -> bool:
    now = time.time()  # a time well in the future (another clock, an archive) says nothing about who writes
    return any(path.is_file() and abs(now - path.stat().st_mtime) < SETTLED for path in paths)
