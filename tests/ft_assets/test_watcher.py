"""Edits while the daemon runs: the next look takes them up, or refuses them by name if they are invalid."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from expectations.canonical import file_digest
from ft_assets import watcher
from ft_assets.config.load import SettingsError, accepted_settings, load_settings
from ft_assets.config.model import SETTINGS_ASSETS
from ft_assets.definitions import build_defs
from resources.dagster_resources import ArtifactsResource
from tests.ft_assets.daemon import Daemon

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {
    "corpus": {"files": ["kb/*.md"]},
    "sft": {"base_model": "./model"},
    "dpo": {"base_model": "./model"},
    "embedding": {"base_model": "./model"},
    "kbalign": {},
    "ddr": {},
}


class Project:
    """A folder with config.yaml and two documents, and a daemon on it."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, config: dict[str, Any] = CONFIG) -> None:
        self.root, self.config = root, root / "config.yaml"
        (root / "state").mkdir()
        (root / "kb").mkdir()
        for name in ("one", "two"):
            (root / f"kb/{name}.md").write_text(f"# {name}\n\nThis is the text of document {name}, long enough.\n")
        self.write(json.dumps(config))
        artifacts = ArtifactsResource(state_dir=str(root / "state"), config_path=str(self.config))
        defs = build_defs(load_settings(self.config, environ={}), state=root / "state", config=self.config)
        self.daemon = Daemon(defs, instance, artifacts)
        self.store = artifacts.store()

    def configure(self, **sections: dict[str, Any]) -> None:
        self.write(json.dumps({**CONFIG, **sections}))

    def write(self, text: str) -> None:
        self.config.write_text(text)
        self.age(self.config)

    def age(self, path: Path) -> None:
        """Make it look written a while ago, so that nobody seems to write it now."""
        stamp = path.stat().st_mtime_ns - 10**10
        os.utime(path, ns=(stamp, stamp))

    def take_up(self) -> set[str]:
        """Look once at config.yaml and run what it requests; return the sections and checks of the run."""
        return set[str]().union(*map(self.daemon.launch, self.daemon.watch("watch_settings")))


@pytest.fixture
def project(tmp_path: Path) -> Generator[Project]:
    with dg.DagsterInstance.ephemeral() as instance:
        made = Project(tmp_path, instance)
        for path in (tmp_path / "kb").iterdir():
            made.age(path)
        yield made


def test_a_changed_section_becomes_a_new_version_and_the_others_are_left_alone(project: Project) -> None:
    assert project.take_up() == set(SETTINGS_ASSETS.values())
    assert project.take_up() == set()
    before = project.store.require("retrieval_settings").data_version
    project.configure(retrieval={"sparse_weight": 0.5})
    assert project.take_up() == {"retrieval_settings"}
    assert project.store.require("retrieval_settings").json("settings.json")["sparse_weight"] == 0.5
    assert project.store.require("retrieval_settings").data_version != before
    project.configure()
    assert project.take_up() == {"retrieval_settings"}
    assert project.store.require("retrieval_settings").data_version == before


def test_a_section_that_is_deleted_or_new_needs_the_definitions_again_and_stops_nothing(project: Project) -> None:
    project.take_up()
    without = {name: section for name, section in CONFIG.items() if name != "embedding"}
    project.write(json.dumps({**without, "retrieval": {"sparse_weight": 0.5}}))
    assert project.take_up() == {"retrieval_settings"}
    assert project.take_up() == set()
    with dg.DagsterInstance.ephemeral() as instance:
        (project.root / "later").mkdir()
        later = Project(project.root / "later", instance, without)
        assert later.take_up() == set(SETTINGS_ASSETS.values()) - {"embedding_settings"}
        later.configure()
        assert later.take_up() == set()
        assert "config.yaml has embedding now: reload the definitions" in later.daemon.skip_reasons["watch_settings"]


