"""`ft estimate corpus`: time, memory and disk of a corpus of any size, on this machine or on a cluster."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ft_assets.config.model import Settings
from resources import accelerator
from resources.corpus_plan import Cluster, CorpusReport, cluster_of, count_of, plan_corpus
from resources.estimate import GIB
from resources.fit_plan import find_card
from resources.model_shape import ModelShape
from resources.telemetry import duration

_TOKENS = 128


def report_corpus(
    shape: ModelShape,
    passages: str | None,
    *,
    cluster: str | None,
    tokens: int | None,
    price: float | None,
    settings: Settings | None,
) -> CorpusReport:
    """Return the estimate. `shape`: of the encoder. Raises click.UsageError for options that mean nothing."""
    if not passages:
        raise click.UsageError("ft estimate corpus needs --passages: 200k, 1.5M, 100M.")
    try:
        count, nodes = count_of(passages), cluster_of(cluster) if cluster else _here()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # without the embeddings: a row of them is looked up, not multiplied; two matrices in a feed-forward block
    parameters = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.ffn)
    dimension = (settings.retrieval.dimension if settings else None) or shape.hidden
    return plan_corpus(count, parameters, dimension, tokens or _TOKENS, nodes, price)


def _here() -> Cluster:
    card = next((card for gpu in accelerator.gpus() if (card := find_card(gpu.name))), None)
    return Cluster(1, accelerator.cores(), accelerator.memory()[0], card, accelerator.cpu_has_bf16())


def print_corpus(report: CorpusReport, model: str, console: Console) -> None:
    """Print the table of steps and what the result takes."""
    nodes = report.cluster
    machine = f"{nodes.nodes} x {nodes.cores} cores, {nodes.memory / GIB:.0f} GB" + (", GPU" if nodes.card else "")
    console.print(f"[bold]{report.passages:,} passages[/] of {report.tokens:g} tokens, {escape(model)}, on {machine}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "CPU time", "time", "memory"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for step in report.steps:
        taken = "GPU" if step.on_gpu else duration(step.core_seconds)
        memory = f"{step.memory / GIB:,.1f} GB" + ("" if step.fits else " [red]does not fit[/]")
        table.add_row(step.step, taken, duration(step.seconds), memory)
    table.add_row("[bold]all, on one node[/]", "", f"[bold]{duration(report.seconds)}[/]", "")
    console.print(table)
    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_row("disk", f"{_gb(report.passages_file)} of passages, {_gb(report.vectors_file)} of vectors a version")
    lines.add_row(
        "Qdrant", f"{_gb(report.engine_memory)} of memory (int8: {_gb(report.engine_memory_int8)}), "
        f"{_gb(report.engine_disk)} of disk a replica",
    )  # fmt: skip
    if report.money is not None:
        lines.add_row("money", f"{report.money:,.2f} for one node, without the engine")
    if nodes.nodes > 1:
        lines.add_row(
            "", f"[dim]every step runs on one of the {nodes.nodes} nodes; launcher.ray.encoders shares encoding[/]"
        )
    lines.add_row("", "[dim]extrapolated from 60,000 passages; the plan for more is in docs/scale.md[/]")
    console.print(lines)


def _gb(size: float) -> str:
    return f"{size / GIB:,.1f} GB"
