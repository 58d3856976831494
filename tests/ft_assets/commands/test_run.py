"""`ft run` on the toy graph: the assets it makes, its counts, its output and its exit code."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import click
import dagster as dg
import pytest
from click.testing import Result
from rich.console import Console

from ft_assets.commands.execution import HOST_TAG, PID_TAG, bury_dead_runs
from ft_assets.commands.run import RunSummary, figures_line, print_summary, run_assets, select
from resources.artifacts import Recipe
from resources.dagster_resources import LauncherResource

from . import toy

pytestmark = pytest.mark.slow

Ft = Callable[..., Result]
Write = Callable[[str, object], None]


def _run(folder: Path, instance: dg.DagsterInstance) -> tuple[RunSummary, str]:
    out = io.StringIO()
    console = Console(file=out, width=140)
    defs = toy.build(folder)
    summary = run_assets(defs, instance, select(defs, everything=True), console)
    print_summary(summary, console)
    return summary, out.getvalue()


def _states(summary: RunSummary) -> dict[str, str]:
    return {outcome.asset: outcome.state for outcome in summary.assets}


def test_a_first_run_makes_everything_and_a_second_makes_nothing(folder: Path, instance: dg.DagsterInstance) -> None:
    first, shown = _run(folder, instance)
    assert first.exit_code == 0
    assert set(_states(first).values()) == {"made", "observed"}
    assert (first.trained, first.encoded, first.upserted) == (1, 3, 0)
    assert "trained 1, encoded 3, upserted 0" in shown
    assert "numbers  read 1/2 · 0.1 s/step" in shown
    total = next(outcome for outcome in first.assets if outcome.asset == "total")
    assert total.version and total.figures == {"total": 6.0} and total.checks_passed == 1

    second, shown = _run(folder, instance)
    assert set(_states(second).values()) == {"reused", "observed"}
    assert "trained 0, encoded 0, upserted 0" in shown
    assert len(instance.get_runs()) == 2


def test_a_blocking_check_that_fails_stops_its_consumers_and_shows_why(
    folder: Path, instance: dg.DagsterInstance, write: Write
) -> None:
    write("numbers.json", [1, 99])
    summary, shown = _run(folder, instance)
    assert summary.exit_code == 1
    assert _states(summary)["numbers"] == "made"
    assert _states(summary)["total"] == "skipped"
    assert "check failed: numbers.numbers_are_small" in shown
    assert "[FT-TOY-001] numbers: the figure is out of bounds." in shown
    assert "Fix: write smaller numbers into numbers.json" in shown


def test_a_check_that_fails_without_blocking_is_still_exit_1(
    folder: Path, instance: dg.DagsterInstance, write: Write
) -> None:
    write("numbers.json", [1, 2])
    summary, _ = _run(folder, instance)
    assert summary.exit_code == 1
    assert _states(summary)["total"] == "made"


def test_an_asset_that_refuses_shows_its_text_and_no_traceback(ft: Ft, write: Write) -> None:
    write("numbers.json", [1, 99])
    ft("run", "--asset", "numbers")
    result = ft("run", "--asset", "total")
    assert result.exit_code == 1
    assert "refused: total" in result.output
    assert "found 99, expected '< 10'" in result.output
    assert "Traceback" not in result.output


def test_a_crash_is_exit_2_with_its_traceback_only_in_debug(ft: Ft, write: Write) -> None:
    write("numbers.json", [0, 2])
    result = ft("run", "--all")
    assert result.exit_code == 2
    assert "ZeroDivisionError: a zero among the numbers" in result.output
    assert "toy.py" not in result.output
    assert "toy.py" in ft("--debug", "run", "--asset", "total").output


def test_the_json_summary_and_the_screen_agree(ft: Ft, tmp_path: Path) -> None:
    result = ft("run", "--all", "--json", str(tmp_path / "out" / "run.json"))
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "run.json").read_text())
    assert summary["trained"] == 1 and summary["encoded"] == 3 and summary["problems"] == []
    assert {"asset", "state", "version", "figures", "checks_passed", "checks_failed"} <= summary["assets"][0].keys()


def test_one_asset_brings_the_settings_and_sources_it_reads_directly(folder: Path) -> None:
    names = [key.to_user_string() for key in select(toy.build(folder), assets=["numbers"])]
    assert set(names) == {"numbers_file", "limit_settings", "numbers"}
    assert [k.to_user_string() for k in select(toy.build(folder), assets=["sft_adapter"])] == ["sft_adapter"]
    everything = select(toy.build(folder), groups=["retrieval"], upstream=True)
    assert {k.to_user_string() for k in everything} == {"numbers_file", "limit_settings", "numbers", "passage_vectors"}


def test_an_unknown_name_is_a_usage_error_with_a_guess(folder: Path, ft: Ft) -> None:
    with pytest.raises(click.UsageError, match="Did you mean: numbers"):
        select(toy.build(folder), assets=["numers"])
    assert ft("run", "--group", "nope").exit_code == 2


def test_no_selection_prints_the_help(ft: Ft) -> None:
    result = ft("run")
    assert result.exit_code == 0
    assert "Example:" in result.output


def test_a_run_whose_process_was_killed_is_marked_as_failed(folder: Path, instance: dg.DagsterInstance) -> None:
    import socket
    import subprocess
    import sys

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tags = {PID_TAG: str(ended.pid), HOST_TAG: socket.gethostname()}
    job = toy.build(folder).resolve_job_def("compat_gate")
    run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert bury_dead_runs(instance) == [run.run_id]
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


_WORKER = """
from expectations.violations import Refused, Violation
from resources.launcher import run_worker
def main(job):
    if job.params["full"]:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if job.params["refuse"]:
        raise Refused("training", [Violation(code="FT-TOY-002", where="row 3", message="too long.", fix="cut it")])
    raise RuntimeError("out of memory")
