"""The gates before the first training step, cheapest first. Their verdicts are written to preflight.json.

The figures of every gate travel in the artifact and are shown as an asset check. A failed gate stops the run.
"""

# torch, transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.adapter import LoraShape
from expectations.rules.training import check_disk, check_memory, check_smoke, check_steps
from expectations.violations import Refused, Violation, violation
from ft_assets.adapters.refusals import SUBJECT
from ft_assets.adapters.trainer.checkpoints import checkpoints
from ft_assets.adapters.trainer.memory_needs import fitting_rows, least_needs, needs_of
from ft_assets.adapters.trainer.trial_steps import run_trial_steps
from ft_assets.config.model import AdapterSettings, TrainSettings
from resources import accelerator, torchrun
from resources.artifacts import Artifact, write_json
from resources.estimate import estimate_training
from resources.model_check import check_model
from resources.model_shape import ModelShape

PREFLIGHT_FILE = "preflight.json"
# gate -> its description, in the order in which the gates are judged
_DESCRIPTIONS: dict[str, str] = {
    "base_is_whole": "The base model has the weights that its config.json describes, and every number is finite.",
    "rows_are_trainable": "Both parts of the split have rows, no text is empty, and reasoning follows the policy.",
    "prompt_round_trips": "The prompt in training is the prompt in serving, token for token; the stop token carries "
    "loss, and a <think> that the prompt opens does not.",
    "rows_fit_max_length": "After `too_long` was applied, no row is longer than max_length or the model's positions, "
    "every token id has an embedding, and every row has a target.",
    "pairs_differ": "Chosen and rejected differ after tokenisation and cutting; for KTO, both verdicts are there.",
    "thinking_is_kept": "A model that always reasons does not learn to skip reasoning: see max_empty_thinking_share.",
    "memory_and_disk_suffice": "The estimated memory and disk are below what was free.",
    "rate_is_above_zero": "The training has a step after the first step of its warm-up, in which the rate is 0.",
    "trial_steps_train": "Two optimizer steps on the longest rows gave finite figures and changed the weights.",
}
_ONLY_DPO = {"pairs_differ"}
_log = logging.getLogger(__name__)


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of one gate."""

    name: str
    passed: bool
    figures: dict[str, Any]
    violations: list[Violation]


class Preflight:
    """The gates of one run in the order they were judged. The file in `folder` is rewritten, whole, after each."""

    def __init__(self, subject: str, folder: Path) -> None:
        self.results: list[GateResult] = []
        self._subject = subject
        self._path = folder / PREFLIGHT_FILE
        self._path.unlink(missing_ok=True)

    def judge(self, name: str, violations: list[Violation], figures: Mapping[str, object]) -> None:
        """Record a gate's verdict. It does not refuse yet, so that rules on the same rows are reported together."""
        result = GateResult(
            name=name,
            passed=not violations,
            figures={key: _plain(value) for key, value in figures.items()},
            violations=violations,
        )
        self.results.append(result)
        write_json(self._path, {"gates": msgspec.to_builtins(self.results, enc_hook=str)})
        _log.info("gate %s: %s", name, "passed" if result.passed else f"{len(violations)} violations")

    def refuse_failed(self) -> None:
        """Raise Refused with every violation so far, if there are any."""
        violations: list[Violation] = []
        for result in self.results:
            violations += result.violations
        if violations:
            raise Refused(self._subject, violations)


def gates_of(method: str) -> dict[str, str]:
    """Return the gates of a method (`sft`, `dpo`) in their order, with their descriptions."""
    return {name: text for name, text in _DESCRIPTIONS.items() if method == "dpo" or name not in _ONLY_DPO}


def read_result(artifact: Artifact, name: str) -> GateResult:
    """Return the verdict of one gate on a published training. Raises Refused (FT-TRAIN-025) if it is missing."""
    results = msgspec.convert(artifact.json(PREFLIGHT_FILE)["gates"], list[GateResult])
    for result in results:
        if result.name == name:
            return result
    missing = violation(
        "FT-TRAIN-025",
        where=artifact.asset,
        field=name,
        found=[result.name for result in results],
        expected=name,
        fix=f"delete {artifact.path} and run `ft run --asset {artifact.asset}`",
    )
    raise Refused(f"reading {artifact.asset}", [missing])


def choose_rows(
    settings: TrainSettings, lora: AdapterSettings | LoraShape | None, compute: accelerator.Compute, base: Path
) -> int:
    """Return the micro-batch of the settings; for `auto` on a GPU the most rows that fit into its free memory."""
    try:
        shape = ModelShape.from_config(base, settings.base_model)
    except Refused:  # no estimate for such a shape
        return settings.rows_at_once
    return fitting_rows(
        settings,
        lora,
        shape,
        device=compute.device,
        bf16=compute.dtype != "float32",
        memory=_free_memory(compute) or 0,
        processes=torchrun.world_size(),
    )


