"""What is judged before a step is trained, cheapest first, and written down as preflight.json.

Every gate's figures travel in the artifact and are shown as an asset check; a gate that does not hold refuses the run.
"""

# torch, transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.adapter import LoraShape
from expectations.rules.training import check_disk, check_memory, check_smoke
from expectations.violations import Refused, Violation
from ft_assets.adapters.trainer.checkpoints import checkpoints
from ft_assets.adapters.trainer.memory_needs import least_needs, needs_of
from ft_assets.config.model import LoraSettings, TrainSettings
from resources import accelerator, torchrun
from resources.artifacts import Artifact, write_json
from resources.estimate import estimate_training
from resources.model_shape import ModelShape

PREFLIGHT_FILE = "preflight.json"
# name -> what holds, in the order in which they are judged
GATES: dict[str, str] = {
    "rows_are_trainable": "Both parts hold rows, every text is filled, and reasoning is as the policy asks.",
    "prompt_round_trips": "The trained prompt is the served one token for token, the stop token carries loss, and the "
    "<think> that the prompt opens does not.",
    "rows_fit_max_length": "No row is longer than max_length once `too_long` was applied, and none lost its targets.",
    "pairs_differ": "Chosen and rejected differ after tokenisation and cutting.",
    "thinking_is_kept": "A model that always thinks is not taught to skip it: see max_empty_thinking_share.",
    "memory_and_disk_suffice": "The estimate of memory and disk is below what was free.",
    "trial_steps_train": "Two optimizer steps on the longest rows gave finite figures and moved the weights.",
}
_ONLY_DPO = {"pairs_differ"}
_log = logging.getLogger(__name__)


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One gate's verdict."""

    name: str
    passed: bool
    figures: dict[str, Any]
    violations: list[Violation]


class Preflight:
    """The gates of one run in the order they were judged. The file in `folder` is complete after every one of them."""

    def __init__(self, subject: str, folder: Path) -> None:
        self.results: list[GateResult] = []
        self._subject = subject
        self._path = folder / PREFLIGHT_FILE
        self._path.unlink(missing_ok=True)

    def judge(self, name: str, violations: list[Violation], figures: Mapping[str, Any]) -> None:
        """Write a gate's verdict down. It does not refuse yet: rules on the same rows are reported together."""
        result = GateResult(
            name=name,
            passed=not violations,
            figures={key: _plain(value) for key, value in figures.items()},
            violations=violations,
        )
        self.results.append(result)
        write_json(self._path, {"gates": msgspec.to_builtins(self.results, enc_hook=str)})
        _log.info("gate %s: %s", name, "holds" if result.passed else f"{len(violations)} broken rules")

    def refuse_broken(self) -> None:
        """Raises Refused with every violation so far."""
        if broken := [violation for result in self.results for violation in result.violations]:
            raise Refused(self._subject, broken)


def gates_of(method: str) -> dict[str, str]:
    """The gates of a method (`sft`, `dpo`) in their order, and what each says."""
    return {name: says for name, says in GATES.items() if method == "dpo" or name not in _ONLY_DPO}


def read_result(artifact: Artifact, name: str) -> GateResult:
    """What a training found for one gate. Raises Refused (FT-TRAIN-025) if it was not judged."""
    results = msgspec.convert(artifact.json(PREFLIGHT_FILE)["gates"], list[GateResult])
    found = next((result for result in results if result.name == name), None)
    if found is None:
        violation = Violation(
            code="FT-TRAIN-025", where=artifact.asset, message="the gate was not judged before training.", field=name,
            found=[result.name for result in results], expected=name,
            fix=f"delete {artifact.path} and run `ft run --asset {artifact.asset}`",
        )  # fmt: skip
        raise Refused(f"reading {artifact.asset}", [violation])
    return found


