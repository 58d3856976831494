"""`ft doctor`: compare this machine with what the configuration needs, and name each fix.

Imports torch only for the weights of a model that is here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from rich.markup import escape
from rich.table import Table

import ft_assets
from expectations.rules.training import check_learning_rate
from expectations.violations import Refused
from ft_assets.adapters.trainer.memory_needs import fitting_rows, least_needs, needs_of
from ft_assets.commands.estimate import existing, local_machine
from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console
from ft_assets.config.generator import params_of_generator
from ft_assets.config.load import SettingsError
from ft_assets.config.model import NEEDS_BITSANDBYTES
from resources import accelerator, hub, models
from resources.endpoint import EndpointSource
from resources.estimate import estimate_training
from resources.model_shape import find_shape

_GIB = 2**30
_MIN_FREE, _WARN_FREE = 1 * _GIB, 10 * _GIB
_MIN_MEMORY = 6 * _GIB
_OLDEST_GPU = (7, 5)  # CUDA 13 builds begin there
_DAEMON_SECONDS = 120  # twice the time between heartbeats, and some
_WEIGHTS = "weights (sft and dpo)"
_READ_VALUES = 4 * _GIB  # reading more takes more than seconds
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `fix` is what to do when it is not ok."""

    state: Literal["ok", "warn", "bad"]
    what: str
    found: str
    fix: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show hardware, libraries, models and services, and what this configuration still needs.

    \b
    Exit code: 0 nothing is bad, 1 something is.
    Example:   FT_PROFILE=gpu-10gb ft doctor
    """
    findings = examine(Project.here())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), ensure_ascii=False, indent=2))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        colours = {"ok": "green", "warn": "yellow", "bad": "red"}
        for finding in findings:
            text = escape(finding.found) + (f" [dim]→ {escape(finding.fix)}[/]" if finding.fix else "")
            table.add_row(f"[{colours[finding.state]}]{finding.state}[/]", finding.what, text)
        make_console().print(table)
    ctx.exit(int(any(finding.state == "bad" for finding in findings)))


def examine(project: Project) -> list[Finding]:
    """Return every finding about this machine and this project."""
    findings = [*_python(), *_libraries(), *_hardware(), *_disk(project.state)]
    try:
        _ = project.settings
    except SettingsError as error:
        return [*findings, Finding("bad", "configuration", "; ".join(error.errors), f"fix {project.config}")]
    findings.append(
        Finding("ok", "configuration", f"{project.config} (profile {os.environ.get('FT_PROFILE') or 'default'})")
    )
    return [
        *findings,
        *_accelerator(project),
        *_models(project),
        *_training(project),
        *_endpoint(project),
        *_qdrant(project),
        *_dagster(project.state),
        *_state(project),
    ]


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "ok" if good else "bad", "python", platform.python_version(), "" if good else "use Python 3.11 or newer"
    )


def _libraries() -> Iterator[Finding]:
    for name in ("dagster", "torch", "qdrant-client"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("bad", "libraries", f"{name} is not installed", "pip install 'ft-assets[platform]'")
            return
    constraints = Path(ft_assets.__file__).resolve().parent.parent / "constraints.txt"
    if not constraints.is_file():
        yield Finding("warn", "libraries", "no constraints.txt to compare with")
        return
    pins = {match[1]: match[2] for line in constraints.read_text("utf-8").splitlines() if (match := _PIN.match(line))}
    installed = {_normal(d.name): d.version for d in metadata.distributions() if d.name}
    here = {name: installed[_normal(name)] for name in pins if _normal(name) in installed}
    # a local build label (+cpu, +cu128) is the same release
    other = [f"{n} {v} (pinned {pins[n]})" for n, v in here.items() if v.partition("+")[0] != pins[n].partition("+")[0]]
    if other:
        yield Finding("warn", "libraries", ", ".join(other), "pip install -c constraints.txt -e '.[platform]'")
    else:
        yield Finding("ok", "libraries", f"{len(here)} of {len(pins)} pinned libraries installed, all as pinned")


def _hardware() -> Iterator[Finding]:
    flags = sorted(accelerator.cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    bf16 = "bf16 in hardware" if accelerator.cpu_has_bf16() else "no bf16: float32"
    yield Finding("ok", "cpu", f"{accelerator.cores()} cores, {bf16}" + (f" ({' '.join(flags)})" if flags else ""))
    total, available = accelerator.memory()
    if available:
        enough = available >= _MIN_MEMORY
        fix = (
            ""
            if enough
            else f"training needs about {_MIN_MEMORY / _GIB:.0f} GiB; close something or use a smaller model"
        )
        yield Finding("ok" if enough else "warn", "memory", f"{_gib(available)} of {_gib(total)} available", fix)
    try:
        gpus = accelerator.gpus()
    except ModuleNotFoundError:
        yield Finding("warn", "gpu", "nvidia-ml-py is not installed", "pip install 'ft-assets[platform]'")
        return
    for gpu in gpus:
        major, minor = gpu.capability
        bf16 = "bf16" if gpu.bf16 else "no bf16: float16"
        found = f"{gpu.name}: {_gib(gpu.free)} of {_gib(gpu.total)} free, capability {major}.{minor}, {bf16}"
        old = gpu.capability < _OLDEST_GPU
        yield Finding(
            "warn" if old else "ok", "gpu", found, "newer CUDA builds of torch do not support it" if old else ""
        )
    if not gpus:
        yield Finding("ok", "gpu", "none found; work runs on the CPU")
    yield from _torch_build(has_gpu=bool(gpus))


def _torch_build(*, has_gpu: bool) -> Iterator[Finding]:
    """Yield whether torch can use the GPU, from the label of its version: importing torch takes seconds."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return  # the line of the libraries reports it
    if has_gpu and version.endswith("+cpu"):
        fix = f"pip install torch=={version.removesuffix('+cpu')} from the index that pytorch.org names for your driver"
        yield Finding("bad", "torch", f"{version} cannot use the GPU that is here", fix)
    else:
        yield Finding("ok", "torch", version)


