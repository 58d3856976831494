"""`ft run`: observe the sources, make the selected assets, judge them, and say what came out of it."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click
import dagster as dg
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ft_assets.commands.execution import bury_dead_runs, execute, failures, reason, violations_of
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import ProgressLines, duration, take_terminal
from resources import telemetry
from resources.artifacts import write_json

TRAINED = ("sft_adapter", "dpo_adapter", "embedding_model")
# what a run reports as encoded and upserted: asset -> key of its summary
COUNTED = {"encoded": ("passage_vectors", "encoded"), "upserted": ("qdrant_collection", "upserted")}
_NOT_FIGURES = {"recipe", "reused", "artifact"}


class AssetOutcome(msgspec.Struct, kw_only=True):
    """What became of one selected asset."""

    asset: str
    state: str = "skipped"
    """made | reused | observed | failed | skipped (something before it failed)"""
    version: str = ""
    figures: dict[str, float] = {}
    checks_passed: int = 0
    checks_failed: int = 0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run did not go through: a check that failed, an asset that refused, or a step that crashed."""

    kind: str
    subject: str
    paragraphs: list[str]
    traceback: str = ""


class RunSummary(msgspec.Struct, kw_only=True):
    """What `ft run` prints at the end and writes with --json."""

    run_id: str
    seconds: float
    assets: list[AssetOutcome]
    problems: list[Problem]
    trained: int
    encoded: int
    upserted: int
    exit_code: int


@click.command("run")
@click.option("--group", "groups", multiple=True, metavar="G", help="All assets of a group (repeatable).")
@click.option("--asset", "assets", multiple=True, metavar="K", help="One asset (repeatable).")
@click.option("--all", "everything", is_flag=True, help="The whole graph.")
@click.option("--upstream", is_flag=True, help="Also everything that the selection is made from and judged by.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the summary there.")
@click.pass_context
def command(  # noqa: PLR0917  click passes by keyword
    ctx: click.Context,
    groups: tuple[str, ...],
    assets: tuple[str, ...],
    everything: bool,
    upstream: bool,
    json_path: Path | None,
) -> None:
    """Make assets, with progress. What is unchanged is reused.

    The settings and source files that the selection reads directly are always read anew.

    \b
    Exit code: 0 all went well, 1 a check failed or an asset refused, 2 something could not run.
    Example:   ft run --group retrieval --upstream
    """
    if not (groups or assets or everything):
        click.echo(ctx.get_help())
        return
    project = Project.here()
    keys = select(project.definitions, groups=groups, assets=assets, everything=everything, upstream=upstream)
    project.store.sweep()
    with take_terminal(project.state / "dagster" / "console.log") as console:
        summary = run_assets(project.definitions, project.instance, keys, console)
        print_summary(summary, console, debug=bool(ctx.find_root().params.get("debug")))
    if json_path:
        write_json(json_path, msgspec.to_builtins(summary))
    if everything:
        from ft_assets.commands.summary import print_report

        print_report(project)
    ctx.exit(summary.exit_code)


def select(
    defs: dg.Definitions,
    *,
    groups: Sequence[str] = (),
    assets: Sequence[str] = (),
    everything: bool = False,
    upstream: bool = False,
) -> list[dg.AssetKey]:
    """The assets to make, with the settings and sources they read directly. Raises UsageError for unknown names."""
    graph = defs.resolve_asset_graph()
    runnable = graph.materializable_asset_keys | graph.observable_asset_keys
    by_name = {key.to_user_string(): key for key in runnable}
    known_groups = {graph.get(key).group_name for key in runnable}
    for given, known, what in ((assets, set(by_name), "asset"), (groups, known_groups, "group")):
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3) or sorted(known)
                raise click.UsageError(f"there is no {what} {name!r}. Did you mean: {', '.join(near)}?")
    chosen = {key for key in runnable if everything or graph.get(key).group_name in groups}
    chosen |= {by_name[name] for name in assets}
    if upstream:
        todo = list(chosen)
        while todo:
            node = graph.get(todo.pop())
            # checks of records also read the glossary, which no record is made from
            judged_by = {key for check in node.check_keys for key in graph.get(check).parent_entity_keys}
            judged_by = {key for key in judged_by if key in runnable and graph.get(key).group_name != node.group_name}
            parents = (node.parent_keys | judged_by) & runnable - chosen
            chosen |= parents
            todo += parents
    read = {parent for key in chosen for parent in graph.get(key).parent_keys & runnable}
    chosen |= {key for key in read if key in graph.observable_asset_keys or graph.get(key).group_name == "settings"}
    return [key for key in graph.toposorted_asset_keys if key in chosen]


def run_assets(
    defs: dg.Definitions, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], console: Console
) -> RunSummary:
    """Execute `keys` as one run in this process, showing progress on `console`."""
    started = time.monotonic()
    if bury_dead_runs(instance):
        console.print("A run whose process was killed was marked as failed.")
    observable = defs.resolve_asset_graph().observable_asset_keys
    made_here = [key.to_user_string() for key in keys if key not in observable]
    with ProgressLines(console, total=len(made_here)) as lines:
        finished: set[str] = set()

        def on_progress(progress: telemetry.Progress) -> None:
            if progress.kind in {"made", "reused"}:
                finished.add(progress.asset)
            lines.show(progress)

        def on_event(entry: dg.EventLogEntry) -> None:
            event = entry.dagster_event
            if event is None:
                return
            name = event.step_key or ""
            if event.is_step_start and name in made_here:
                lines.show(telemetry.Progress(asset=name, kind="start"))
            elif event.is_step_failure:
                found = failures([event])
                if name in made_here and name in found:
                    first = reason(found[name]).splitlines()[0] if reason(found[name]) else found[name].cls_name
                    lines.show(telemetry.Progress(asset=name, kind="failed", text=first))
            elif event.is_step_materialization and event.asset_key:
                asset = event.asset_key.to_user_string()
                if asset not in finished:  # it does not go through `produce`, which tells by itself
                    lines.show(telemetry.Progress(asset=asset, kind="made"))

        unsubscribe = telemetry.subscribe(on_progress)
        try:
            result = execute(defs.resolve_implicit_global_asset_job_def(), instance, keys=keys, listener=on_event)
        finally:
            unsubscribe()
    return summarise(result, keys, time.monotonic() - started)