def judge_resources(
    preflight: Preflight,
    settings: TrainSettings,
    compute: accelerator.Compute,
    *,
    base: Path,
    lora: LoraSettings | LoraShape | None,
    tokens: int,
    supervised: int | None = None,
    run_dir: Path,
) -> None:
    """Memory and disk that the longest row (`tokens`, of which `supervised` carry loss) needs, against what is free.
    Memory blocks only if nothing that the run may fall back on by itself helps. `lora` is the adapter's shape."""
    on_cpu = compute.device == "cpu"
    given: dict[str, Any] = {"tokens": tokens, "device": compute.device, "bf16": compute.dtype != "float32"}
    # context=0: this process has loaded its libraries, and asking for the free memory makes its CUDA context
    known: dict[str, Any] = {"supervised": supervised, "context": 0}
    try:
        shape = ModelShape.from_config(base, settings.base_model)
        asked, least = (
            estimate_training(shape, target, msgspec.structs.replace(setup, **known))
            for target, setup in (needs_of(settings, lora, **given), least_needs(settings, lora, **given))
        )
    except Refused as unknown:  # such a shape is not estimated: the trial steps will tell
        preflight.judge("memory_and_disk_suffice", [], {"estimate": str(unknown)})
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    free_memory, free_disk = _free_memory(compute), shutil.disk_usage(run_dir).free
    needed, needed_least = asked.total * processes, least.total * processes
    # a run that goes on has written checkpoints already
    held = sum(path.stat().st_size for folder in checkpoints(run_dir) for path in folder.rglob("*"))
    needed_disk = max(asked.disk - held, 0)
    broken = check_disk(needed_disk, free_disk, str(run_dir))
    if free_memory is not None:
        broken += check_memory(needed_least, free_memory, compute.device)
    figures = {
        "memory_needed": needed, "memory_needed_least": needed_least, "memory_free": free_memory,
        "fits_as_configured": free_memory is None or needed <= free_memory, "memory_parts": asked.parts,
        "disk_needed": needed_disk, "disk_free": free_disk, "tokens": tokens,
    }  # fmt: skip
    preflight.judge("memory_and_disk_suffice", broken, figures)
    preflight.refuse_broken()


def judge_trial(preflight: Preflight, trainer: Any) -> None:
    """The smoke run, as a gate."""
    figures = smoke_run(trainer)
    preflight.judge("trial_steps_train", check_smoke(figures, "adapter training"), figures)
    preflight.refuse_broken()


def smoke_run(trainer: Any) -> dict[str, Any]:
    """Two real optimizer steps on the longest rows. Weights, random numbers and the trainer's counters are then put
    back bit for bit, so that the training is the same with and without it.

    A whole micro-batch on a GPU, one row on a CPU, where memory is not what runs out first. An error that memory ran
    out goes up: the run asks for less before it has trained a step.
    """
    import torch

    started = time.monotonic()
    on_gpu = trainer.args.device.type == "cuda"
    rows = _longest_rows(trainer, trainer.args.per_device_train_batch_size if on_gpu else 1)
    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    losses: list[float] = []
    norms: list[float] = []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with _put_back(trainer) as (trained, before):
        optimizer = optimizer_class(trained, **options)
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        for _ in range(2):
            with trainer.maybe_activation_offload_context:
                with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
                    loss = trainer.compute_loss(trainer.model, dict(batch))
                loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(trained, trainer.args.max_grad_norm)))
            losses.append(float(loss.detach()))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        moved = [(new.detach().cpu() - old).abs().max() for new, old in zip(trained, before, strict=True)]
    memory = {"peak_memory": torch.cuda.max_memory_allocated()} if on_gpu else {}
    return {
        "losses": losses, "grad_norms": norms, "max_abs_adapter_delta": float(max(moved)), "rows": len(rows),
        "row_tokens": max(map(_length, rows)), "seconds": round(time.monotonic() - started, 2), **memory,
    }  # fmt: skip


@contextmanager
def _put_back(trainer: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """The trainable tensors, to be changed at will, and what they were: the block leaves nothing behind."""
    import torch

    model = trainer.model
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    kept = [tensor.detach().to("cpu", copy=True) for tensor in trained]  # they must not take the memory that is tried
    counters = {name: copy.deepcopy(vars(trainer)[name]) for name in _COUNTERS if name in vars(trainer)}
    training = model.training
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.train()
            if trainer.args.activation_checkpointing:
                model.activation_checkpointing_enable(trainer.args.activation_checkpointing_kwargs)
            yield trained, kept
    finally:
        with torch.no_grad():
            for tensor, value in zip(trained, kept, strict=True):
                tensor.copy_(value)
                tensor.grad = None
        model.train(training)
        vars(trainer).update(counters)


# what TRL's trainers add to with every loss
_COUNTERS = ("_metrics", "_total_train_tokens")


def _longest_rows(trainer: Any, count: int) -> list[Mapping[str, Any]]:
    data = trainer.train_dataset
    lengths = [_length(row) for row in data]
    order = sorted(range(len(lengths)), key=lambda n: lengths[n], reverse=True)
    return [data[n] for n in order[:count]]


def _length(row: Mapping[str, Any]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _free_memory(compute: accelerator.Compute) -> int | None:
    """Bytes that are free on the device; None where it does not say."""
    if compute.device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(torchrun.local_rank())[0])  # no process is bound to its GPU yet
    return accelerator.memory()[1] or None


def _plain(value: Any) -> Any:
    """A figure as JSON can hold it: NaN and infinity in words."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
