"""The whole graph, loaded the way Dagster loads it, and held against a snapshot: a changed graph is a visible diff."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from ruamel.yaml import YAML
from syrupy.assertion import SnapshotAssertion

from ft_assets.commands.run import select
from ft_assets.config.load import load_settings
from ft_assets.definitions import GATES, build_defs
from ft_assets.retrieval.assets import GATED


@pytest.fixture(scope="module")
def defs(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    config = project / "config.yaml"
    made = build_defs(load_settings(config, "demo", {}), state=tmp_path_factory.mktemp("state"), config=config)
    dg.Definitions.validate_loadable(made)
    return made


def describe(spec: dg.AssetSpec) -> dict[str, Any]:
    return {
        "group": spec.group_name,
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "kinds": sorted(spec.kinds),
        "owners": sorted(spec.owners),
        "code_version": spec.code_version,
        "automation": spec.automation_condition.get_label() if spec.automation_condition else None,
    }


def test_the_graph_is_what_it_was(defs: dg.Definitions, snapshot: SnapshotAssertion):
    graph = defs.resolve_asset_graph()
    assets = {
        key.to_user_string(): describe(defs.resolve_asset_graph().get(key).to_asset_spec())
        for key in graph.get_all_asset_keys()
    }
    checks = sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys)
    jobs = sorted(job.name for job in defs.resolve_all_job_defs())
    assert {"assets": assets, "checks": checks, "jobs": jobs} == snapshot


def test_every_made_asset_says_what_it_is(defs: dg.Definitions):
    for key in defs.resolve_asset_graph().materializable_asset_keys:
        node = defs.resolve_asset_graph().get(key)
        assert node.description and node.owners and node.kinds and node.code_version and node.group_name, key


def test_every_made_asset_is_gated_and_no_gate_judges_a_stranger(defs: dg.Definitions):
    graph = defs.resolve_asset_graph()
    judged = {dg.AssetKey(gate.asset) for gate in GATES}
    # what only moves a pointer is judged by the gates on what it releases
    pointers = {dg.AssetKey("released_collection")}
    assert graph.materializable_asset_keys - judged - pointers == set()
    assert judged <= graph.get_all_asset_keys()
    assert all(gate.description.endswith(".") for gate in GATES)


def test_workspace_and_pyproject_name_the_same_module(project: Path):
    tool = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["tool"]
    (entry,) = YAML(typ="safe").load((project / "workspace.yaml").read_text("utf-8"))["load_from"]
    target = tool["dg"]["project"]["code_location_target_module"]
    assert entry["python_module"]["module_name"] == target == tool["dagster"]["module_name"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["check", "toml"], ["check", "defs"], ["list", "defs"]])
def test_dg_accepts_the_project(project: Path, command: list[str], tmp_path: Path):
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), *command], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_depends_on_everything_whose_gates_it_enforces(defs: dg.Definitions):
    graph = defs.resolve_asset_graph()
    enforced = {"released_collection": GATED, "released_adapter": ["sft_adapter", "dpo_adapter", "adapter_evaluation"]}
    for release, judged in enforced.items():
        upstream = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(release))}
        assert set(judged) <= upstream


def test_what_judges_records_comes_with_them(defs: dg.Definitions):
    names = {key.to_user_string() for key in select(defs, assets=["instruction_records"], upstream=True)}
    assert "glossary" in names  # two checks read it
    assert not {"preference_records", "retrieval_records"} & names
