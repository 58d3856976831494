"""The instance below the state folder: one shape for `ft` and for a plain `dg dev`, and no race at its birth."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from ruamel.yaml import YAML

from expectations.violations import Refused
from ft_assets.graph.instance import SETTINGS, derive_settings, keep_databases_open, open_instance

_OPEN = """
import sys
from pathlib import Path
from ft_assets.graph.instance import open_instance
with open_instance(Path(sys.argv[1])) as instance:
    print(instance.get_runs_count(), len(instance.all_asset_keys()), instance.telemetry_enabled)
"""


def _yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)  # pyright: ignore


def test_three_processes_that_open_a_fresh_state_at_once_all_succeed_and_leave_it_sound(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OPEN, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0], ended
    later = subprocess.run(command, capture_output=True, text=True, check=True)
    assert later.stdout == "0 0 False\n"


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_tools_of_dagster_on_a_copy_of_a_state_write_into_the_copy(tmp_path: Path) -> None:
    def record(state: Path) -> int:
        with dg.DagsterInstance.from_config(str(state / "dagster")) as instance:  # as `dagster` does with its home
            assert dg.materialize([_one], instance=instance).success
            return instance.get_runs_count()

    first, copy = tmp_path / "first", tmp_path / "copy"
    open_instance(first).dispose()
    assert record(first) == 1
    shutil.copytree(first, copy)
    before = _files(first)
    assert record(copy) == 2, "with the history of the first, and one more"
    assert _files(first) == before
    assert set(_files(copy)) - {copy / path.relative_to(first) for path in before}


def test_every_path_of_the_instance_lies_below_the_state_folder(tmp_path: Path) -> None:
    assert "base_dir" not in derive_settings(SETTINGS)
    own = _yaml(SETTINGS.read_text("utf-8"))
    with open_instance(tmp_path) as instance:
        assert isinstance(instance.event_log_storage, sqlite_event_log.SqliteEventLogStorage)
        home = tmp_path / "dagster"
        assert instance.storage_directory() == str(home / "storage")
        assert Path(instance.event_log_storage.path_for_shard("index")) == home / "history/runs/index.db"
    # and a plain `dg dev` in the project uses the same places
    assert own["storage"]["sqlite"]["base_dir"] == own["local_artifact_storage"]["config"]["base_dir"] == ".ft/dagster"
    assert own["compute_logs"]["config"]["base_dir"] == ".ft/dagster/storage"


@dg.asset
def _one() -> None:
    """Nothing."""


def test_the_history_of_an_earlier_product_version_is_found(tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    (home / "storage").mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(home / "storage")) as earlier:  # its databases were here
        run = dg.materialize([_one], instance=earlier).run_id
    (home / "compute_logs" / run).mkdir(parents=True)
    (home / "compute_logs" / run / "step.out").write_text("a line")
    with open_instance(tmp_path) as instance:
        assert [found.run_id for found in instance.get_runs()] == [run]
    assert (home / "storage" / run / "step.out").read_text() == "a line"


def test_workspace_and_project_file_name_the_same_code(project: Path) -> None:
    tool = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["tool"]
    location = _yaml((project / "workspace.yaml").read_text("utf-8"))["load_from"][0]["python_module"]
    assert location["module_name"] == tool["dg"]["project"]["code_location_target_module"]
    assert location["module_name"] == tool["dagster"]["module_name"]
    assert location["location_name"] == tool["dg"]["project"]["code_location_name"]


@pytest.mark.parametrize("name", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_database_is_named_and_can_be_moved_away(tmp_path: Path, name: str) -> None:
    open_instance(tmp_path).get_runs()
    storage = tmp_path / "dagster" / name.partition("/")[0]
    with (storage.parent / name).open("r+b") as stream:
        stream.write(b"not a database")
    with pytest.raises(Refused, match=r"FT-RUN-001.*" + re.escape(name) + r".*Move .*dagster/(history|schedules) away"):
        open_instance(tmp_path)
    storage.rename(tmp_path / "aside")
    assert open_instance(tmp_path).get_runs() == []


@pytest.mark.slow
def test_a_plain_dg_dev_keeps_its_history_below_the_project(
    tmp_path: Path, project: Path, serve: Callable[..., Any]
) -> None:
    """DAGSTER_HOME unset, in the project's folder: what one session recorded, the next one shows."""
    for name in ("pyproject.toml", "dagster.yaml"):
        (tmp_path / name).write_text((project / name).read_text("utf-8"))
    (tmp_path / "ft_assets").mkdir()
    (tmp_path / "ft_assets" / "__init__.py").touch()
    (tmp_path / "ft_assets" / "definitions.py").write_text(
        "import dagster as dg\n\n@dg.asset\ndef one():\n    return dg.MaterializeResult(metadata={'rows': 1})\n\n"
        "defs = dg.Definitions(assets=[one])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    dg_dev = [str(Path(sys.executable).parent / "dg"), "dev"]
    report = (
        'mutation{reportRunlessAssetEvents(eventParams:{eventType:ASSET_MATERIALIZATION,assetKey:{path:["one"]}})'
        "{__typename}}"
    )
    shown = '{assetOrError(assetKey:{path:["one"]}){... on Asset{assetMaterializations{timestamp}}}}'
    with serve(dg_dev, cwd=tmp_path, env=environment) as ask:
        assert ask(report)["reportRunlessAssetEvents"]["__typename"] == "ReportRunlessAssetEventsSuccess"
    with serve(dg_dev, cwd=tmp_path, env=environment) as ask:
        assert len(ask(shown)["assetOrError"]["assetMaterializations"]) == 1
    assert (tmp_path / ".ft" / "dagster" / "history").is_dir()
    assert not list(tmp_path.glob(".tmp_dagster_home_*"))


@pytest.mark.slow
def test_the_webserver_shows_what_ft_recorded(tmp_path: Path, project: Path, serve: Callable[..., Any]) -> None:
    """A run of `ft`'s executor on the toy graph, then GraphQL: assets, checks and their results."""
    toys = project / "tests" / "ft_assets" / "commands"
    (tmp_path / "numbers.json").write_text("[1, 2, 3]")
    (tmp_path / "limit.json").write_text('{"limit": 10}')
    (tmp_path / "location.py").write_text(
        f"import sys\nfrom pathlib import Path\nsys.path[:0] = [{str(toys)!r}]\nimport toy\n"
        f"defs = toy.build(Path({str(tmp_path)!r}))\n"
    )
    run = (
        "import sys\nfrom pathlib import Path\nsys.path[:0] = [sys.argv[1]]\nfrom location import defs\n"
        "from ft_assets.commands.run import run_assets, select\nfrom ft_assets.commands.terminal import make_console\n"
        "from ft_assets.graph.instance import open_instance\n"
        "instance = open_instance(Path(sys.argv[1]) / 'state')\n"
        "sys.exit(run_assets(defs, instance, select(defs, everything=True), make_console()).exit_code)\n"
    )
    subprocess.run([sys.executable, "-c", run, str(tmp_path)], check=True, cwd=project, capture_output=True)
    webserver = [str(Path(sys.executable).parent / "dagster-webserver"), "-f", str(tmp_path / "location.py")]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "state" / "dagster"), "PYTHONPATH": str(project)}
    question = (
        "{assetNodes{assetKey{path} groupName staleStatus assetMaterializations(limit:1){runId}"
        "assetChecksOrError{... on AssetChecks{checks{name blocking executionForLatestMaterialization{status}}}}}"
        "runsOrError{... on Runs{results{status jobName}}}}"
    )
    with serve(webserver, cwd=project, env=environment) as ask:
        answer = ask(question)
    nodes = {node["assetKey"]["path"][0]: node for node in answer["assetNodes"]}
    assert nodes["total"]["assetMaterializations"] and nodes["total"]["staleStatus"] == "FRESH"
    check = nodes["numbers"]["assetChecksOrError"]["checks"][0]
    assert check["name"] == "numbers_are_small" and check["blocking"]
    assert check["executionForLatestMaterialization"]["status"] == "SUCCEEDED"
    assert answer["runsOrError"]["results"] == [{"status": "SUCCESS", "jobName": "__ASSET_JOB"}]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_130_and_one_line(tmp_path: Path, project: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nimport dagster as dg\nfrom ft_assets import cli\nfrom ft_assets.commands.project import Project\n"
        "@dg.asset\ndef slow():\n    open('began', 'w').close()\n    time.sleep(60)\n"
        "Project.definitions = dg.Definitions(assets=[slow])\ncli.main()\n"
    )
    (tmp_path / "config.yaml").write_text("corpus: {files: [kb/*.md]}\n")
    environment = {**os.environ, "FT_CONFIG": str(tmp_path / "config.yaml"), "PYTHONPATH": str(project)}
    environment["FT_STATE_DIR"] = str(tmp_path / "state")
    process = subprocess.Popen(
        [sys.executable, "slow.py", "run", "--all"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (tmp_path / "began").exists():
        assert process.poll() is None, process.communicate()
        signal.sigtimedwait([], 0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.startswith("ft: interrupted") and err.count("\n") == 1


def test_databases_stay_open_during_a_run_and_are_whole_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "history/runs/index.db-wal"
    make, made = sqlite_event_log.create_engine, list[str]()
    monkeypatch.setattr(sqlite_event_log, "create_engine", lambda url, **kw: (made.append(url), make(url, **kw))[1])

    @dg.op
    def look() -> bool:
        return log.exists()

    @dg.job
    def job() -> None:
        look()

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        plain = job.execute_in_process(instance=instance)
        assert len(made) > 5
        made.clear()
        with keep_databases_open(instance, run_id := str(uuid.uuid4())):
            held = job.execute_in_process(instance=instance, run_id=run_id)
        assert len(made) == len(set(made)) == 2, "one for each database"
        assert (plain.output_for_node("look"), held.output_for_node("look")) == (False, True)
        assert not list(tmp_path.rglob("*.db-wal"))
        assert len(instance.all_logs(run_id)) == len(instance.all_logs(plain.run_id))
    with dg.DagsterInstance.ephemeral() as instance, keep_databases_open(instance, run_id):
        assert job.execute_in_process(instance=instance).success
