"""`ft run`: observe the sources, make the selected assets, run their checks, and report the outcome."""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ft_assets.commands.execution import REFUSALS, bury_dead_runs, execute, failures, reason
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import ProgressLines, take_terminal
from ft_assets.graph.automation import TRAININGS
from ft_assets.graph.gates import CRASHED, violations_of
from resources import telemetry
from resources.artifacts import ArtifactStore, write_json
from resources.telemetry import duration

if TYPE_CHECKING:  # not exported by Dagster
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
    from dagster_shared.error import SerializableErrorInfo

# counts of a run: name -> (asset, key of its summary)
COUNTED = {"encoded": ("passage_vectors", "encoded"), "upserted": ("qdrant_collection", "upserted")}
_NOT_USED = ("quarantined", "left_out")  # figures that a line never leaves out
_CHECK_FAILED = "DagsterAssetCheckFailedError"
_VERSION_TAG = "dagster/data_version"
_NOT_FIGURES = {"recipe", "reused", "artifact"}


class AssetOutcome(msgspec.Struct, kw_only=True):
    """The outcome of one selected asset."""

    asset: str
    state: str = "skipped"
    """made | reused | observed | failed | skipped (an asset or a check before it failed)"""
    version: str = ""
    figures: dict[str, float] = {}
    checks_passed: int = 0
    checks_failed: int = 0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A reason why a run failed: a check that failed, an asset that refused, or a step that crashed."""

    kind: str
    subject: str
    paragraphs: list[str]
    traceback: str = ""


class RunSummary(msgspec.Struct, kw_only=True):
    """The summary that `ft run` prints at the end and writes with --json."""

    run_id: str
    seconds: float
    assets: list[AssetOutcome]
    problems: list[Problem]
    trained: int
    encoded: int
    upserted: int
    exit_code: int


@click.command("run")
@click.option("--group", "groups", multiple=True, metavar="G", help="Make all assets of this group (repeatable).")
@click.option("--asset", "assets", multiple=True, metavar="K", help="Make this asset (repeatable).")
@click.option("--all", "everything", is_flag=True, help="Make the whole graph.")
@click.option("--upstream", is_flag=True, help="Also make every asset that the selection or its checks need.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the summary to this file as JSON.",
)
@click.pass_context
def command(  # noqa: PLR0917  click passes by keyword
    ctx: click.Context,
    groups: tuple[str, ...],
    assets: tuple[str, ...],
    everything: bool,
    upstream: bool,
    json_path: Path | None,
) -> None:
    """Make assets and show the progress. Unchanged assets are reused.

    The settings and source files that the selection reads directly are always read again.

    \b
    Exit code: 0 success, 1 a check failed or an asset refused, 2 something could not run.
    Example:   ft run --group retrieval --upstream
    """
    if not (groups or assets or everything):
        click.echo(ctx.get_help())
        return
    project = Project.here()
    lacking = project.not_configured
    for name in assets:
        if key := lacking.get(name):
            raise click.UsageError(f"{name} needs `{key}`; {project.config} does not have it. Add it.")
    keys = select(project.definitions, groups=groups, assets=assets, everything=everything, upstream=upstream)
    if missing := never_made(project.definitions, keys, project.store, project.instance):
        words = [*(f"--group {name}" for name in groups), *(f"--asset {name}" for name in assets)]
        click.echo(f"ft: never made: {', '.join(missing)}. Run: ft run {' '.join(words)} --upstream", err=True)
        ctx.exit(1)
    project.store.sweep()
    with take_terminal(project.state / "dagster" / "console.log") as console:
        summary = run_assets(project.definitions, project.instance, keys, console)
        print_summary(summary, console, debug=bool(ctx.find_root().params.get("debug")))
        if everything and lacking:
            missing = ", ".join(f"`{key}`" for key in dict.fromkeys(lacking.values()))
            console.print(f"not configured (no {missing} in config.yaml): {', '.join(lacking)}", soft_wrap=True)
    if json_path:
        write_json(json_path, msgspec.to_builtins(summary))
    if everything:
        from ft_assets.commands.summary import print_report

        print_report(project)
    ctx.exit(summary.exit_code)


def never_made(
    defs: dg.Definitions, keys: Sequence[dg.AssetKey], store: ArtifactStore, instance: dg.DagsterInstance
) -> list[str]:
    """Return the assets that those of `keys` read, that are not among them and that were never made."""
    from ft_assets.definitions import SPECS

    graph, chosen = defs.resolve_asset_graph(), {key.to_user_string() for key in keys}
    # of these one is enough, and its guard says which
    optional = set(chain.from_iterable(spec.any_of for spec in SPECS if spec.name in chosen))
    read = set[dg.AssetKey]().union(*(graph.get(key).parent_keys for key in keys)) - set(keys)
    names = sorted(key.to_user_string() for key in read & graph.materializable_asset_keys)
    made = set(store.assets())
    return [
        name
        for name in names
        if name not in optional
        and name not in made
        and instance.get_latest_materialization_event(dg.AssetKey(name)) is None
    ]


def select(
    defs: dg.Definitions,
    *,
    groups: Sequence[str] = (),
    assets: Sequence[str] = (),
    everything: bool = False,
    upstream: bool = False,
) -> list[dg.AssetKey]:
    """Return the assets to make, with the settings and sources they read directly. Raises UsageError for unknown names.

    `upstream`: also every asset that the selection or its checks need.
    """
    graph = defs.resolve_asset_graph()
    runnable = graph.materializable_asset_keys | graph.observable_asset_keys
    by_name = {key.to_user_string(): key for key in runnable}
    _refuse_unknown("asset", assets, by_name.keys())
    _refuse_unknown("group", groups, {graph.get(key).group_name or "" for key in runnable})
    chosen = {key for key in runnable if everything or graph.get(key).group_name in groups}
    chosen |= {by_name[name] for name in assets}
    if upstream:
        chosen = _with_upstream(graph, chosen, runnable)
    parents = set[dg.AssetKey]().union(*(graph.get(key).parent_keys for key in chosen)) & runnable
    chosen |= {key for key in parents if key in graph.observable_asset_keys or graph.get(key).group_name == "settings"}
    return [key for key in graph.toposorted_asset_keys if key in chosen]


def _refuse_unknown(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise click.UsageError(f"there is no {kind} {name!r}. Did you mean: {', '.join(similar)}?")


def _with_upstream(
    graph: AssetGraph, chosen: AbstractSet[dg.AssetKey], runnable: AbstractSet[dg.AssetKey]
) -> set[dg.AssetKey]:
    """Return `chosen` with every runnable asset that it or its checks need."""
    result = set(chosen)
    queue = list(chosen)
    while queue:
        node = graph.get(queue.pop())
        # checks of records also read the glossary, which is no input of the records
        read_by_checks = set[dg.AssetKey]()
        for check in node.check_keys:
            parents = graph.get(check).parent_entity_keys & runnable
            read_by_checks |= {key for key in parents if graph.get(key).group_name != node.group_name}
        needed = (node.parent_keys | read_by_checks) & runnable - result
        result |= needed
        queue += needed
    return result


def run_assets(
    defs: dg.Definitions, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], console: Console
) -> RunSummary:
    """Execute `keys` as one run in this process, with progress on `console`."""
    started = time.monotonic()
    if bury_dead_runs(instance):
        console.print("A run whose process was killed was marked as failed.")
    observable = defs.resolve_asset_graph().observable_asset_keys
    to_make = [key.to_user_string() for key in keys if key not in observable]
    with ProgressLines(console, total=len(to_make)) as lines:
        progress = _Progress(lines, to_make)
        unsubscribe = telemetry.subscribe(progress.on_progress)
        try:
            job = defs.resolve_implicit_global_asset_job_def()
            result = execute(job, instance, keys=keys, listener=progress.on_event)
        finally:
            unsubscribe()
    return summarise_run(result, keys, time.monotonic() - started)


class _Progress:
    """Shows the progress of a run from the telemetry of its assets and the events of Dagster."""

    def __init__(self, lines: ProgressLines, to_make: Sequence[str]) -> None:
        self._lines = lines
        self._to_make = to_make
        self._finished: set[str] = set()

    def on_progress(self, progress: telemetry.Progress) -> None:
        """Show what an asset or a worker reports."""
        if progress.kind in {"made", "reused"}:
            self._finished.add(progress.asset)
        self._lines.show(progress)

    def on_event(self, entry: dg.EventLogEntry) -> None:
        """Show the start, the failure or the materialization of a step."""
        event = entry.dagster_event
        if event is None:
            return
        step = event.step_key or ""
        if event.is_step_start and step in self._to_make:
            self._lines.show(telemetry.Progress(asset=step, kind="start"))
        elif event.is_step_failure:
            error = failures([event]).get(step)
            if step in self._to_make and error is not None:
                text = (reason(error).splitlines() or [str(error.cls_name)])[0]
                self._lines.show(telemetry.Progress(asset=step, kind="failed", text=text))
        elif event.is_step_materialization and event.asset_key:
            asset = event.asset_key.to_user_string()
            if asset not in self._finished:  # it was not made by `produce`, which reports its own progress
                self._lines.show(telemetry.Progress(asset=asset, kind="made"))


def summarise_run(result: dg.ExecuteInProcessResult, keys: Sequence[dg.AssetKey], seconds: float) -> RunSummary:
    """Return the summary of a finished run, from its own events."""
    outcomes = {key: AssetOutcome(asset=key.to_user_string()) for key in keys}
    for event in result.all_events:
        if event.asset_key in outcomes:
            _note_event(outcomes[event.asset_key], event)
    evaluations = result.get_asset_check_evaluations()
    for evaluation in evaluations:
        if outcome := outcomes.get(evaluation.asset_key):
            outcome.checks_passed += evaluation.passed
            outcome.checks_failed += not evaluation.passed
    problems = [_failed_check(evaluation) for evaluation in evaluations if not evaluation.passed]
    by_step = {key.to_python_identifier(): outcome for key, outcome in outcomes.items()}
    for step, error in failures(result.all_events).items():
        if error.cls_name == _CHECK_FAILED:
            continue  # a blocking check that failed is in `problems` already
        problems.append(_failed_step(step, error))
        if step in by_step:
            by_step[step].state = "failed"
    crashed = any(problem.kind == "crashed" for problem in problems) or not (result.success or problems)
    by_name = {outcome.asset: outcome for outcome in outcomes.values()}
    return RunSummary(
        run_id=result.run_id,
        seconds=round(seconds, 1),
        assets=list(outcomes.values()),
        problems=problems,
        trained=sum(by_name[name].state == "made" for name in TRAININGS if name in by_name),
        **{total: _count(by_name, *source) for total, source in COUNTED.items()},
        exit_code=2 if crashed else 1 if problems else 0,
    )


def _note_event(outcome: AssetOutcome, event: dg.DagsterEvent) -> None:
    """Set state, version and figures from a materialization or an observation."""
    if event.is_step_materialization:
        materialization = event.step_materialization_data.materialization
        values = {name: value.value for name, value in materialization.metadata.items()}
        outcome.state = "reused" if values.get("reused") is True else "made"
        outcome.version = (materialization.tags or {}).get(_VERSION_TAG, "")
        outcome.figures = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and _is_figure(name)
        }
    elif event.is_asset_observation and outcome.state == "skipped":
        observation = event.asset_observation_data.asset_observation
        outcome.state = "observed"
        outcome.version = (observation.tags or {}).get(_VERSION_TAG, "")


def _is_figure(name: str) -> bool:
    return name not in _NOT_FIGURES and not name.startswith("dagster/")


def _failed_check(evaluation: dg.AssetCheckEvaluation) -> Problem:
    subject = f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}"
    if crash := evaluation.metadata.get(CRASHED):
        return Problem(
            kind="crashed", subject=subject, paragraphs=violations_of(evaluation), traceback=str(crash.value)
        )
    return Problem(kind="check failed", subject=subject, paragraphs=violations_of(evaluation))


def _failed_step(step: str, error: SerializableErrorInfo) -> Problem:
    kind = "refused" if error.cls_name in REFUSALS else "crashed"
    return Problem(kind=kind, subject=step, paragraphs=[reason(error)], traceback=error.to_string())


def print_summary(summary: RunSummary, console: Console, *, debug: bool = False) -> None:
    """Print the table of assets, every problem as a paragraph, and the totals."""
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
            console.print("  Run `ft --debug run ...` for the traceback.")
    states = [outcome.state for outcome in summary.assets]
    passed = sum(outcome.checks_passed for outcome in summary.assets)
    failed = sum(outcome.checks_failed for outcome in summary.assets)
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("made", "reused", "failed", "skipped") if states.count(state)
    )
    console.print(
        f"\n{counts or 'nothing to make'} · checks: {passed} passed, {failed} failed · "
        f"trained {summary.trained}, encoded {summary.encoded}, upserted {summary.upserted} · "
        f"{duration(summary.seconds)}",
        soft_wrap=True,
    )


def figures_line(figures: Mapping[str, float], most: int = 4) -> str:
    """Return the first few figures of an asset as text, and what it did not use: `rows 120, quarantined 3`."""
    names = [*islice(figures, most), *(name for name in _NOT_USED if name in figures)]
    return ", ".join(f"{name} {_number(figures[name])}" for name in dict.fromkeys(names))


def _number(value: float) -> str:
    return f"{int(value)}" if float(value).is_integer() else f"{value:.4g}"


def _count(outcomes: dict[str, AssetOutcome], asset: str, key: str) -> int:
    outcome = outcomes.get(asset)
    return int(outcome.figures.get(key, 0)) if outcome and outcome.state == "made" else 0
