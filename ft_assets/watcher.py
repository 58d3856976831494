"""The sensors that look for edits of config.yaml and of source files while the daemon runs. They compute nothing.

An edit becomes a new version (a settings run, an observation); automation.py requests what follows from a version.
"""

# the signature of dg.sensor is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import dagster as dg
import msgspec

from expectations.canonical import digest, file_digest
from expectations.violations import Refused, Violation
from ft_assets.config.load import accepted_settings
from ft_assets.config.model import SETTINGS_ASSETS, sections_json
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
SETTLED = 1.0  # seconds: a younger file may not be complete yet
SOURCES: Mapping[str, FilesOf] = {**corpus.SOURCES, **datasets.SOURCES}
WATCH_TAG = "ft/watch"
_OUTCOME = "outcome"  # the digest of the errors of config.yaml, with each report of them
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def watch_settings(gates: Sequence[Gate]) -> dg.SensorDefinition:
    """Return the sensor on config.yaml. `gates`: those of the graph; a check without a current result is run again."""
    judged = {gate.asset for gate in gates}
    watched = {section: name for section, name in SETTINGS_ASSETS.items() if name in judged}

    @dg.sensor(
        name="watch_settings",
        target=dg.AssetSelection.assets(*watched.values())
        | dg.AssetSelection.checks_for_assets(*(gate.asset for gate in gates)),
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="A changed section of config.yaml becomes a new version of its asset; an invalid file is refused.",
    )
    def sensor(context: dg.SensorEvaluationContext, artifacts: ArtifactsResource) -> dg.SensorResult:
        path = Path(artifacts.config_path)
        if _is_fresh([path]):
            return dg.SensorResult(skip_reason=f"{path} was written a moment ago")
        violations = config_violations(path)
        outcome = digest([str(violation) for violation in violations])
        # reported once on the pages of the settings assets, and at every look in the history of the sensor
        events = _verdicts(violations, watched.values(), outcome) if outcome != _reported(context, watched) else []
        if violations:
            for event in events:  # Dagster drops the events and the cursor of a look that fails
                context.instance.report_runless_asset_event(event)
            raise InvalidConfigurationError(_unusable(path, violations))
        request = _request(context.instance, artifacts, path, gates, watched)
        if isinstance(request, str):
            return dg.SensorResult(skip_reason=request, asset_events=events)
        return dg.SensorResult(run_requests=[request], asset_events=events)

    return sensor


class InvalidConfigurationError(Exception):
    """config.yaml cannot be used: the look at it fails, and the last valid settings stay in use."""


def _reported(context: dg.SensorEvaluationContext, watched: Mapping[str, str]) -> str:
    """Return the outcome of the last look that was reported; that of a valid file where none was."""
    key = dg.AssetCheckKey(dg.AssetKey(next(iter(watched.values()))), VALID)
    record = context.instance.get_latest_asset_check_evaluation_record(key)
    event = record.event.dagster_event if record and record.event else None
    if event is None or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        return digest([])
    outcome = event.asset_check_evaluation_data.metadata.get(_OUTCOME)
    return str(outcome.value) if outcome else digest([])


def _unusable(path: Path, violations: Sequence[Violation]) -> str:
    errors = "; ".join(violation.message for violation in violations)
    return f"{path} cannot be used; the last valid settings stay in use: {errors}"


def _request(
    instance: dg.DagsterInstance,
    artifacts: ArtifactsResource,
    path: Path,
    gates: Sequence[Gate],
    watched: Mapping[str, str],
) -> dg.RunRequest | str:
    """Return the run that a valid config.yaml makes necessary, or the reason why there is none."""
    sections = sections_json(accepted_settings(path, artifacts.state()))
    store = artifacts.store()
    wanted = {name: settings_recipe(name, sections[s]).id for s, name in watched.items() if s in sections}
    current = {name: artifact.recipe_id for name in wanted if (artifact := store.current(name))}
    changed = sorted(name for name in wanted if wanted[name] != current.get(name))
    if not changed:
        new = sorted(sections.keys() - watched.keys())
        if new:
            return f"config.yaml has {', '.join(new)} now: reload the definitions to take up the assets that need it"
        return _request_checks(instance, gates)
    if running := instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={WATCH_TAG: "settings"})):
        return f"run {running[0].run_id} is still handling the previous change"
    return dg.RunRequest(
        # one attempt for one edit: a run that failed is not tried again every few seconds
        run_key=digest([wanted, current, path.stat().st_mtime_ns])[:16],
        asset_selection=[dg.AssetKey(name) for name in changed],
        asset_check_keys=[_key_of(gate) for gate in gates if gate.asset in changed],
        tags={WATCH_TAG: "settings"},
    )


def _request_checks(instance: dg.DagsterInstance, gates: Sequence[Gate]) -> dg.RunRequest | str:
    overdue = _overdue(instance, gates)
    if not overdue:
        return "config.yaml is unchanged"
    return dg.RunRequest(
        run_key=digest(sorted((str(key), last) for key, last in overdue.items()))[:16],
        asset_selection=[],
        asset_check_keys=list(overdue),
        tags={WATCH_TAG: "checks"},
    )