if __name__ == "__main__":
    run_worker(main)
"""


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("refuse", [False, True])
def test_the_error_of_a_worker_process_is_shown_even_if_it_can_write_no_file(
    ft: Ft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: bool, full: bool
) -> None:
    (tmp_path / "toy_worker.py").write_text(_WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")

    @dg.asset
    def model(context, launcher: LauncherResource) -> None:  # Dagster reads no annotation that is text
        launcher.run(context, "toy_worker", Recipe("model", "1"), {"refuse": refuse, "full": full})

    launcher = LauncherResource(state_dir=str(tmp_path / "state"), threads=1)
    result = ft("run", "--all", defs=dg.Definitions(assets=[model], resources={"launcher": launcher}))
    assert result.exit_code == (1 if refuse else 2)
    refused, crashed = "[FT-TOY-002] row 3: too long. Fix: cut it", "RuntimeError: out of memory; see "
    assert (refused if refuse else crashed) in result.output
    (run,) = (tmp_path / "state" / "runs" / "model").iterdir()
    assert not list(run.glob("*.tmp")) + list(run.glob(".*.tmp")) + list(run.glob("*.pipe"))
    assert (run / "failure.json").is_file() != full


def test_a_line_of_figures_always_names_what_was_not_used() -> None:
    figures = {"rows": 9.0, "files": 2.0, "documents": 2.0, "passages": 9.0, "quarantined": 3.0, "mean_chars": 7.5}
    assert figures_line(figures) == "rows 9, files 2, documents 2, passages 9, quarantined 3"
    assert figures_line({"rows": 9.0, "quarantined": 1.0, "left_out": 2.0}) == "rows 9, quarantined 1, left_out 2"


def test_what_was_never_made_is_one_line_and_nothing_runs(ft: Ft, folder: Path) -> None:
    result = ft("run", "--asset", "total", "--asset", "passage_vectors", defs=toy.build(folder))
    assert result.exit_code == 1
    assert result.output == "ft: never made: numbers. Run: ft run --asset total --asset passage_vectors --upstream\n"
    assert ft("run", "--asset", "numbers", "--upstream", defs=toy.build(folder)).exit_code == 0
    assert ft("run", "--asset", "total", defs=toy.build(folder)).exit_code == 0
