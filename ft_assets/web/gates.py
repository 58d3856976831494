"""The last results of the gates, from Dagster's event log: no artifact holds them."""

# the storage of Dagster is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec

from ft_assets.web.project import ShownProject


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The last result of one gate."""

    asset: str
    name: str
    blocking: bool
    state: Literal["passed", "failed", "not run"]
    at: float | None = None
    text: str = ""


def check_results(project: ShownProject, assets: Collection[str]) -> list[CheckResult]:
    """Return the last result of every gate on these assets, failed ones first."""
    import dagster as dg

    from ft_assets.definitions import GATES

    gates = {dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name): gate for gate in GATES if gate.asset in assets}
    if not (project.state / "dagster" / "storage").is_dir():
        return []
    latest = project.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(gates))
    rows: list[CheckResult] = []
    for key, gate in gates.items():
        record = latest.get(key)
        event = record.event.dagster_event if record and record.event else None
        judged = event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
        evaluation = event.asset_check_evaluation_data if event and judged else None
        rows.append(
            CheckResult(
                asset=gate.asset,
                name=gate.name,
                blocking=gate.blocking,
                state="not run" if evaluation is None else "passed" if evaluation.passed else "failed",
                at=record.create_timestamp if record and evaluation else None,
                text=gate.description,
            )
        )
    order = {"failed": 0, "not run": 1, "passed": 2}
    return sorted(rows, key=lambda row: order[row.state])
