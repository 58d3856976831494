"""Train a LoRA adapter: SFT on instructions, or DPO on preferences from the SFT adapter on. Worker: load, gate, train,
publish. `params["method"]` says which of the two (`sft`, `dpo`)."""

# torch, transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from expectations.contracts.adapter import AdapterContract, LoraShape, RagPrompt, compare_base, violations
from expectations.training import check_counts, check_pairs, check_rows
from expectations.violations import Refused, Violation
from ft_assets.adapters.card import write_card
from ft_assets.adapters.head import project_supervised_only
from ft_assets.adapters.tokenise import pair_messages, read_rows, tokenise_pairs, tokenise_rows
from ft_assets.settings.model import DpoSettings, SftSettings
from resources import accelerator, models
from resources.artifacts import Artifact, write_json
from resources.generator import ADAPTER_FOLDER, CONTRACT_FILE, describe_base, read_contract
from resources.launcher import LOG_FILE, Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics

_log = logging.getLogger(__name__)
_ADAPTER = "default"
# logged beside the figures of an evaluation, of no use on a curve
_TIMINGS = {
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
    "train_runtime", "train_samples_per_second", "train_steps_per_second",
}  # fmt: skip
# Up to this length eager attention beats the fused CPU kernel (1.95 s against 2.4 s a step of 8 x 183 tokens)
_EAGER_TOKENS = 1024


def main(job: Job) -> Artifact:
    """Train the adapter that the job describes and publish it. Raises Refused: FT-TRAIN-001 … 010, FT-ADP-001."""
    from transformers import AutoTokenizer

    started = time.monotonic()
    method = job.params["method"]
    settings = (SftSettings if method == "sft" else DpoSettings).model_validate(job.params["settings"])
    prompt = msgspec.convert(job.params["prompt"], RagPrompt)
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    splits = _input(job, f"{'instruction' if method == 'sft' else 'preference'}_splits")
    sft = _input(job, "sft_adapter") if method == "dpo" else None
    folder = models.locate(settings.base_model, Path(job.params["state_dir"]), settings.revision)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    base = describe_base(folder, tokenizer, settings.base_model, settings.revision)
    if sft is not None:
        _refuse_if("loading sft_adapter", violations(compare_base(read_contract(sft.folder()), base), "sft_adapter"))

    data = _Data(
        splits,
        tokenizer,
        prompt=prompt,
        thinking=job.params["thinking"],
        max_length=settings.max_length,
        stop_ids=base.stop_token_ids,
    )
    model = _load(folder, settings, compute, sft)
    metrics = Metrics(job.folder())
    trainer = _build_trainer(
        settings, compute, model, tokenizer=tokenizer, data=data, metrics=metrics, run_dir=job.folder()
    )
    data.check_against(trainer)
    before = _adapter_tensors(trainer.model)
    loss_before = trainer.evaluate()
    _train(trainer, job.folder())
    loss_after = _final_evaluation(trainer)
    metrics.close()

    model = trainer.model
    config = model.peft_config[_ADAPTER]
    contract = AdapterContract(
        base=base,
        prompt=prompt,
        reasoning=job.params["thinking"],
        lora=LoraShape(r=config.r, alpha=config.lora_alpha, targets=sorted(config.target_modules)),
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    summary = {
        "steps": trainer.state.global_step,
        "eval_loss_before": loss_before["eval_loss"],
        "eval_loss_after": loss_after["eval_loss"],
        "train_loss_first": losses[0],
        "train_loss_last": losses[-1],
        **{
            f"{name}_{moment}": found[f"eval_rewards/{key}"]
            for name, key in (("reward_accuracy", "accuracies"), ("reward_margin", "margins"))
            for moment, found in (("before", loss_before), ("after", loss_after))
            if method == "dpo"
        },
        "max_abs_adapter_delta": _max_abs_delta(before, _adapter_tensors(model)),
        "trainable_parameters": sum(tensor.numel() for tensor in before.values()),
        "rows": len(data.train),
        "validation_rows": len(data.validation),
        "supervised_tokens": data.supervised_tokens,
        "device": compute.device,
        "dtype": compute.dtype,
        "seconds": round(time.monotonic() - started, 1),
    }
    artifact = _publish(job, model, contract, summary, settings)
    for checkpoint in _checkpoints(job.folder()):
        shutil.rmtree(checkpoint)  # a run that was published is over: resuming it would train one step too many
    return artifact


class _Data:
    """Both parts of the split, tokenised, gated, and as the data sets that the trainer gets."""

    def __init__(
        self,
        splits: Artifact,
        tokenizer: Any,
        *,
        prompt: RagPrompt,
        thinking: str,
        max_length: int,
        stop_ids: list[int],
    ) -> None:
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        rows = {part: read_rows(splits, part) for part in ("train", "validation")}
        _refuse_if(
            f"training on {splits.asset}", check_counts(len(rows["train"]), len(rows["validation"]), splits.asset)
        )
        if not tokenizer.chat_template:
            _refuse("FT-TRAIN-009", "the tokenizer has no chat template.", field="chat_template", found=None,
                    expected="a template", mend="choose an instruction-tuned base model")  # fmt: skip
        if splits.asset == "instruction_splits":
            made = {part: tokenise_rows(tokenizer, found, prompt, thinking) for part, found in rows.items()}
            broken = [v for part in made.values() for v in check_rows(part, max_length=max_length, stop_ids=stop_ids)]
            self.datasets = {
                part: Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in found])
                for part, found in made.items()
            }
            self._expected = [row.ids for row in made["train"]]
            self.supervised_tokens = sum(label >= 0 for row in made["train"] for label in row.labels)
        else:
            pairs = {part: tokenise_pairs(tokenizer, found, prompt) for part, found in rows.items()}
            broken = [v for part in pairs.values() for v in check_pairs(part, max_length=max_length, stop_ids=stop_ids)]
            self.datasets = {
                part: Dataset.from_list([pair_messages(row, prompt) for row in found]) for part, found in rows.items()
            }
            self._expected = [pair.ids_chosen for pair in pairs["train"]]
            self.supervised_tokens = sum(
                len(ids) - len(pair.serving) for pair in pairs["train"] for ids in (pair.ids_chosen, pair.ids_rejected)
            )
        _refuse_if(f"training on {splits.asset}", broken)
        self.train, self.validation = rows["train"], rows["validation"]

    def check_against(self, trainer: Any) -> None:
        """TRL drops and cuts rows silently: what it prepared must be what the gates saw."""
        prepared = trainer.train_dataset
        if "input_ids" in prepared.column_names:
            found = [list(ids) for ids in prepared["input_ids"]]
        else:
            found = [[*p, *c] for p, c in zip(prepared["prompt_ids"], prepared["chosen_ids"], strict=True)]
        if found != self._expected:
            _refuse("FT-TRAIN-007", "the trainer prepared other rows than the gates judged.", field="token ids",
                    found=f"{len(found)} rows", expected=f"{len(self._expected)} rows",
                    mend="report this: TRL's preparation changed")  # fmt: skip


