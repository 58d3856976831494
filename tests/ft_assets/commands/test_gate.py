"""`ft gate`: the exit code follows from the results of the checks; a missing result never counts as passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

from ft_assets.graph.gates import Evidence, Gate, Verdict

from . import toy

pytestmark = pytest.mark.slow

Ft = Callable[..., Result]
Write = Callable[[str, object], None]


def _crash(evidence: Evidence) -> Verdict:
    """Cannot judge."""
    raise OSError("the disk is away")


def test_all_passing_is_0(ft: Ft) -> None:
    ft("run", "--all")
    result = ft("gate")
    assert result.exit_code == 0, result.output
    assert "gate: pass · 2 passed" in result.output


@pytest.mark.parametrize(("numbers", "failing"), [([1, 99], "numbers_are_small"), ([1, 2], "total_is_even")])
def test_a_failing_check_is_1_whether_it_blocks_or_not(ft: Ft, write: Write, numbers: list[int], failing: str) -> None:
    ft("run", "--all")  # so that there is a total to judge
    write("numbers.json", numbers)
    ft("run", "--all")
    result = ft("gate")
    assert result.exit_code == 1, result.output
    assert failing in result.output and "Fix:" in result.output


def test_an_asset_that_was_never_made_fails_instead_of_passing(ft: Ft) -> None:
    result = ft("gate")
    assert result.exit_code == 1
    assert result.output.startswith("Nothing was made yet: ft run --all\n") and len(result.output.splitlines()) == 2
    ft("run", "--asset", "limit_settings")
    result = ft("gate")
    assert result.exit_code == 1 and "FT-ART-001" in result.output


def test_what_serves_cannot_pass_where_nothing_was_released(
    ft: Ft, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ft("run", "--all")
    result = ft("gate", "--served")
    assert result.exit_code == 2 and "no checks at all" in result.output
    monkeypatch.setenv("FT_STATE_DIR", str(tmp_path / "typo"))
    result = ft("gate", "--served")
    assert result.exit_code == 2 and str(tmp_path / "typo") in result.output
    assert not (tmp_path / "typo").exists()


def test_a_check_that_crashes_is_2(ft: Ft, folder: Path) -> None:
    ft("run", "--all")
    gates = (*toy.GATES, Gate("total", "broken_rule", _crash))
    result = ft("gate", defs=toy.build(folder, gates=gates))
    assert result.exit_code == 2
    assert "total.broken_rule" in result.output and "OSError: the disk is away" in result.output


def test_a_check_that_the_job_leaves_out_is_2_though_it_passed_before(ft: Ft, folder: Path) -> None:
    ft("run", "--all")
    result = ft("gate", defs=toy.build(folder, judged=[toy.SMALL]))
    assert result.exit_code == 2
    assert "missing" in result.output


def test_stored_results_are_not_used(ft: Ft, folder: Path) -> None:
    ft("run", "--all")
    assert ft("gate").exit_code == 0
    artifact = next((folder / "state" / "artifacts" / "numbers").glob("*/numbers.json"))
    artifact.write_text("[1, 2, 4]")
    result = ft("gate")
    assert result.exit_code == 1
    assert "FT-ART-003" in result.output


def test_the_reports_agree_in_json_junit_and_markdown(ft: Ft, write: Write, tmp_path: Path) -> None:
    write("numbers.json", [1, 2])
    ft("run", "--all")
    result = ft("gate", "--markdown", "--json", str(tmp_path / "g.json"), "--junit", str(tmp_path / "b" / "g.xml"))
    assert r"| total | total_is_even | no | failed | \[FT-TOY-001\]" in result.output
    report = json.loads((tmp_path / "g.json").read_text())
    assert (report["report_version"], report["exit_code"]) == (2, 1)
    assert {check["check"]: check["state"] for check in report["checks"]} == {
        "numbers_are_small": "passed",
        "total_is_even": "failed",
    }
    suites = ElementTree.parse(tmp_path / "b" / "g.xml").getroot().findall("testsuite")  # noqa: S314
    assert {suite.get("name"): (suite.get("tests"), suite.get("failures")) for suite in suites} == {
        "numbers": ("1", "0"),
        "total": ("1", "1"),
    }