def summarise(result: dg.ExecuteInProcessResult, keys: Sequence[dg.AssetKey], seconds: float) -> RunSummary:
    """The summary of a finished run, from its own events."""
    outcomes = {key: AssetOutcome(asset=key.to_user_string()) for key in keys}
    problems: list[Problem] = []
    for event in result.all_events:
        outcome = outcomes.get(event.asset_key) if event.asset_key else None
        if event.is_step_materialization and outcome:
            materialization = event.step_materialization_data.materialization
            values = {name: value.value for name, value in materialization.metadata.items()}
            outcome.state = "reused" if values.get("reused") is True else "made"
            outcome.version = (materialization.tags or {}).get("dagster/data_version", "")
            outcome.figures = {
                name: float(value)
                for name, value in values.items()
                if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_FIGURES
            }
        elif event.is_asset_observation and outcome and outcome.state == "skipped":
            observation = event.asset_observation_data.asset_observation
            outcome.state = "observed"
            outcome.version = (observation.tags or {}).get("dagster/data_version", "")
    judged: set[str] = set()
    for evaluation in result.get_asset_check_evaluations():
        judged.add(f"{evaluation.asset_key.to_python_identifier()}_{evaluation.check_name}")
        outcome = outcomes.get(evaluation.asset_key)
        if outcome and evaluation.passed:
            outcome.checks_passed += 1
        elif outcome:
            outcome.checks_failed += 1
        if not evaluation.passed:
            subject = f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}"
            problems.append(Problem(kind="check failed", subject=subject, paragraphs=violations_of(evaluation)))
    for step, error in failures(result.all_events).items():
        if step in judged:
            continue  # a blocking check that failed: said above
        kind = "refused" if error.cls_name == "Refused" else "crashed"
        problems.append(
            Problem(kind=kind, subject=step, paragraphs=[reason(error)], traceback=cast("str", error.to_string()))
        )
        for key, outcome in outcomes.items():
            if key.to_python_identifier() == step:
                outcome.state = "failed"
    crashed = any(problem.kind == "crashed" for problem in problems) or not (result.success or problems)
    by_name = {outcome.asset: outcome for outcome in outcomes.values()}
    return RunSummary(
        run_id=result.run_id,
        seconds=round(seconds, 1),
        assets=list(outcomes.values()),
        problems=problems,
        trained=sum(by_name[name].state == "made" for name in TRAINED if name in by_name),
        **{total: _count(by_name, *source) for total, source in COUNTED.items()},
        exit_code=2 if crashed else 1 if problems else 0,
    )


def print_summary(summary: RunSummary, console: Console, *, debug: bool = False) -> None:
    """The table of assets, every problem as a paragraph, and the totals."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("asset", "state", "version", "figures", "checks"):
        table.add_column(title, overflow="fold" if title == "figures" else "ellipsis", no_wrap=title != "figures")
    colours = {"made": "green", "failed": "red", "skipped": "yellow"}
    for outcome in summary.assets:
        checks = f"{outcome.checks_passed} passed" if outcome.checks_passed else ""
        if outcome.checks_failed:
            checks = f"[red]{outcome.checks_failed} FAILED[/] {checks}".strip()
        colour = colours.get(outcome.state, "default")
        table.add_row(
            outcome.asset, f"[{colour}]{outcome.state}[/]", outcome.version[:12], figures_line(outcome.figures), checks
        )
    console.print(table)
    for problem in summary.problems:
        console.print(f"\n[red]{problem.kind}[/]: [bold]{escape(problem.subject)}[/]")
        for paragraph in problem.paragraphs:
            console.print(f"  {escape(paragraph)}", soft_wrap=True)
        if problem.traceback and debug:
            console.print(escape(problem.traceback), soft_wrap=True)
        elif problem.kind == "crashed":
            console.print("  `ft --debug run ...` shows the traceback.")
    states = [outcome.state for outcome in summary.assets]
    passed, failed = (sum(getattr(o, name) for o in summary.assets) for name in ("checks_passed", "checks_failed"))
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("made", "reused", "failed", "skipped") if states.count(state)
    )
    console.print(
        f"\n{counts or 'nothing to make'} · checks: {passed} passed, {failed} failed · "
        f"trained {summary.trained}, encoded {summary.encoded}, upserted {summary.upserted} · "
        f"{duration(summary.seconds)}",
        soft_wrap=True,
    )


def figures_line(figures: dict[str, Any], most: int = 4) -> str:
    """The first few figures of an asset: `rows 120, dropped 3`."""
    return ", ".join(f"{name} {_number(value)}" for name, value in list(figures.items())[:most])


def _number(value: float) -> str:
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


def _count(outcomes: dict[str, AssetOutcome], asset: str, key: str) -> int:
    outcome = outcomes.get(asset)
    return int(outcome.figures.get(key, 0)) if outcome and outcome.state == "made" else 0