def test_an_invalid_file_is_refused_by_name_and_the_last_valid_one_stays(project: Project) -> None:
    project.take_up()
    before = {name: project.store.require(name).recipe_id for name in SETTINGS_ASSETS.values()}
    project.configure(retrieval={"dense_wieght": 1.0}, corpus={"files": []})
    assert project.take_up() == set()
    # the look itself fails: in Dagster's list of looks it is red
    assert "dense_wieght" in project.daemon.look_failures["watch_settings"]
    assert "the last valid settings stay in use" in project.daemon.look_failures["watch_settings"]
    assert project.daemon.failed_checks() == {f"{name}.config_is_valid" for name in before}
    key = dg.AssetCheckKey(dg.AssetKey("retrieval_settings"), "config_is_valid")
    record = project.daemon.instance.get_latest_asset_check_evaluation_record(key)
    assert record and record.event and record.event.dagster_event
    evaluation = record.event.dagster_event.asset_check_evaluation_data
    table = evaluation.metadata["violations"]
    assert isinstance(table, dg.TableMetadataValue)
    shown = [row.data["message"] for row in table.records]
    assert any("Did you mean 'dense_weight'?" in str(text) for text in shown) and len(shown) == 2
    assert {(row.data["field"], row.data["found"]) for row in table.records} == {
        ("retrieval.dense_wieght", "dense_wieght"), ("corpus.files", "[]"),
    }  # fmt: skip
    assert {name: project.store.require(name).recipe_id for name in before} == before
    # a run of the daemon reads the accepted settings; a command that a person starts reports the error
    with pytest.raises(SettingsError):
        load_settings(project.config, environ={})
    assert accepted_settings(project.config, project.root / "state").corpus.files == ["kb/*.md"]
    project.configure()
    assert project.take_up() == set()
    assert project.daemon.failed_checks() == set()


def test_an_invalid_file_is_reported_once_on_the_asset_pages(project: Project) -> None:
    project.take_up()
    project.write("corpus: [")
    project.take_up()
    key = dg.AssetCheckKey(dg.AssetKey("corpus_settings"), "config_is_valid")
    first = project.daemon.instance.get_latest_asset_check_evaluation_record(key)
    project.take_up()
    again = project.daemon.instance.get_latest_asset_check_evaluation_record(key)
    assert first and again and first.id == again.id


def test_a_file_that_is_still_being_written_is_left_for_the_next_look(project: Project) -> None:
    project.take_up()
    project.config.write_text("{")
    assert project.take_up() == set()
    assert "a moment ago" in project.daemon.skip_reasons["watch_settings"]
    assert project.daemon.failed_checks() == set()


def test_a_file_from_a_clock_ahead_is_taken_up(project: Project) -> None:
    project.take_up()
    project.configure(retrieval={"sparse_weight": 0.5})
    ahead = time.time() + 3600
    os.utime(project.config, (ahead, ahead))
    assert project.take_up() == {"retrieval_settings"}


def test_one_edit_is_tried_once_and_waits_for_the_run_before(project: Project) -> None:
    first, again = (project.daemon.watch("watch_settings")[0].run_key for _ in range(2))
    assert first == again  # Dagster launches a key once
    job = project.daemon.defs.resolve_implicit_global_asset_job_def()
    instance = project.daemon.instance
    run = instance.create_run_for_job(job, tags={watcher.WATCH_TAG: "settings"}, status=dg.DagsterRunStatus.STARTED)
    assert project.daemon.watch("watch_settings") == []
    assert run.run_id in project.daemon.skip_reasons["watch_settings"]


def test_checks_that_need_a_section_are_judged_again_with_it(project: Project) -> None:
    """A changed prompt is compared with the adapters, though nobody trains them."""
    project.take_up()
    project.daemon.watch("watch_sources")
    records = ("instruction_records", "preference_records", "unpaired_preference_records", "retrieval_records")
    project.daemon.execute(["passages", *records])
    project.daemon.execute(["split_ledger", "instruction_splits", "preference_splits", "retrieval_splits"])
    assert project.daemon.watch("watch_settings") == []  # judged with their assets, after the section
    project.configure(datasets={"split": {"contamination": 0.4}})
    assert project.take_up() == {"dataset_settings"}
    # while a run makes an asset, its checks are left to it
    job = project.daemon.defs.resolve_implicit_global_asset_job_def()
    busy = job.get_subset(asset_selection={dg.AssetKey("instruction_splits")})
    instance = project.daemon.instance
    run = instance.create_run_for_job(busy, status=dg.DagsterRunStatus.STARTED, asset_selection=busy.asset_selection)
    assert "instruction_splits.no_contamination" not in judged_again(project)
    instance.report_run_canceled(run)
    requested = judged_again(project)
    # checks that a run judges already are not requested again
    keys = {dg.AssetCheckKey(dg.AssetKey(asset), name) for asset, name in (one.split(".") for one in requested)}
    judging = dg.DagsterRun(
        job_name=job.name, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset(),
        asset_check_selection=frozenset({min(keys, key=str)}),
    )  # fmt: skip
    run = instance.add_run(judging)
    assert len(judged_again(project)) == len(requested) - 1
    instance.report_run_canceled(run)
    assert {"instruction_splits.no_contamination", "retrieval_splits.no_contamination"} <= requested
    assert not any("retrieval_settings" in name or "adapter" in name for name in requested)
    assert project.take_up() == set()
    assert judged_again(project) == set()


