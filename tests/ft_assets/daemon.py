"""Dagster's daemon in this process, one tick at a time: the same sensors, the same conditions, real runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.automation_tick_evaluation_context import build_run_requests  # as the daemon does

from ft_assets.commands.execution import failures, reason
from ft_assets.graph.instance import keep_databases_open
from ft_assets.watcher import InvalidConfigurationError
from resources.dagster_resources import ArtifactsResource

LONGEST = 24


class Daemon:
    """Ticks the watchers and the automation of `defs`, and executes their requests."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, artifacts: ArtifactsResource) -> None:
        self.defs, self.instance, self.artifacts = defs, instance, artifacts
        self._cursors: dict[str, Any] = {}
        self._sensors: dict[str, str | None] = {}
        self.skip_reasons: dict[str, str] = {}
        """Sensor -> the reason why its last look requested nothing."""
        self.look_failures: dict[str, str] = {}
        """Sensor -> the error of its last look."""
        self.failures: list[str] = []
        """The errors of the failed steps of the last run."""

    def resume_from(self, other: Daemon) -> None:
        """Continue from the cursors of another daemon."""
        self._cursors, self._sensors = dict(other._cursors), dict(other._sensors)

    def watch(self, name: str) -> list[dg.RunRequest]:
        """Run one look of a watcher: record its events and return its requests."""
        sensor = self.defs.get_repository_def().get_sensor_def(name)
        context = dg.build_sensor_context(
            self.instance, self._sensors.get(name), definitions=self.defs, resources={"artifacts": self.artifacts}
        )
        try:
            tick = sensor.evaluate_tick(context)
        except InvalidConfigurationError as error:  # its cursor is lost, as in the daemon
            self.skip_reasons[name] = ""
            self.look_failures[name] = str(error)
            return []
        self.look_failures.pop(name, None)
        self._sensors[name] = tick.cursor
        self.skip_reasons[name] = tick.skip_message or ""
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        return list(tick.run_requests or [])

    def evaluate(self) -> list[dg.RunRequest]:
        """Return the requests of the automation conditions, sensor by sensor."""
        requests: list[dg.RunRequest] = []
        graph = self.defs.resolve_asset_graph()
        for sensor in self.defs.get_repository_def().sensor_defs:
            if isinstance(sensor, dg.AutomationConditionSensorDefinition):
                result = dg.evaluate_automation_conditions(
                    self.defs, self.instance, sensor.asset_selection, cursor=self._cursors.get(sensor.name)
                )
                self._cursors[sensor.name] = result.cursor
                asked = [one.true_subset for one in result.results if not one.true_subset.is_empty]
                requests += build_run_requests(asked, graph, run_tags=None, emit_backfills=False)
        return requests

    def execute(
        self,
        assets: Iterable[str],
        checks: Iterable[dg.AssetCheckKey] | None = None,
        tags: dict[str, str] | None = None,
    ) -> bool:
        """Run these assets (with all their checks, if none are named); return whether the run succeeded."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys: Any = [dg.AssetKey(name) for name in assets]
        if checks is not None:
            job = job.get_subset(asset_selection=set(keys), asset_check_selection=set(checks))
            keys = None
        run_id = str(uuid.uuid4())
        with keep_databases_open(self.instance, run_id):
            result = job.execute_in_process(
                instance=self.instance, asset_selection=keys, run_id=run_id, tags=tags, raise_on_error=False
            )
        self.failures = [f"{step}: {reason(error)}" for step, error in failures(result.all_events).items()]
        return result.success

    def tick(self) -> list[set[str]]:
        """Look, evaluate and run once; return the assets of each run, in order."""
        looks = [lambda: self.watch("watch_settings"), lambda: self.watch("watch_sources"), self.evaluate]
        return [self.launch(request) for look in looks for request in look()]

    def launch(self, request: dg.RunRequest) -> set[str]:
        """Execute a requested run; return its assets."""
        assets = {key.to_user_string() for key in request.asset_selection or ()}
        self.execute(assets, request.asset_check_keys, dict(request.tags))
        return assets

    def settle(self) -> list[set[str]]:
        """Tick until nothing is requested; return the assets of each run, in order."""
        runs: list[set[str]] = []
        quiet = 0
        while quiet < 2:  # a tick requests what the tick before observed
            made = self.tick()
            runs += made
            quiet = 0 if made else quiet + 1
            assert len(runs) < LONGEST, runs
        return runs

    def failed_checks(self) -> set[str]:
        """Return `asset.check` of every check whose latest result is a failure."""
        failed: set[str] = set()
        for key in self.defs.resolve_asset_graph().asset_check_keys:
            record = self.instance.get_latest_asset_check_evaluation_record(key)
            event = record.event.dagster_event if record and record.event else None
            if event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                evaluation = cast("dg.AssetCheckEvaluation", event.asset_check_evaluation_data)
                if not evaluation.passed:
                    failed.add(f"{key.asset_key.to_user_string()}.{key.name}")
        return failed