def _load(folder: Path, settings: SftSettings | DpoSettings, compute: accelerator.Compute, sft: Artifact | None) -> Any:
    """The base in the compute dtype with a trainable adapter on it: a new one, or the SFT adapter to go on from."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    quantised: dict[str, Any] = {}
    if settings.method == "qlora":
        if importlib.util.find_spec("bitsandbytes") is None:
            _refuse("FT-TRAIN-008", "qlora needs bitsandbytes, which is not installed.", field="method",
                    found="qlora", expected="lora", mend="pip install bitsandbytes, or set method: lora")  # fmt: skip
        from transformers import BitsAndBytesConfig

        quantised["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    eager = compute.device == "cpu" and settings.max_length <= _EAGER_TOKENS
    set_seed(settings.seed)  # a new adapter starts from random numbers
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        # the base is frozen: bf16 loses nothing that autocast would not, and spares a cast of all weights every step
        dtype=torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32,
        attn_implementation="eager" if eager else "sdpa",
        trust_remote_code=False,
        use_safetensors=True,
        **quantised,
    )
    if quantised:
        # bitsandbytes 0.50 on AVX512-BF16 CPUs: the first evaluation repacks the weights for a kernel without a
        # backward pass, and gradients are silently wrong from there on
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    if sft is not None:
        return PeftModel.from_pretrained(model, sft.folder(ADAPTER_FOLDER), is_trainable=True)
    lora = settings.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip


def _build_trainer(
    settings: SftSettings | DpoSettings,
    compute: accelerator.Compute,
    model: Any,
    *,
    tokenizer: Any,
    data: _Data,
    metrics: Metrics,
    run_dir: Path,
) -> Any:
    from transformers import PrinterCallback, ProgressCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    on_cpu = compute.device == "cpu"
    checkpointing = not on_cpu if settings.gradient_checkpointing == "auto" else settings.gradient_checkpointing
    arguments: dict[str, Any] = {
        "output_dir": str(run_dir),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.global_batch_size // settings.micro_batch_size,
        "max_length": settings.max_length,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "weight_decay": settings.weight_decay,
        "gradient_checkpointing": checkpointing,
        "eval_strategy": "steps",
        "eval_steps": settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,  # its default shows a NaN loss as 0.0
        "bf16": compute.dtype == "bfloat16",
        "fp16": compute.dtype == "float16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "data_seed": settings.seed,
    }
    common = {
        "model": model,
        "train_dataset": data.datasets["train"],
        "eval_dataset": data.datasets["validation"],
        "processing_class": tokenizer,
        "callbacks": [_reporter(metrics, compute.dtype)],
    }
    trainer: Any
    if isinstance(settings, DpoSettings):
        smoothing: dict[str, Any] = {"label_smoothing": 0.1} if settings.loss == "robust" else {}
        trainer = DPOTrainer(
            args=DPOConfig(**arguments, beta=settings.beta, loss_type=[settings.loss], **smoothing), **common
        )
    else:
        trainer = SFTTrainer(args=SFTConfig(**arguments), **common)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if on_cpu:
        project_supervised_only(trainer.model.get_base_model())
    return trainer


def _reporter(metrics: Metrics, dtype: str) -> Any:
    """The callback that reports every logged figure and stops the run on the first one that is not finite."""
    import torch
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # before the weights are touched; under fp16 the loss scaler skips such steps itself
            if dtype == "float16":
                return
            totals = [p.grad.sum() for p in kwargs["model"].parameters() if p.grad is not None]
            if totals and not torch.stack(totals).sum().isfinite():
                _refuse_non_finite("gradient", math.nan, state.global_step + 1)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            for name in ("loss", "grad_norm", "eval_loss"):
                if name in values and not math.isfinite(values[name]):
                    _refuse_non_finite(name, values[name], state.global_step)
            finite = {n: value for n, value in values.items() if math.isfinite(value) and n not in _TIMINGS}
            if "loss" in finite or "eval_loss" in finite:
                phase = "train" if "loss" in finite else "eval"
                metrics.log(phase, state.global_step, max(state.max_steps, 0), **finite)

    return Reporter()


def _train(trainer: Any, run_dir: Path) -> None:
    """Train to the end, from the newest whole checkpoint if the run was interrupted."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerState

    checkpoint = next((c for c in _checkpoints(run_dir) if (c / "trainer_state.json").is_file()), None)
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    _log.info("resuming from %s (step %d of %d)", checkpoint.name, state.global_step, state.max_steps)
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    # it was interrupted after its last step; `train` would add one
    set_peft_model_state_dict(trainer.model, load_file(checkpoint / "adapter_model.safetensors"), adapter_name=_ADAPTER)
    trainer.state = state