def _disk(state: Path) -> Iterator[Finding]:
    folder = existing(state)
    free = shutil.disk_usage(folder).free
    level = "bad" if free < _MIN_FREE else "warn" if free < _WARN_FREE else "ok"
    yield Finding(
        level, "disk", f"{_gib(free)} free at {state}", "" if level == "ok" else "free space, or move FT_STATE_DIR"
    )
    if not os.access(folder, os.W_OK):
        yield Finding("bad", "disk", f"{folder} is not writable", "set FT_STATE_DIR to a folder you may write to")


def _accelerator(project: Project) -> Iterator[Finding]:
    device = project.settings.accelerator.device
    if device == "cuda" and importlib.util.find_spec("pynvml") and not accelerator.gpus():
        fix = "set accelerator.device: auto, or fix the driver (nvidia-smi must show the GPU)"
        yield Finding("bad", "accelerator", "accelerator.device is `cuda`, and there is no GPU", fix)


def _models(project: Project) -> Iterator[Finding]:
    settings = project.settings
    trained = next(iter(settings.trainings.values()), None)
    named = {"sft and dpo": trained, "embedding": settings.embedding}
    used = {use: (section.base_model, section.revision) for use, section in named.items() if section}
    if settings.retrieval and (rerank := settings.retrieval.rerank):
        used["rerank"] = (rerank.model, rerank.revision)
    if settings.embedding and (teacher := settings.embedding.teacher):
        used["embedding.teacher"] = (teacher.model, teacher.revision)
    found = [_model(f"model ({use})", *place) for use, place in used.items()]
    yield from found
    if trained is not None:
        yield from _weights(trained.base_model, trained.revision)
    yield _hub(needed=any(finding.state == "warn" for finding in found))


def _weights(name: str, revision: str | None) -> Iterator[Finding]:
    """Yield the faults of the language model's weights, where they are here, as the training would find them."""
    try:
        folder = models.look_up(name, revision).path
    except (Refused, ModuleNotFoundError):
        return  # the line of the model gives the reason
    if folder is None or not folder.is_dir():
        return
    files = list(folder.glob("*.safetensors"))
    if not files:
        yield Finding("bad", _WEIGHTS, f"{folder} has no *.safetensors", "fetch the model again")
        return
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return  # the line of the libraries reports it
    from resources.model_check import check_model

    read = sum(path.stat().st_size for path in files) <= _READ_VALUES
    try:
        faults = check_model(folder, values=read)
    except (OSError, ValueError) as error:  # a file that is missing, a kind of model that is not known
        reason = str(error).partition("\n")[0]
        yield Finding("bad", _WEIGHTS, f"{folder}: {reason}", "fetch the model again, or name another one")
        return
    for fault in faults:
        yield Finding("bad", _WEIGHTS, f"{fault.field or folder}: {fault.message}", fault.fix)
    if not faults:
        detail = "every number is finite" if read else "numbers are read when a training begins"
        yield Finding("ok", _WEIGHTS, f"{len(files)} files, all tensors there; {detail}")