def test_a_check_that_did_not_judge_the_current_version_is_requested_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kept it from judging: assets that wait for it would wait for ever."""
    project.take_up()
    project.daemon.watch("watch_sources")
    project.daemon.execute(["passages"])
    assert judged_again(project) == set()
    project.daemon.execute(["passages"], checks=[])
    requested = judged_again(project)
    assert "passages.artifact_is_whole" in requested
    # a check that was requested from here and gave no result is left to a person, until something changes
    with monkeypatch.context() as crash:
        crash.setattr("ft_assets.graph.gates.judge", None)
        project.take_up()
    assert judged_again(project) == set()
    project.daemon.execute(["passages"], checks=[])
    assert judged_again(project) == requested
    project.take_up()
    assert judged_again(project) == set()


def judged_again(project: Project) -> set[str]:
    requests = project.daemon.watch("watch_settings")
    assert all(not request.asset_selection for request in requests)
    return {f"{k.asset_key.to_user_string()}.{k.name}" for request in requests for k in request.asset_check_keys or ()}


def test_source_files_are_observed_when_their_contents_change(project: Project) -> None:
    def version() -> str:
        record = project.daemon.instance.fetch_observations(dg.AssetKey("corpus_files"), limit=1).records[0]
        assert record.asset_observation
        return str((record.asset_observation.tags or {})["dagster/data_version"])

    def count() -> int:
        return len(project.daemon.instance.fetch_observations(dg.AssetKey("corpus_files"), limit=10).records)

    project.daemon.watch("watch_sources")
    project.daemon.watch("watch_sources")
    first = version()
    assert count() == 1
    page = project.root / "kb/one.md"
    page.touch()
    project.age(page)
    project.daemon.watch("watch_sources")
    assert (count(), version()) == (1, first)  # touched, not changed
    page.write_text(page.read_text() + "\nAnd another line.\n")
    project.daemon.watch("watch_sources")
    assert count() == 1  # written a moment ago
    project.age(page)
    project.daemon.watch("watch_sources")
    assert count() == 2
    assert version() != first
    # Dagster's own observation, as `ft run` makes it, finds the same version
    seen = version()
    project.daemon.execute(["corpus_files"])
    assert version() == seen


def test_only_what_changed_is_read_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.daemon.watch("watch_sources")
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(watcher, "file_digest", noted)
    page = project.root / "kb/two.md"
    page.write_text(page.read_text() + "\nAnd another line.\n")
    project.age(page)
    project.daemon.watch("watch_sources")
    assert read == ["two.md"]


def test_an_edited_glossary_and_another_engine_are_seen(project: Project) -> None:
    terms = project.root / "terms.yaml"
    terms.write_text("terms: []\n")
    project.age(terms)
    project.configure(corpus={**CONFIG["corpus"], "glossary": ["terms.yaml"]})
    project.take_up()
    project.daemon.watch("watch_sources")
    terms.write_text("terms: [{term: hash}]\n")
    project.age(terms)
    project.daemon.watch("watch_sources")
    assert len(project.daemon.instance.fetch_observations(dg.AssetKey("glossary_files"), limit=10).records) == 2
    project.configure(corpus={**CONFIG["corpus"], "glossary": ["terms.yaml"]}, qdrant={"engine": "local"})
    assert project.take_up() == {"qdrant_settings"}
    graph = project.daemon.defs.resolve_asset_graph()
    follows = {key.to_user_string() for key in graph.get(dg.AssetKey("qdrant_settings")).child_keys}
    assert follows == {"qdrant_collection", "released_collection"}


def test_a_source_that_matches_nothing_is_named_and_its_last_version_stays(project: Project) -> None:
    project.daemon.watch("watch_sources")
    for path in (project.root / "kb").iterdir():
        path.unlink()
    project.daemon.watch("watch_sources")
    assert "kb/*.md" in project.daemon.skip_reasons["watch_sources"]
    assert len(project.daemon.instance.fetch_observations(dg.AssetKey("corpus_files"), limit=10).records) == 1
