"""`ft estimate kbalign|ddr`: calls, tokens, time and money of generated rows, before they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from statistics import fmean

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations.text.tokens import estimate_tokens
from expectations.violations import Refused, violation
from ft_assets.config.model import PriceSettings, Settings
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.split import split_file
from ft_assets.ddr.plan import asked_parts, plan_ddr
from ft_assets.generation.planned_calls import PlannedCalls
from ft_assets.kbalign.plan import plan_kbalign
from resources.artifacts import ArtifactStore
from resources.model_shape import find_shape
from resources.parquet import read_rows, row_count
from resources.telemetry import duration
from resources.text_source import CallFigures

GROUPS = ("kbalign", "ddr")
_SAMPLE = 1000
"""Passages whose tokens are estimated."""
_ENDPOINT_TOKENS = 300.0
"""Tokens a second (prompt and answer) of one request at an endpoint, where no run has measured it."""


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second, prompt and answer together; None where it is not known."""

    tokens: float | None
    source: str


class GenerationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that the command shows. Tokens and seconds are those of the expected calls."""

    group: str
    model: str
    steps: list[PlannedCalls]
    calls: int
    most_calls: int
    prompt_tokens: int
    tokens: int
    speed: Speed
    seconds: float | None
    money: float | None
    """In the currency of `generator.price`."""
    budget: int | None
    runs: int
    """Runs that the budget takes."""


def report_generation(
    group: str, settings: Settings, store: ArtifactStore, local_flops: Callable[[], tuple[float | None, str]]
) -> GenerationReport:
    """Return the estimate of a group. `local_flops`: the operations a second of a local model, and their origin.

    Raises Refused: FT-CFG-002 without its section, FT-ART-001 without passages or questions.
    """
    steps = [_as_measured(step, store) for step in _plan(group, settings, store)]
    prompt_tokens = round(sum(step.expected * step.prompt_tokens for step in steps))
    tokens = round(sum(step.expected * step.tokens for step in steps))
    generator, speed = settings.generator, _speed(group, settings, store, local_flops)
    budget, total = generator.max_tokens_total, prompt_tokens + tokens
    return GenerationReport(
        group=group,
        model=generator.model or settings.local_generator()[0],
        steps=steps,
        calls=sum(step.expected for step in steps),
        most_calls=sum(step.most for step in steps),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        speed=speed,
        seconds=total / speed.tokens if speed.tokens else None,
        money=_money(generator.price, prompt_tokens, tokens),
        budget=budget,
        runs=-(-total // budget) if budget else 1,
    )


def print_generation(report: GenerationReport, console: Console) -> None:
    """Print the table of steps and what they cost."""
    console.print(f"[bold]{report.group}[/] with {escape(report.model)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "asset", "calls", "at most", "prompt tokens", "answer tokens"):
        table.add_column(name, justify="left" if name in {"step", "asset"} else "right")
    for step in report.steps:
        figures = (step.expected, step.most, step.expected * step.prompt_tokens, step.expected * step.tokens)
        table.add_row(step.step, step.asset, *(f"{round(figure):,}" for figure in figures))
    total = (report.calls, report.most_calls, report.prompt_tokens, report.tokens)
    table.add_row("[bold]total[/]", "", *(f"[bold]{figure:,}[/]" for figure in total))
    console.print(table)
    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_row("time", _time(report))
    lines.add_row("money", f"{report.money:,.2f}" if report.money is not None else "no generator.price is set")
    if report.budget:
        lines.add_row("budget", f"{report.budget:,} tokens a run: {report.runs} runs")
    lines.add_row("", "[dim]calls that were answered before cost nothing and are counted here all the same[/]")
    console.print(lines)


def _time(report: GenerationReport) -> str:
    if report.seconds is None:
        return f"not known; {report.speed.source}"
    return f"{duration(report.seconds)} at {report.speed.tokens:,.0f} tokens/s ({report.speed.source})"


def _money(price: PriceSettings | None, prompt_tokens: int, tokens: int) -> float | None:
    return (prompt_tokens * price.input + tokens * price.output) / 1e6 if price else None


def _plan(group: str, settings: Settings, store: ArtifactStore) -> list[PlannedCalls]:
    if group == "kbalign" and settings.kbalign:
        hidden = held_out_passages(store.require, settings.datasets.split)
        rows = read_rows(store.require("passages").table(PASSAGES), ["passage_id", "document_id"])
        free = [row["document_id"] for row in rows if row["passage_id"] not in hidden]
        return plan_kbalign(
            settings.kbalign,
            passages=len(free),
            documents=len(set(free)),
            held_out_questions=_questions(store, "validation"),
            passage_tokens=_passage_tokens(store),
        )
    if group == "ddr" and settings.ddr:
        counts = [_questions(store, part) for part in asked_parts(settings.datasets)]
        return plan_ddr(
            settings.ddr,
            questions=sum(min(count, settings.ddr.max_questions or count) for count in counts),
            top_k=settings.answers.top_k,
            max_new_tokens=settings.answers.max_new_tokens,
            passage_tokens=_passage_tokens(store),
        )
    raise Refused("estimating", [violation("FT-CFG-002", where="config.yaml", field=group, expected="a section")])


def _questions(store: ArtifactStore, part: str) -> int:
    return row_count(store.require("instruction_splits").file(split_file(part)))


def _passage_tokens(store: ArtifactStore) -> float:
    """Return the mean tokens of the first passages, as estimated."""
    rows = read_rows(store.require("passages").table(PASSAGES), ["content"])
    return fmean([estimate_tokens(row["content"]) for row in islice(rows, _SAMPLE)] or [0.0])


def _last_run(store: ArtifactStore, assets: Sequence[str]) -> tuple[str, CallFigures] | None:
    """Return the newest artifact of these assets that took new calls, and its figures."""
    made = [artifact for asset in assets for artifact in store.versions(asset)]
    for artifact in sorted(made, key=lambda one: one.manifest.created_at, reverse=True):
        run = artifact.summary_as(CallFigures)
        if run.calls and run.seconds:
            return f"{artifact.asset} {artifact.recipe_id[:8]}", run
    return None


def _as_measured(step: PlannedCalls, store: ArtifactStore) -> PlannedCalls:
    """Return the step with the tokens of a call in the last run, where its asset has this step alone."""
    last = _last_run(store, [step.asset]) if step.step == "questions" else None
    if last is None:
        return step
    run = last[1]
    return msgspec.structs.replace(step, prompt_tokens=run.prompt_tokens / run.calls, tokens=run.tokens / run.calls)


def _speed(
    group: str, settings: Settings, store: ArtifactStore, local_flops: Callable[[], tuple[float | None, str]]
) -> Speed:
    assets = {"kbalign": ["kbalign_short", "kbalign_long", "kbalign_verified"], "ddr": ["ddr_candidates"]}[group]
    if last := _last_run(store, assets):
        name, run = last
        return Speed((run.prompt_tokens + run.tokens) / run.seconds, f"reached by {name}")
    generator = settings.generator
    if generator.kind == "endpoint":
        rate = _ENDPOINT_TOKENS * generator.concurrency
        return Speed(rate, f"an assumption: {_ENDPOINT_TOKENS:.0f} for each of {generator.concurrency} requests")
    name, revision = settings.local_generator()
    flops, source = local_flops()
    ray = settings.launcher.ray
    actors = ray.generators if ray else 1
    if actors > 1:
        source = f"{source}, times {actors} actors of the cluster"
    return Speed(actors * flops / (2 * find_shape(name, revision).parameters) if flops else None, source)