def _final_evaluation(trainer: Any) -> dict[str, float]:
    """The figures of the last step: those the trainer just took, if it evaluated there."""
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
    return last if last is not None and last["step"] == trainer.state.global_step else trainer.evaluate()


def _publish(
    job: Job, model: Any, contract: AdapterContract, summary: dict[str, Any], settings: SftSettings | DpoSettings
) -> Artifact:
    with job.artifacts().stage(job.recipe) as staging:
        adapter = staging.path / ADAPTER_FOLDER
        # a local path would make equal adapters differ from machine to machine
        model.peft_config[_ADAPTER].base_model_name_or_path = settings.base_model
        # TRL adds a copy of the SFT adapter (`ref`) for DPO, which does not travel
        model.save_pretrained(adapter, selected_adapters=[_ADAPTER])
        (adapter / "README.md").unlink(missing_ok=True)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        write_card(staging.path / "README.md", job.recipe, contract, summary, settings)
        for name in (METRICS_FILE, LOG_FILE):
            if (job.folder() / name).is_file():
                shutil.copy2(job.folder() / name, staging.path / name)
        return staging.publish(summary)


def _input(job: Job, asset: str) -> Artifact:
    """The artifact that the recipe names: by its version, so that a newer one does not slip in."""
    version = job.recipe.inputs[asset]
    return next(artifact for artifact in job.artifacts().versions(asset) if artifact.data_version == version)


def _checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _adapter_tensors(model: Any) -> dict[str, Any]:
    """A copy of the trained adapter's tensors by name."""
    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in model.named_parameters()
        if "lora_" in name and f".{_ADAPTER}." in name
    }


def _max_abs_delta(before: dict[str, Any], after: dict[str, Any]) -> float:
    return max(float((after[name] - tensor).abs().max()) for name, tensor in before.items())


def _refuse_non_finite(name: str, value: float, step: int) -> NoReturn:
    _refuse("FT-TRAIN-010", f"step {step} is not finite; the run stopped there.", field=name, found=str(value),
            expected="a finite number", mend="lower learning_rate, or look at the rows of that step")  # fmt: skip


def _refuse(code: str, message: str, *, field: str, found: Any, expected: Any, mend: str) -> NoReturn:
    violation = Violation(
        code=code, where="adapter training", field=field, message=message, found=found, expected=expected, mend=mend
    )
    raise Refused("adapter training", [violation])


def _refuse_if(subject: str, broken: list[Violation]) -> None:
    if broken:
        raise Refused(subject, broken)


if __name__ == "__main__":
    run_worker(main)