def _overdue(instance: dg.DagsterInstance, gates: Sequence[Gate]) -> dict[dg.AssetCheckKey, str]:
    """Return the checks that did not judge the current version -> the run that judged last.

    Only blocking checks, and those that read settings. A check is left out while a run makes its asset: for Dagster
    the execution that was planned last is the state of the check, and one that was planned after that run but judged
    the version before would block what depends on it. It is also left out while a run judges it already, and if it was
    requested from here, gave no result, and nothing changed since.
    """
    busy = _busy_keys(instance)
    if busy is None:
        return {}
    updates = _updates(instance, gates)
    overdue: dict[dg.AssetCheckKey, str] = {}
    for gate in gates:
        sections = set(gate.needs) & set(SETTINGS_ASSETS.values())
        asset_update = updates.get(gate.asset)
        if asset_update is None or not (gate.blocking or sections):
            continue
        key = _key_of(gate)
        if key in busy or key.asset_key in busy:
            continue
        newest = max([asset_update, *(updates[name] for name in sections if name in updates)])
        record = instance.get_latest_asset_check_evaluation_record(key)
        if record is None or not _is_handled(instance, record.run_id, record.event, asset_update, newest):
            overdue[key] = record.run_id if record else ""
    return overdue


def _busy_keys(instance: dg.DagsterInstance) -> set[dg.AssetKey | dg.AssetCheckKey] | None:
    """Return the assets and checks of unfinished runs; None if one of them runs everything."""
    busy: set[dg.AssetKey | dg.AssetCheckKey] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if run.asset_selection is None:
            return None
        busy |= run.asset_selection | (run.asset_check_selection or frozenset())
    return busy


def _updates(instance: dg.DagsterInstance, gates: Sequence[Gate]) -> dict[str, float]:
    """Return the time of the last materialization of each asset that the gates judge or read."""
    names = dict.fromkeys(chain.from_iterable((gate.asset, *gate.needs) for gate in gates))
    updates: dict[str, float] = {}
    for record in instance.get_asset_records([dg.AssetKey(name) for name in names]):
        if event := record.asset_entry.last_materialization:
            updates[record.asset_entry.asset_key.to_user_string()] = event.timestamp
    return updates


def _is_handled(
    instance: dg.DagsterInstance, run_id: str, entry: dg.EventLogEntry | None, asset_update: float, newest: float
) -> bool:
    """Return whether the check judged the current version after its settings changed, or failed to when requested here.

    `asset_update`: time of the current version; `newest`: the same, or the time of a later change of its settings.
    """
    if entry is None or entry.timestamp < newest:
        return False
    event = entry.dagster_event
    if event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        target = event.asset_check_evaluation_data.target_materialization_data
        # a result without a target was reported by a sensor, which judges the version of that moment
        if target is None or target.timestamp >= asset_update:
            return True
    return _was_requested_here(instance, run_id)  # it was planned, and gave no result


def _was_requested_here(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.tags.get(WATCH_TAG) == "checks"


def _key_of(gate: Gate) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name)


class _Seen(msgspec.Struct):
    """The last look at one source: the sizes and times of its files, and the version of their contents."""

    stamp: str = ""
    version: str = ""


class _Digests:
    """sha256 of files. A file whose size and time are the same as at the last look is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def of(self, path: Path) -> str:
        """Return the sha256 of a file."""
        stamp = file_stamp(path)  # before reading: a change during the reading is seen at the next look
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, file_digest(path))
        return known[1]


_digests = _Digests()


@dg.sensor(
    minimum_interval_seconds=INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes source files that changed: the hash of their contents is the new version.",
)
def watch_sources(context: dg.SensorEvaluationContext, artifacts: ArtifactsResource) -> dg.SensorResult:
    seen = msgspec.json.decode(context.cursor, type=dict[str, _Seen]) if context.cursor else {}
    root = artifacts.project()
    settings = accepted_settings(Path(artifacts.config_path), artifacts.state())
    events: list[dg.AssetObservation] = []
    refused: list[str] = []
    for name, files_of in SOURCES.items():
        before = seen.get(name, _Seen())
        try:
            files = files_of(settings, root)
            stamp = digest([[str(p), *file_stamp(p)] for p in _flat(files)])
        except (Refused, FileNotFoundError) as error:  # a glob matches nothing, or a file was deleted meanwhile
            refused.append(str(error))
            continue
        if stamp == before.stamp or _is_fresh(_flat(files)):
            continue
        version = inventory_version(file_inventory(files, root, _digests.of))
        if version != before.version:
            tags = {"dagster/data_version": version}
            events.append(dg.AssetObservation(name, metadata={"files": len(files)}, tags=tags))
        seen[name] = _Seen(stamp, version)
    reason = "; ".join(refused) or ("observed" if events else "no source file changed")
    return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=msgspec.json.encode(seen).decode())


def _verdicts(violations: list[Violation], names: Iterable[str], outcome: str) -> list[dg.AssetCheckEvaluation]:
    result = as_result(Verdict(violations))
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(name),
            check_name=VALID,
            passed=result.passed,
            severity=result.severity,
            description=result.description,
            metadata={**result.metadata, _OUTCOME: outcome},
        )
        for name in names
    ]


def _flat(paths: Sequence[Path]) -> list[Path]:
    return list(chain.from_iterable(sorted(path.rglob("*")) if path.is_dir() else [path] for path in paths))


def _is_fresh(paths: Sequence[Path]) -> bool:
    now = time.time()  # a time far in the future (another clock, an archive) does not mean that somebody writes now
    return any(path.is_file() and abs(now - path.stat().st_mtime) < SETTLED for path in paths)
