"""`ft gate`: run every check of the graph now. A check that did not run never counts as passed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import click
import dagster as dg
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations.markdown import markdown_cell, markdown_table
from ft_assets.commands.execution import execute
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import take_terminal
from ft_assets.graph.gates import CRASHED, Evidence, Gate, judge, violations_of
from resources.artifacts import write_json
from resources.telemetry import duration

JOB = "compat_gate"
GATE_REPORT_VERSION = 2
"""Version of the JSON report. Since 2, the paragraphs end with `Fix: …`."""


State = Literal["passed", "failed", "crashed", "missing"]


class CheckOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check: passed, failed (with violations), crashed (it could not judge), missing (it did not run)."""

    asset: str
    check: str
    blocking: bool
    state: State
    paragraphs: list[str] = []


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of one gate run."""

    run_id: str
    seconds: float
    checks: list[CheckOutcome]

    @property
    def exit_code(self) -> int:
        """0 if all passed, 1 if one failed (blocking or not), 2 if one crashed or is missing, or there are none."""
        states = {check.state for check in self.checks}
        if not states or states & {"crashed", "missing"}:
            return 2
        return 1 if "failed" in states else 0


@click.command("gate")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as JSON.")
@click.option(
    "--junit", "junit_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as JUnit XML."
)
@click.option("--markdown", is_flag=True, help="Print a Markdown table, for a pull request.")
@click.option("--served", "only_served", is_flag=True, help="Judge only what serves now (for cron); records nothing.")
@click.pass_context
def command(
    ctx: click.Context, json_path: Path | None, junit_path: Path | None, markdown: bool, only_served: bool
) -> None:
    """Run every check as a CI gate. All checks run now; stored results are not used.

    \b
    Exit code: 0 pass, 1 a check failed (blocking or not), 2 a check could not run or was missing, or there is none
    (--served: nothing was released).
    Example:   ft gate --junit build/gate.xml
    """
    project = Project.here()
    if only_served and not project.state.is_dir():  # a cron job with a typo must not pass
        raise click.UsageError(f"{project.state}: no such folder. FT_STATE_DIR names the state.")
    with take_terminal(project.state / "dagster" / "console.log") as console:
        report = judge_served(project) if only_served else run_gates(project.definitions, project.instance)
        if markdown:
            console.print(as_markdown(report), markup=False, soft_wrap=True)
        elif only_served or project.store.assets():
            print_gates(report, console)
        else:
            console.print(f"Nothing was made yet: ft run --all\n{verdict(report)}", soft_wrap=True)
    if json_path:
        write_json(json_path, as_json(report))
    if junit_path:
        junit_path.parent.mkdir(parents=True, exist_ok=True)
        junit_path.write_bytes(as_junit(report))
    ctx.exit(report.exit_code)


def run_gates(defs: dg.Definitions, instance: dg.DagsterInstance) -> GateReport:
    """Run the job of all checks and compare its results with the checks of the graph."""
    started = time.monotonic()
    graph = defs.resolve_asset_graph()
    result = execute(defs.resolve_job_def(JOB), instance)
    judged = {evaluation.asset_check_key: evaluation for evaluation in result.get_asset_check_evaluations()}
    checks: list[CheckOutcome] = []
    for key in sorted(graph.asset_check_keys, key=lambda k: (k.asset_key, k.name)):
        evaluation = judged.get(key)
        if evaluation is None:
            state, paragraphs = "missing", [f"the job {JOB} did not run this check."]
        elif evaluation.passed:
            state, paragraphs = "passed", list[str]()
        else:
            state = "crashed" if CRASHED in evaluation.metadata else "failed"
            paragraphs = violations_of(evaluation)
        checks.append(
            CheckOutcome(
                asset=key.asset_key.to_user_string(),
                check=key.name,
                blocking=graph.get(key).blocking,
                state=state,
                paragraphs=paragraphs,
            )
        )
    return GateReport(run_id=result.run_id, seconds=round(time.monotonic() - started, 2), checks=checks)


def judge_served(project: Project) -> GateReport:
    """Run the gates on the released assets, without Dagster's instance."""
    from ft_assets.served import GATES, RELEASED

    started = time.monotonic()
    evidence = Evidence(project.store, project.releases, project.engine, project.config)
    checks: list[CheckOutcome] = []
    with evidence.holding() as held:
        for gate in GATES:
            recorded = project.releases.has_record(RELEASED[gate.asset])
            if not recorded and gate.asset == "released_adapter":  # a project may have none
                continue
            state, paragraphs = _judge(gate, held)
            # without a record the alias may serve all the same; if it does not, nothing was judged
            if recorded or state != "passed":
                checks.append(
                    CheckOutcome(
                        asset=gate.asset, check=gate.name, blocking=gate.blocking, state=state, paragraphs=paragraphs
                    )
                )
    return GateReport(run_id="", seconds=round(time.monotonic() - started, 2), checks=checks)