def judge_resources(
    preflight: Preflight,
    settings: TrainSettings,
    compute: accelerator.Compute,
    *,
    base: Path,
    lora: AdapterSettings | LoraShape | None,
    tokens: int,
    supervised: int | None = None,
    run_dir: Path,
) -> None:
    """Compare the memory and disk that the longest row needs with what is free.

    `tokens`: of the longest row; `supervised`: the most that carry loss in one row; `lora`: the adapter's shape.
    Memory blocks only if no fallback that the run may take by itself is enough.
    """
    on_cpu = compute.device == "cpu"
    job: dict[str, Any] = {"tokens": tokens, "device": compute.device, "bf16": compute.dtype != "float32"}
    job["processes"] = torchrun.world_size()
    # context=0: this process has loaded its libraries, and asking for the free memory makes its CUDA context
    known: dict[str, Any] = {"supervised": supervised, "context": 0}
    try:
        shape = ModelShape.from_config(base, settings.base_model)
        configured, least = (
            estimate_training(shape, target, msgspec.structs.replace(setup, **known))
            for target, setup in (needs_of(settings, lora, **job), least_needs(settings, lora, **job))
        )
    except Refused as unknown:  # no estimate for such a shape: the trial steps will show it
        preflight.judge("memory_and_disk_suffice", [], {"estimate": str(unknown)})
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    free_memory, free_disk = _free_memory(compute), shutil.disk_usage(run_dir).free
    needed, needed_least = configured.total * processes, least.total * processes
    needed_disk = max(configured.disk - _checkpoint_bytes(run_dir), 0)
    violations = check_disk(needed_disk, free_disk, str(run_dir))
    if free_memory is not None:
        violations += check_memory(needed_least, free_memory, compute.device)
    figures = {
        "memory_needed": needed,
        "memory_needed_least": needed_least,
        "memory_free": free_memory,
        "fits_as_configured": free_memory is None or needed <= free_memory,
        "memory_parts": configured.parts,
        "disk_needed": needed_disk,
        "disk_free": free_disk,
        "tokens": tokens,
        "micro_batch_size": settings.rows_at_once,
    }
    preflight.judge("memory_and_disk_suffice", violations, figures)
    preflight.refuse_failed()


def judge_base(preflight: Preflight, folder: Path) -> None:
    """Judge the weights of the base model in `folder`. Raises Refused: FT-TRAIN-066 … 069."""
    violations = check_model(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    preflight.judge("base_is_whole", violations, {"weights": folder.name, "bytes": size})
    preflight.refuse_failed()


def judge_steps(preflight: Preflight, trainer: Any) -> None:
    """Judge the number of steps against those of the warm-up. Raises Refused: FT-TRAIN-064.

    A warm-up that is a share of the steps, rounded up, would be all of a single step: such a training has none.
    """
    args = trainer.args
    in_epoch = math.ceil(len(trainer.train_dataset) / trainer.get_total_train_batch_size(args))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * in_epoch)
    if steps == 1 and args.warmup_steps < 1:
        args.warmup_steps = 0
    warmup = 0 if args.lr_scheduler_type == "constant" else args.get_warmup_steps(steps)
    preflight.judge("rate_is_above_zero", check_steps(steps, warmup, SUBJECT), {"steps": steps, "warmup_steps": warmup})
    preflight.refuse_failed()


def judge_trial(preflight: Preflight, trainer: Any) -> None:
    """Run the trial steps and judge their figures. Raises Refused: FT-TRAIN-010, FT-TRAIN-023."""
    figures = run_trial_steps(trainer)
    preflight.judge("trial_steps_train", check_smoke(figures, SUBJECT), figures)
    preflight.refuse_failed()


def _checkpoint_bytes(run_dir: Path) -> int:
    """Return the size of the checkpoints that an interrupted run has already written."""
    total = 0
    for folder in checkpoints(run_dir):
        total += sum(path.stat().st_size for path in folder.rglob("*"))
    return total


def _free_memory(compute: accelerator.Compute) -> int | None:
    """Return the free bytes of the device; None where they are unknown."""
    if compute.device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(torchrun.local_rank())[0])  # no process is bound to its GPU yet
    return accelerator.memory()[1] or None


def _plain(value: object) -> object:
    """Return a figure as JSON can hold it: NaN and infinity as text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
