"""The whole graph, loaded as Dagster loads it and compared with a snapshot: a changed graph is a visible diff."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from ruamel.yaml import YAML
from syrupy.assertion import SnapshotAssertion

from ft_assets.commands.run import select
from ft_assets.config.load import load_settings
from ft_assets.config.model import Settings
from ft_assets.datasets.dataset import DATASETS
from ft_assets.definitions import GATES, PAGE_VARIABLE, SPECS, build_defs, not_configured, unused_deps
from ft_assets.graph.asset import AssetSpec
from ft_assets.retrieval.assets import GATED


@pytest.fixture(scope="module")
def demo(project: Path) -> Settings:
    return load_settings(project / "config.yaml", "demo", {})


@pytest.fixture(scope="module")
def defs(project: Path, demo: Settings, tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    definitions = build_defs(demo, state=tmp_path_factory.mktemp("state"), config=project / "config.yaml")
    dg.Definitions.validate_loadable(definitions)
    return definitions


def describe(spec: dg.AssetSpec) -> dict[str, Any]:
    return {
        "group": spec.group_name,
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "kinds": sorted(spec.kinds),
        "owners": sorted(spec.owners),
        "code_version": spec.code_version,
        "automation": spec.automation_condition.get_label() if spec.automation_condition else None,
    }


def test_the_graph_is_the_one_of_the_snapshot(defs: dg.Definitions, snapshot: SnapshotAssertion):
    graph = defs.resolve_asset_graph()
    assets = {
        key.to_user_string(): describe(defs.resolve_asset_graph().get(key).to_asset_spec())
        for key in graph.get_all_asset_keys()
    }
    checks = sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys)
    jobs = sorted(job.name for job in defs.resolve_all_job_defs())
    assert {"assets": assets, "checks": checks, "jobs": jobs} == snapshot


def test_no_place_is_chosen_by_the_configuration_of_a_run(defs: dg.Definitions):
    job = defs.resolve_implicit_global_asset_job_def()
    for resource in ("artifacts", "qdrant", "launcher", "io_manager"):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"resources": {resource: {"config": {"state_dir": "/elsewhere"}}}})


def test_assets_link_to_their_view_of_the_companion_page(
    demo: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PAGE_VARIABLE, "http://127.0.0.1:3001")
    graph = build_defs(demo, state=tmp_path, config=tmp_path / "config.yaml").resolve_asset_graph()
    for name, view in (("passages", "data/passages"), ("sft_adapter", "trainings"), ("released_adapter", "releases")):
        assert graph.get(dg.AssetKey(name)).metadata["companion page"].value == f"http://127.0.0.1:3001/{view}"


def test_every_materializable_asset_is_described(defs: dg.Definitions):
    for key in defs.resolve_asset_graph().materializable_asset_keys:
        node = defs.resolve_asset_graph().get(key)
        assert node.description and node.owners and node.kinds and node.code_version and node.group_name, key


def test_every_materializable_asset_has_a_gate_and_every_gate_an_asset(defs: dg.Definitions):
    graph = defs.resolve_asset_graph()
    judged = {dg.AssetKey(gate.asset) for gate in GATES}
    # an asset that only moves a pointer is judged by the gates on the assets that it releases
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


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_spec_and_its_asset_agree(defs: dg.Definitions, demo: Settings, spec: AssetSpec):
    graph = defs.resolve_asset_graph()
    node = graph.get(dg.AssetKey(spec.name))
    unused = {dep for name, dep in unused_deps(demo) if name == spec.name}
    assert {key.to_user_string() for key in node.parent_keys} == set(spec.deps) - unused
    assert set(spec.inputs) <= set(spec.deps)
    ancestors = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(spec.name))}
    assert set(spec.enforces) <= ancestors | unused
    assert (node.group_name, node.kinds, node.code_version) == (spec.group, spec.kinds, spec.code_version)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.enforces], ids=lambda spec: spec.name)
def test_a_spec_finds_the_gates_it_enforces(spec: AssetSpec):
    blocking = {gate.asset for gate in chain.from_iterable(spec.gates) if gate.blocking}
    assert set(spec.enforces) <= blocking


def test_a_data_set_is_complete(defs: dg.Definitions):
    names = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    for dataset in DATASETS:
        assert {dataset.sources, dataset.records, dataset.splits} <= names
        columns = {*dataset.texts, *dataset.line_lists, dataset.id_column, dataset.question, dataset.evidence}
        optional = {dataset.answer, dataset.reasoning, dataset.group} - {""}
        assert columns | optional <= set(dataset.record.__struct_fields__)


def test_a_release_depends_on_everything_whose_gates_it_enforces(defs: dg.Definitions):
    graph = defs.resolve_asset_graph()
    enforced = {"released_collection": GATED, "released_adapter": ["sft_adapter", "dpo_adapter", "adapter_evaluation"]}
    for release, judged in enforced.items():
        upstream = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(release))}
        assert set(judged) <= upstream


def test_upstream_includes_what_the_checks_read(defs: dg.Definitions):
    names = {key.to_user_string() for key in select(defs, assets=["instruction_records"], upstream=True)}
    assert "glossary" in names  # two checks read it
    assert not {"preference_records", "retrieval_records"} & names


@pytest.mark.parametrize(
    ("kept", "absent", "present", "jobs"),
    [
        (("embedding",), {"sft_settings", "sft_adapter", "dpo_adapter", "released_adapter", "answer_evaluation"},
         {"released_collection", "instruction_splits"}, {"retrieval_side"}),
        (("sft", "dpo"), {"embedding_settings", "embedding_model", "released_collection", "answer_evaluation"},
         {"released_adapter", "retrieval_splits"}, {"adapter_side"}),
        (("sft",), {"dpo_settings", "dpo_adapter"}, {"sft_adapter", "adapter_evaluation", "released_adapter"},
         {"adapter_side"}),
        ((), {"sft_adapter", "embedding_model"}, {"passages", "split_ledger"}, set()),
    ],
)  # fmt: skip
def test_a_graph_has_no_asset_whose_section_is_missing(
    tmp_path: Path, kept: tuple[str, ...], absent: set[str], present: set[str], jobs: set[str]
):
    values = {"corpus": {"files": ["kb/*.md"]}, **{name: {"base_model": "x"} for name in kept}}
    settings = Settings.model_validate(values)
    definitions = build_defs(settings, state=tmp_path, config=tmp_path / "config.yaml")
    dg.Definitions.validate_loadable(definitions)
    names = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert not absent & names and present <= names
    assert absent <= not_configured(settings).keys() and not present & not_configured(settings).keys()
    found = {job.name for job in definitions.resolve_all_job_defs()}
    assert found & {"retrieval_side", "adapter_side"} == jobs


def test_dpo_without_sft_is_refused():
    with pytest.raises(ValueError, match="Add the section sft"):
        Settings.model_validate({"corpus": {"files": ["kb/*.md"]}, "dpo": {"base_model": "x"}})


def parents(definitions: dg.Definitions, asset: str) -> set[str]:
    found = definitions.resolve_asset_graph().get(dg.AssetKey(asset)).parent_keys
    return {key.to_user_string() for key in found}


@pytest.mark.parametrize("start", ["base", "./an-adapter"])
def test_dpo_without_sft_begins_elsewhere_and_is_evaluated_and_released(tmp_path: Path, start: str):
    values = {"corpus": {"files": ["kb/*.md"]}, "dpo": {"base_model": "x", "start": start}}
    settings = Settings.model_validate(values)
    assert not {"dpo_adapter", "adapter_evaluation", "released_adapter"} & not_configured(settings).keys()
    assert not_configured(settings)["sft_adapter"] == "sft"
    definitions = build_defs(settings, state=tmp_path, config=tmp_path / "config.yaml")
    dg.Definitions.validate_loadable(definitions)
    assert "sft_adapter" not in parents(definitions, "dpo_adapter") | parents(definitions, "adapter_evaluation")
    assert parents(definitions, "released_adapter") == {"dpo_adapter", "adapter_evaluation", "release_settings"}


def test_dpo_from_the_base_next_to_sft_does_not_wait_for_it(tmp_path: Path):
    both = {"sft": {"base_model": "x"}, "dpo": {"base_model": "x", "start": "base"}}
    definitions = build_defs(
        Settings.model_validate({"corpus": {"files": ["kb/*.md"]}, **both}), state=tmp_path, config=tmp_path / "c.yaml"
    )
    assert "sft_adapter" not in parents(definitions, "dpo_adapter")
    assert {"sft_adapter", "dpo_adapter"} <= parents(definitions, "adapter_evaluation")


def test_a_training_without_data_is_left_out_where_the_other_one_has_some(tmp_path: Path):
    both = {"corpus": {"files": ["kb/*.md"]}, "sft": {"base_model": "x"}, "dpo": {"base_model": "x"}}
    answers = Settings.model_validate({**both, "datasets": {"instruction": {"files": ["a.jsonl"]}}})
    assert not_configured(answers)["dpo_adapter"] == "datasets.preference.files"
    assert "released_adapter" not in not_configured(answers)
    definitions = build_defs(answers, state=tmp_path, config=tmp_path / "config.yaml")
    assert parents(definitions, "released_adapter") == {"sft_adapter", "adapter_evaluation", "release_settings"}
    pairs = {**both, "datasets": {"preference": {"files": ["p.jsonl"]}}}
    assert "dpo_adapter" not in not_configured(Settings.model_validate(pairs)), "sft_adapter says what it lacks"
    alone = Settings.model_validate({**pairs, "dpo": {"base_model": "x", "start": "base"}})
    assert not_configured(alone)["sft_adapter"] == "datasets.instruction.files"
    assert "released_adapter" not in not_configured(alone)


def test_generated_rows_are_an_input_only_where_a_training_asks_for_them(tmp_path: Path):
    base = {"corpus": {"files": ["kb/*.md"]}, "datasets": {"instruction": {"files": ["a.jsonl"]}}}
    model, wants = {"base_model": "x"}, {"base_model": "x", "generated": True}

    def graph(**sections: Any) -> tuple[Settings, dg.Definitions]:
        settings = Settings.model_validate({**base, **sections})
        definitions = build_defs(settings, state=tmp_path, config=tmp_path / "config.yaml")
        dg.Definitions.validate_loadable(definitions)
        return settings, definitions

    _, off = graph(sft=model, dpo=model, ddr={}, kbalign={})
    assert "kbalign_verified" not in parents(off, "sft_adapter")
    settings, on = graph(sft=wants, dpo=wants, ddr={}, kbalign={})
    assert "kbalign_verified" in parents(on, "sft_adapter")
    assert "ddr_preferences" in parents(on, "dpo_adapter"), "without any file of pairs"
    assert "sft_adapter" in parents(on, "ddr_candidates")
    assert "released_collection" not in parents(on, "ddr_candidates"), "BM25 searches without an encoder"
    assert not {"dpo_adapter", "ddr_preferences"} & not_configured(settings).keys()
    _, later = graph(sft=wants, dpo=wants, kbalign={}, embedding=model, ddr={"round": 2, "parent": "0123"})
    assert "sft_adapter" not in parents(later, "ddr_candidates") and "released_collection" in parents(
        later, "ddr_candidates"
    )
    alone = {**wants, "start": "base"}
    settings, _ = graph(dpo=alone, ddr={})
    assert not_configured(settings)["dpo_adapter"] == "sft", "the SFT adapter would answer"
    settings, without = graph(dpo=alone, ddr={"model": "base"})
    assert "ddr_preferences" in parents(without, "dpo_adapter")
