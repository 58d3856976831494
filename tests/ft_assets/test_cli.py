"""`ft` itself: light to start, one paragraph an error, an example in every help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from expectations.violations import Refused, Violation
from ft_assets.cli import COMMANDS, cli
from ft_assets.commands.project import Project
from ft_assets.config.load import SettingsError
from resources.artifacts import ArtifactStore, Recipe
from resources.releases import Releases


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    (tmp_path / "config.yaml").write_text(
        "schema_version: 1\ncorpus: {files: [kb/*.md]}\nsft: {base_model: ./gone}\ndpo: {base_model: ./gone}\n"
        "embedding: {base_model: ./gone}\n"
    )
    monkeypatch.setenv("FT_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    return CliRunner()


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "examples/en/preferences.jsonl"], ["rollback", "--help"]])
def test_help_and_verify_load_no_heavy_library(arguments: list[str], project: Path) -> None:
    code = (
        "import sys\nfrom ft_assets.cli import cli\ntry: cli(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([m for m in ('dagster', 'torch', 'pandas', 'pyarrow', 'qdrant_client') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=project
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"ft {name}" in result.output.partition("Example:")[2]


def test_without_arguments_it_shows_the_overview_and_the_first_commands() -> None:
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 0
    assert result.output.index("ft doctor") < result.output.index("ft run --all") < result.output.index("ft search")
    assert all(name in result.output for name in COMMANDS)


def test_an_invalid_configuration_is_one_paragraph_with_all_errors(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT__RETRIEVAL__NOPE", "1")
    monkeypatch.setenv("FT__SFT__LEARNING_RATE", "-1")
    result = runner.invoke(cli, ["search", "AES"])
    assert result.exit_code == 2
    assert result.stderr.startswith("ft: ") and "Traceback" not in result.stderr
    assert "nope" in result.stderr and "learning_rate" in result.stderr


def test_a_refusal_is_exit_1_with_its_fix(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["rollback", "adapter"])
    assert result.exit_code == 1
    assert "FT-REL-001" in result.stderr


def test_a_damaged_record_is_refused_by_name_with_the_way_out(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "state" / "released" / "adapter.json"
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    for arguments in (["rollback", "adapter", "--list"], ["rollback", "adapter"]):
        result = runner.invoke(cli, arguments)
        assert result.exit_code == 1
        assert "FT-REL-003" in result.stderr and str(path) in result.stderr and "backup" in result.stderr


def test_an_unexpected_error_is_a_paragraph_and_a_traceback_only_with_debug(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.releases.Releases.book", lambda *_: 1 / 0)
    result = runner.invoke(cli, ["rollback", "adapter", "--list"])
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr and "ft --debug rollback" in result.stderr
    assert "Traceback" in runner.invoke(cli, ["--debug", "rollback", "adapter", "--list"]).stderr


def test_a_missing_library_names_the_extra_that_brings_it(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster", None)
    monkeypatch.delitem(sys.modules, "ft_assets.commands.gate", raising=False)
    result = runner.invoke(cli, ["gate"])
    assert result.exit_code == 2
    assert "pip install 'ft-assets[platform]'" in result.stderr


def test_an_adapter_rolls_back_to_the_release_before_and_forth_again(runner: CliRunner, tmp_path: Path) -> None:
    releases = Releases(tmp_path / "state" / "released")
    store = ArtifactStore(tmp_path / "state" / "artifacts")
    recipes = [Recipe("sft_adapter", version) for version in "ab"]
    for recipe in recipes:
        with store.stage(recipe) as staging:
            (staging.path / "a").write_text("a")
            staging.publish()
    plans = ({"sft_adapter": recipe.id} for recipe in recipes)
    first, second = (releases.commit("adapter", releases.plan_release("adapter", plan, {})) for plan in plans)
    assert runner.invoke(cli, ["rollback", "adapter"]).output == f"adapter: {second.version} -> {first.version}\n"
    listed = runner.invoke(cli, ["rollback", "adapter", "--list"]).output
    assert next(line for line in listed.splitlines() if line.startswith("●")).split()[1] == first.version
    assert "rolled back" in next(line for line in listed.splitlines() if second.version in line)
    runner.invoke(cli, ["rollback", "adapter", "--to", second.version])
    current = releases.current("adapter")
    assert current and current.version == second.version


def test_the_summary_shows_results_that_exist_and_leaves_out_the_others(runner: CliRunner, tmp_path: Path) -> None:
    assert runner.invoke(cli, ["summary"]).exit_code == 0
    store = ArtifactStore(tmp_path / "state" / "artifacts")
    with store.stage(Recipe("embedding_evaluation", "1")) as staging:
        (staging.path / "report.json").write_text("{}")
        store.point(staging.publish({}))
    gain = {"mean": 0.01, "low": -0.02, "high": 0.04, "n": 30}
    with store.stage(Recipe("embedding_model", "1")) as staging:
        (staging.path / "weights").write_text("w")
        store.point(staging.publish({"factors": {"taken": False, "gain": gain, "spread": 0.1}}))
    shown = runner.invoke(cli, ["summary"]).output
    assert "Learned factors BM25 serves as it is: its factors gain nothing certain" in shown.replace("\n", " ")
    assert "FT-ART-002" in shown and "scores.parquet" in shown  # of the evaluation, and the rest is shown
    assert "Answers" not in shown
    assert "adapter: nothing yet" in shown


def test_the_doctor_finds_a_missing_model_and_an_altered_artifact(runner: CliRunner, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "state" / "artifacts")
    with store.stage(Recipe("passages", "1")) as staging:
        (staging.path / "rows.json").write_text("[1]")
        artifact = staging.publish({})
    (artifact.path / "rows.json").write_text("[2]")
    result = runner.invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 1
    bad = [finding for finding in json.loads(result.output) if finding["state"] == "bad"]
    assert any("./gone" in finding["found"] for finding in bad)
    assert any("1 altered files" in finding["found"] and finding["fix"] for finding in bad)
    assert not (tmp_path / "state" / "qdrant").exists()


def test_an_interruption_is_130_with_one_line(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> Project:
        raise KeyboardInterrupt

    monkeypatch.setattr(Project, "here", interrupt)
    result = runner.invoke(cli, ["summary"])
    assert result.exit_code == 130
    assert result.stderr.count("\n") == 1


def test_refusals_inside_a_command_list_every_violation(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Project:
        raise Refused("opening Qdrant", [Violation(code=f"FT-QDR-00{n}", where="x", message="m") for n in (1, 2)])

    monkeypatch.setattr(Project, "here", refuse)
    result = runner.invoke(cli, ["summary"])
    assert result.exit_code == 1
    assert "FT-QDR-001" in result.stderr and "FT-QDR-002" in result.stderr


@pytest.mark.parametrize("command", [["status"], ["search", "x"], ["run", "--all"], ["rollback", "adapter", "--list"]])
def test_a_state_that_is_a_file_is_named(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "config.yaml" / "state"))
    result = runner.invoke(cli, command)
    assert result.exit_code == 2
    assert f"{tmp_path}/config.yaml is a file. FT_STATE_DIR names the folder of the state." in result.output


def test_dagster_does_not_record_in_another_place_than_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_assets.graph.instance import refuse_another_home

    for home in (None, str(tmp_path / "elsewhere")):
        monkeypatch.setenv("DAGSTER_HOME", home) if home else monkeypatch.delenv("DAGSTER_HOME", raising=False)
        monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
        with pytest.raises(SettingsError, match="Dagster records elsewhere"):
            refuse_another_home(tmp_path / "state")
        monkeypatch.delenv("FT_STATE_DIR")
        refuse_another_home(tmp_path / "state")  # the state next to config.yaml, as dagster.yaml has it
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "state" / "dagster"))
    refuse_another_home(tmp_path / "state")
