"""Runs a Dagster job in this process, quietly, as a run that the UI shows like any other."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import dagster as dg

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
    """Execute `job` (only `keys` of it, if given). Failures are in the result's events; only Ctrl-C is raised.

    `listener` is called with each event as it happens.
    """
    run_id = str(uuid.uuid4())
    if listener:
        cast("Any", instance).add_event_listener(run_id, listener)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}} if "console" in job.loggers else {}
    result = job.execute_in_process(
        instance=instance,
        asset_selection=keys,
        run_id=run_id,
        run_config=quiet,
        raise_on_error=False,
        # the daemon must not try again what a person watches fail here
        tags={PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), "dagster/max_retries": "0"},
    )
    if any(error.cls_name == "DagsterExecutionInterruptedError" for error in failures(result.all_events).values()):
        raise KeyboardInterrupt  # Dagster has recorded it and let it go
    return result


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of killed `ft` processes as failed and free their pool slots. Returns their ids.

    Nobody else does: to Dagster a run whose process was killed is running for ever, and its slot is taken.
    """
    buried: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED, tags={HOST_TAG: socket.gethostname()})):
        if _is_alive(int(run.tags[PID_TAG])):
            continue
        instance.report_run_failed(run, "the process that ran it is gone")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        buried.append(run.run_id)
    return buried


def failures(events: Sequence[dg.DagsterEvent]) -> dict[str, Any]:
    """step key -> what the step raised (SerializableErrorInfo), for each failed step."""
    found: dict[str, Any] = {}
    for event in events:
        if event.is_step_failure and event.step_key and event.step_failure_data.error:
            error = event.step_failure_data.error
            wrapped = error.cls_name == "DagsterExecutionStepExecutionError" and error.cause
            found[event.step_key] = wrapped or error
    return found


def reason(error: Any) -> str:
    """What a failed step's error says: without the module of its class, and for a refusal without the class."""
    text = str(error.message).strip()
    if error.cls_name in {"Refused", "Failure"}:
        return text.partition(": ")[2].strip()
    return re.sub(r"^(?:\w+\.)+(?=\w+(?::|$))", "", text)


def violations_of(evaluation: dg.AssetCheckEvaluation) -> list[str]:
    """The paragraphs of a failed check: one a violation, or its description."""
    table = evaluation.metadata.get("violations")
    if not isinstance(table, dg.TableMetadataValue):
        return [evaluation.description or "the check did not pass"]
    return [_paragraph(record.data) for record in table.records]


def _paragraph(row: Mapping[str, Any]) -> str:
    text = f"[{row['code']}] {row['where']}: {row['message']}"
    if row["field"]:
        text += f" ({row['field']}: found {row['found']}, expected {row['expected']})"
    return f"{text} Fix: {row['fix']}" if row["fix"] else text


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