def _judge(gate: Gate, evidence: Evidence) -> tuple[State, list[str]]:
    try:
        violations = judge(gate, evidence).violations
    except Exception as error:  # the other gates are judged all the same
        return "crashed", [f"{type(error).__name__}: {error}"]
    return ("failed" if violations else "passed"), list(map(str, violations))


def print_gates(report: GateReport, console: Console) -> None:
    """Print a table of all checks, then each paragraph once, with the checks that did not pass for it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("asset", "check", "blocking", "result"):
        table.add_column(title)
    for check in report.checks:
        colour = "green" if check.state == "passed" else "red"
        table.add_row(check.asset, check.check, "yes" if check.blocking else "no", f"[{colour}]{check.state}[/]")
    console.print(table)
    found: dict[tuple[str, str], list[str]] = {}
    for check in report.checks:
        for paragraph in check.paragraphs:
            found.setdefault((check.state, paragraph), []).append(f"{check.asset}.{check.check}")
    for (state, paragraph), names in found.items():
        console.print(f"\n[red]{state}[/] [bold]{', '.join(names)}[/]\n  {escape(paragraph)}", soft_wrap=True)
    console.print(f"\n{verdict(report)}", soft_wrap=True)


def verdict(report: GateReport) -> str:
    """Return the outcome and the number of checks by state, as one line."""
    states = [check.state for check in report.checks]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("passed", "failed", "crashed", "missing") if s in states)
    word = {0: "pass", 1: "a check failed", 2: "a check could not run or was missing"}[report.exit_code]
    return f"gate: {word} · {counts or 'no checks at all'} · {duration(report.seconds)}"


def as_json(report: GateReport) -> dict[str, object]:
    """Return the report for a program."""
    return {"report_version": GATE_REPORT_VERSION, **msgspec.to_builtins(report), "exit_code": report.exit_code}


def as_markdown(report: GateReport) -> str:
    """Return the report as a comment for a pull request."""
    rows = [
        (check.asset, check.check, "yes" if check.blocking else "no", check.state, _cell(check))
        for check in report.checks
    ]
    table = markdown_table(["asset", "check", "blocking", "result", "why"], rows)
    return f"**{verdict(report)}**\n\n{table}"


def as_junit(report: GateReport) -> bytes:
    """Return JUnit XML: a suite for each asset; a failed check is a failure, one without a result an error."""
    root = ElementTree.Element("testsuites", name="ft gate", time=str(report.seconds))
    for asset in dict.fromkeys(check.asset for check in report.checks):
        cases = [check for check in report.checks if check.asset == asset]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=asset,
            tests=str(len(cases)),
            failures=str(sum(case.state == "failed" for case in cases)),
            errors=str(sum(case.state in {"crashed", "missing"} for case in cases)),
        )
        for case in cases:
            node = ElementTree.SubElement(suite, "testcase", classname=asset, name=case.check)
            if case.state != "passed":
                kind = "failure" if case.state == "failed" else "error"
                problem = ElementTree.SubElement(node, kind, type=case.state, message=_printable(case.paragraphs[0]))
                problem.text = _printable("\n".join(case.paragraphs))
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _cell(check: CheckOutcome) -> str:
    return markdown_cell(" ".join(check.paragraphs[:3]))


def _printable(text: str) -> str:
    """Remove control characters, which XML 1.0 does not allow."""
    return "".join(character for character in text if character >= " " or character in "\t\n")
