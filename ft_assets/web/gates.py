"""The last results of the gates, from Dagster's event log: no artifact holds them."""

# the storage of Dagster is partly untyped
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from expectations.violations import Refused
from ft_assets.web.project import ShownProject
from resources.artifacts import ArtifactStore

if TYPE_CHECKING:
    from ft_assets.graph.gates import CheckState


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The last result of one gate."""

    asset: str
    name: str
    blocking: bool
    state: CheckState
    of_served: bool
    """False where the graph has made another version of the asset since: the result is about that one."""
    at: float | None = None
    text: str = ""


def check_results(project: ShownProject, artifacts: Mapping[str, str]) -> list[CheckResult]:
    """Return the last result of every gate on these assets, failed ones first.

    `artifacts`: asset -> the recipe that the results are shown for, empty for an asset without an artifact.
    """
    if not artifacts or not (project.state / "dagster" / "dagster.yaml").is_file():  # its database may be elsewhere
        return []
    import dagster as dg

    from ft_assets.definitions import GATES
    from ft_assets.graph.gates import check_state

    gates = {dg.AssetCheckKey(dg.AssetKey(gate.asset), gate.name): gate for gate in GATES if gate.asset in artifacts}
    latest = project.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(gates))
    entries = {asset: project.instance.get_latest_materialization_event(dg.AssetKey(asset)) for asset in artifacts}
    made_at = {asset: entry.timestamp if entry else 0.0 for asset, entry in entries.items()}
    rows: list[CheckResult] = []
    for key, gate in gates.items():
        record = latest.get(key)
        state = check_state(record, made_at[gate.asset])
        recipe = artifacts[gate.asset]
        rows.append(
            CheckResult(
                asset=gate.asset,
                name=gate.name,
                blocking=gate.blocking,
                state=state,
                of_served=not recipe or recipe == _current_recipe(project.store, gate.asset),
                at=record.create_timestamp if record and state != "not judged" else None,
                text=gate.description,
            )
        )
    order = {"failed": 0, "not judged": 1, "passed": 2}
    return sorted(rows, key=lambda row: order[row.state])


def _current_recipe(store: ArtifactStore, asset: str) -> str:
    """Return the recipe id of the current artifact; empty if there is none, or the file that names it is damaged."""
    try:
        current = store.current(asset)
    except Refused:
        return ""
    return current.recipe_id if current else ""
