"""Run a Dagster job in this process without its log; the UI shows it like any other run."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from ft_assets.graph.instance import keep_databases_open

if TYPE_CHECKING:  # not exported by Dagster
    from dagster_shared.error import SerializableErrorInfo

REFUSALS = frozenset({"Refused", "RefusedRun"})
"""The names of the classes of a refusal in an event."""
PID_TAG, HOST_TAG = "ft/pid", "ft/host"
_UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]

Listener = Callable[[dg.EventLogEntry], None]


def execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    keys: Sequence[dg.AssetKey] | None = None,
    listener: Listener | None = None,
) -> dg.ExecuteInProcessResult:
    """Execute `job`, or only `keys` of it. Failures are in the events of the result; only Ctrl-C is raised.

    `listener` is called with each event as it happens.
    """
    run_id = str(uuid.uuid4())
    if listener:
        cast("Any", instance).add_event_listener(run_id, listener)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}} if "console" in job.loggers else {}
    with keep_databases_open(instance, run_id):
        result = job.execute_in_process(
            instance=instance,
            asset_selection=keys,
            run_id=run_id,
            run_config=quiet,
            raise_on_error=False,
            # the daemon must not retry a run whose failure a person sees here
            tags={PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), "dagster/max_retries": "0"},
        )
    if any(error.cls_name == "DagsterExecutionInterruptedError" for error in failures(result.all_events).values()):
        raise KeyboardInterrupt  # Dagster recorded it and did not raise it
    return result


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of killed `ft` processes as failed and free their pool slots; return their ids.

    Nothing else does: for Dagster a run whose process was killed runs for ever and keeps its slot.
    """
    run_ids: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={HOST_TAG: socket.gethostname()})):
        if _is_alive(int(run.tags[PID_TAG])):
            continue
        instance.report_run_failed(run, "the process of this run no longer exists")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        run_ids.append(run.run_id)
    return run_ids


def failures(events: Sequence[dg.DagsterEvent]) -> dict[str, SerializableErrorInfo]:
    """Return step key -> the error that the step raised, for each failed step."""
    errors: dict[str, SerializableErrorInfo] = {}
    for event in events:
        if event.is_step_failure and event.step_key and event.step_failure_data.error:
            error = event.step_failure_data.error
            cause = error.cause if error.cls_name == "DagsterExecutionStepExecutionError" else None
            errors[event.step_key] = cause or error
    return errors


def reason(error: SerializableErrorInfo) -> str:
    """Return the message of an error, without the module of its class; for a refusal without the class too."""
    text = str(error.message).strip()
    if error.cls_name in {*REFUSALS, "Failure"}:
        return text.partition(": ")[2].strip()
    return re.sub(r"^(?:\w+\.)+(?=\w+(?::|$))", "", text)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
