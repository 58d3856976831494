"""`ft status` on the toy graph: in sync, or stale with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import Result

from ft_assets.commands.run import run_assets, select
from ft_assets.commands.status import AssetStatus, read_status
from ft_assets.commands.terminal import make_console
from resources.artifacts import ArtifactStore
from resources.releases import Releases

from . import toy

pytestmark = pytest.mark.slow

Ft = Callable[..., Result]
Write = Callable[[str, object], None]


def _status(folder: Path, instance: dg.DagsterInstance, limit: int = 10) -> dict[str, AssetStatus]:
    state = folder / "state"
    sections: dict[str, dict[str, Any]] = {"limit_settings": {"limit": limit}}
    statuses = read_status(
        toy.build(folder), instance, ArtifactStore(state / "artifacts"), Releases(state / "released"), sections
    )
    return {status.asset: status for status in statuses}


def _run(folder: Path, instance: dg.DagsterInstance, *assets: str) -> None:
    defs = toy.build(folder)
    run_assets(defs, instance, select(defs, assets=assets, everything=not assets), make_console())


def test_before_the_first_run_nothing_was_made(folder: Path, instance: dg.DagsterInstance) -> None:
    statuses = _status(folder, instance)
    assert statuses["numbers"].state == "never made"
    assert statuses["numbers"].reasons == ["make it: ft run --asset numbers --upstream"]
    assert statuses["numbers_file"].state == "source"


def test_after_a_run_everything_is_in_sync_and_judged(folder: Path, instance: dg.DagsterInstance) -> None:
    _run(folder, instance)
    statuses = _status(folder, instance)
    assert {status.state for status in statuses.values()} == {"in sync", "source"}
    assert statuses["numbers"].checks == {"numbers_are_small": "passed"}


def test_a_changed_setting_makes_its_asset_stale_and_all_below_it(folder: Path, instance: dg.DagsterInstance) -> None:
    _run(folder, instance)
    statuses = _status(folder, instance, limit=20)
    assert statuses["limit_settings"].reasons == ["config.yaml changed: limit"]
    assert "limit_settings is stale" in statuses["numbers"].reasons
    assert statuses["sft_adapter"].reasons == ["numbers is stale"]


def test_an_edited_source_is_seen_without_a_run_and_without_leaving_one(
    folder: Path, instance: dg.DagsterInstance, write: Write
) -> None:
    _run(folder, instance)
    write("numbers.json", [1, 2, 5])
    statuses = _status(folder, instance)
    assert statuses["numbers"].state == "stale"
    assert statuses["numbers"].reasons[0].startswith("numbers_file is now ")
    assert len(instance.get_runs()) == 1


def test_a_remade_input_makes_its_consumers_stale(folder: Path, instance: dg.DagsterInstance, write: Write) -> None:
    _run(folder, instance)
    write("numbers.json", [1, 2, 5])
    _run(folder, instance, "numbers")
    statuses = _status(folder, instance)
    assert statuses["numbers"].state == "in sync"
    assert statuses["total"].reasons[0].startswith("numbers is now ")


def test_a_lost_artifact_is_stale(folder: Path, instance: dg.DagsterInstance) -> None:
    _run(folder, instance)
    store = ArtifactStore(folder / "state" / "artifacts")
    store.discard(store.require("total"))
    (reason,) = _status(folder, instance)["total"].reasons
    assert reason.startswith("[FT-ART-001] total: The current artifact of the asset is gone")
    assert reason.endswith("Fix: ft run --asset total")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("{", "[FT-ART-005] "),
        ('{"recipe": "0123456789abcdef"}', "[FT-ART-001] total: The current artifact of the asset is gone"),
        (None, "[FT-ART-001] total: The asset has no artifact yet"),
    ],
    ids=["no JSON", "names nothing", "gone"],
)
def test_a_pointer_that_leads_nowhere_is_shown_with_its_fix_and_the_other_assets_too(
    folder: Path, instance: dg.DagsterInstance, content: str | None, shown: str
) -> None:
    _run(folder, instance)
    pointer = folder / "state" / "artifacts" / "total" / "current.json"
    pointer.unlink()
    if content is not None:
        pointer.write_text(content)
    statuses = _status(folder, instance)
    (reason,) = statuses["total"].reasons
    assert statuses["total"].state == "stale"
    assert reason.startswith(shown) and "ft run --asset total" in reason
    assert {statuses[name].state for name in ("limit_settings", "numbers", "sft_adapter")} == {"in sync"}


def test_a_damaged_pointer_of_settings_is_shown_once(folder: Path, instance: dg.DagsterInstance) -> None:
    _run(folder, instance)
    (folder / "state" / "artifacts" / "limit_settings" / "current.json").write_text("[]")
    (reason,) = _status(folder, instance)["limit_settings"].reasons
    assert reason.startswith("[FT-ART-005] ")


def test_a_released_asset_is_marked(folder: Path, instance: dg.DagsterInstance) -> None:
    _run(folder, instance)
    artifact = ArtifactStore(folder / "state" / "artifacts").require("sft_adapter")
    releases = Releases(folder / "state" / "released")
    releases.commit("adapter", releases.plan_release("adapter", {"sft_adapter": artifact.recipe_id}, {}))
    statuses = _status(folder, instance)
    assert statuses["sft_adapter"].released
    assert not statuses["total"].released


def test_the_json_can_be_read_by_a_program(ft: Ft) -> None:
    ft("run", "--all")
    result = ft("status", "--json")
    assert {status["asset"]: status["state"] for status in json.loads(result.stdout)}["total"] == "in sync"
    assert "released adapter: none" in ft("status").output


def test_a_damaged_note_of_a_move_is_shown(ft: Ft, folder: Path) -> None:
    path = folder / "state" / "released" / "collection.intent.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    output = ft("status").output
    assert "released collection: none" in output
    assert "[FT-REL-003]" in output and "ft gate --served" in output