def _hub(*, needed: bool) -> Finding:
    """Return whether the hub answers. `needed`: a configured model must still be downloaded."""
    if (problem := hub.why_unreachable()) is None:
        return Finding("ok", "hub", f"{hub.endpoint()} answers")
    found = f"offline: {hub.endpoint()}: {problem}"
    if not needed:
        return Finding("ok", "hub", f"{found}; every configured model is here")
    return Finding("bad", "hub", found, "set HF_ENDPOINT to a mirror, or name a model's folder in config.yaml")


def _training(project: Project) -> Iterator[Finding]:
    """Yield whether the configured fine-tunings fit into the free memory and onto the free disk (estimates)."""
    settings = project.settings
    sections = settings.trainings
    if not sections:
        return
    chosen = set(chain.from_iterable((section.method, section.optimizer) for section in sections.values()))
    needing = sorted(chosen & {"qlora", *NEEDS_BITSANDBYTES})
    if needing and importlib.util.find_spec("bitsandbytes") is None:
        fix = "pip install 'ft-assets[qlora]', or set method: lora and optimizer: adamw"
        yield Finding("bad", "bitsandbytes", f"{' and '.join(needing)} needs it, and it is not installed", fix)
    try:
        base = next(iter(sections.values()))
        shape = find_shape(base.base_model, base.revision)
        machine = local_machine(settings.accelerator)
    except Refused:
        return  # the line of the model, or of the hub, gives the reason
    except ModuleNotFoundError as error:
        yield Finding("warn", "fit", f"{error.name} is not installed", "pip install 'ft-assets[platform]'")
        return
    for name, section in sections.items():
        for unusual in check_learning_rate(
            method=section.method, learning_rate=section.learning_rate, usual_full=section.usual_full_rate, where=name
        ):
            yield Finding("warn", f"rate ({name})", f"{unusual.found:g}: {unusual.message}", unusual.fix)
        lora = settings.shape_of_adapter(section)
        on: dict[str, Any] = {"device": machine.device, "bf16": machine.bf16}
        on["processes"] = settings.launcher.processes
        rows = fitting_rows(section, lora, shape, **on, memory=machine.memory)
        planned = section.model_copy(update={"micro_batch_size": rows})
        configured, least = (
            estimate_training(shape, *needs(planned, lora, tokens=section.max_length, **on))
            for needs in (needs_of, least_needs)
        )
        found = f"{_gib(configured.total)} for rows of {section.max_length} tokens, {_gib(configured.disk)} of disk"
        if not configured.fits(machine.memory):
            found += f"; at least {_gib(least.total)} after every fallback; "
            found += f"{_gib(machine.memory)} free on {machine.name}"
        if not least.fits(machine.memory):
            command = f"ft estimate{' --dpo' if name == 'dpo' else ''}"
            yield Finding("warn", f"fit ({name})", found, f"{command} shows the parts and a plan that fits")
        elif configured.disk > shutil.disk_usage(existing(project.state)).free:
            yield Finding("bad", f"fit ({name})", found, "free disk space, or move FT_STATE_DIR")
        else:
            yield Finding("ok", f"fit ({name})", found)


def _endpoint(project: Project) -> Iterator[Finding]:
    """Yield whether the endpoint serves the configured model and reads what `context_tokens` promises. It is asked."""
    if project.settings.generator.kind != "endpoint":
        return
    params = msgspec.structs.replace(params_of_generator(project.settings), max_retries=0)
    where = f"{params.model} at {params.url}"
    try:
        with closing(EndpointSource(params)) as source:
            source.check()
    except Refused as refusal:
        violation = refusal.violations[0]
        yield Finding("bad", "generator", f"{where}: [{violation.code}] {violation.message}", violation.fix)
    except ModuleNotFoundError as error:
        yield Finding("bad", "generator", f"{error.name} is not installed", "pip install 'ft-assets[platform]'")
    else:
        yield Finding("ok", "generator", f"{where} answers, and reads {params.context_tokens} tokens")


def _model(what: str, name: str, revision: str | None) -> Finding:
    """Return the place of the model; nothing is downloaded or converted."""
    try:
        place = models.look_up(name, revision)
    except Refused as refusal:
        violation = refusal.violations[0]
        return Finding("bad", what, f"{name}: {violation.message}", violation.fix)
    except ModuleNotFoundError as error:
        return Finding("bad", what, f"{name}: {error.name} is not installed", "pip install 'ft-assets[platform]'")
    if place.path is None:
        fix = "the first run downloads it; without that hub, set HF_ENDPOINT to a mirror or name a folder"
        return Finding("warn", what, f"{name} is not in the hub cache; needs {hub.endpoint()}", fix)
    return Finding("ok", what, f"{name}: {'in the hub cache' if place.kind == 'hub' else place.path}")


def _qdrant(project: Project) -> Iterator[Finding]:
    engine = replace(project.engine, lock_timeout=min(project.engine.lock_timeout, 2.0))
    if engine.kind != "server" and not engine.folder.is_dir():
        yield Finding("ok", "qdrant", f"{engine.kind}, no collection yet")
        return
    try:
        with engine.open() as client:
            names = client.names()
    except Refused as refusal:
        violation = refusal.violations[0]
        yield Finding("bad", "qdrant", f"{violation.where}: {violation.message}", violation.fix)
    except ModuleNotFoundError as error:
        yield Finding("bad", "qdrant", f"{error.name} is not installed", "pip install 'ft-assets[platform]'")
    else:
        yield Finding("ok", "qdrant", f"{engine.address}: {len(names)} collections")


def _dagster(state: Path) -> Iterator[Finding]:
    """Yield the state of Dagster's home, and whether a daemon (schedules, sensors, queued runs) is running."""
    configured = os.environ.get("DAGSTER_HOME")
    from ft_assets.graph.instance import dagster_home, open_instance

    home = dagster_home(state)
    if configured and Path(configured).resolve() != home:
        yield Finding("warn", "dagster", f"DAGSTER_HOME is {configured}", f"unset it: ft keeps its runs in {home}")
    if not (home / "dagster.yaml").is_file():
        yield Finding("ok", "dagster", "no home yet; the first `ft run` or `ft ui` creates it")
        return
    from dagster import DagsterError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with open_instance(state) as instance:
            beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    except (DagsterError, SQLAlchemyError, OSError, Refused) as error:
        fix = f"move {home} away: runs are lost, artifacts are not"
        yield Finding("bad", "dagster", f"{home} cannot be opened ({type(error).__name__})", fix)
        return
    alive = beats and time.time() - max(beats) < _DAEMON_SECONDS
    yield Finding(
        "ok", "dagster", f"{home}: " + ("a daemon is running" if alive else "no daemon is running; `ft ui` starts one")
    )


def _state(project: Project) -> Iterator[Finding]:
    store = project.store
    if not store.root.is_dir():
        yield Finding("ok", "state", f"{project.state} is new")
        return
    staging = store.root / ".staging"
    work = [folder.name for folder in staging.iterdir()] if staging.is_dir() else []
    if work:
        fix = "nothing to do: another process works there, or the next `ft run` deletes them"
        yield Finding("warn", "state", f"{len(work)} unpublished staging folders", fix)
    count = 0
    for folder in sorted(path for path in store.root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for recipe in sorted(path for path in folder.iterdir() if path.is_dir()):
            artifact = store.find(folder.name, recipe.name)
            count += 1
            fix = f"delete {recipe} and run `ft run --asset {folder.name}`"
            if artifact is None and store.shared:
                continue  # retired by another machine: the next run removes what is left of it here
            if artifact is None:
                yield Finding("bad", "state", f"{folder.name}/{recipe.name} has no whole manifest", fix)
            elif violations := artifact.verify(fetch=False):
                yield Finding("bad", "state", f"{folder.name}/{recipe.name}: {len(violations)} altered files", fix)
    yield Finding("ok", "state", f"{count} artifacts examined in {project.state}")


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
