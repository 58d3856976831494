"""Train a LoRA adapter: SFT on instructions, or DPO on preferences from the SFT adapter on. Worker: load, gate, train,
publish. `params["method"]` says which of the two (`sft`, `dpo`)."""

# torch, transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.adapter import AdapterContract, LoraShape, RagPrompt, compare_base, violations
from ft_assets.adapters.card import write_card
from ft_assets.adapters.checkpoints import checkpoints, train_to_the_end
from ft_assets.adapters.data import TrainingData
from ft_assets.adapters.load import load_model
from ft_assets.adapters.refusals import refuse_if
from ft_assets.adapters.trainer import build_trainer
from ft_assets.settings.model import DpoSettings, SftSettings
from resources import accelerator, models
from resources.artifacts import Artifact, write_json
from resources.generator import ADAPTER_FOLDER, ADAPTER_NAME, CONTRACT_FILE, describe_base, read_contract
from resources.launcher import LOG_FILE, Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics


def main(job: Job) -> Artifact:
    """Train the adapter that the job describes and publish it. Raises Refused: FT-TRAIN-001 … 010, FT-ADP-001."""
    from transformers import AutoTokenizer

    started = time.monotonic()
    method = job.params["method"]
    settings = (SftSettings if method == "sft" else DpoSettings).model_validate(job.params["settings"])
    prompt = msgspec.convert(job.params["prompt"], RagPrompt)
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    splits = job.input(f"{'instruction' if method == 'sft' else 'preference'}_splits")
    sft = job.input("sft_adapter") if method == "dpo" else None
    folder = models.locate(settings.base_model, Path(job.params["state_dir"]), settings.revision)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    base = describe_base(folder, tokenizer, settings.base_model, settings.revision)
    if sft is not None:
        refuse_if("loading sft_adapter", violations(compare_base(read_contract(sft.folder()), base), "sft_adapter"))

    data = TrainingData(
        splits,
        tokenizer,
        prompt=prompt,
        thinking=job.params["thinking"],
        max_length=settings.max_length,
        stop_ids=base.stop_token_ids,
    )
    model = load_model(folder, settings, compute, sft)
    metrics = Metrics(job.folder())
    trainer = build_trainer(
        settings, compute, model, tokenizer=tokenizer, data=data, metrics=metrics, run_dir=job.folder()
    )
    data.check_against(trainer)
    before = _adapter_tensors(trainer.model)
    loss_before = trainer.evaluate()
    train_to_the_end(trainer, job.folder())
    loss_after = _final_evaluation(trainer)
    metrics.close()

    model = trainer.model
    config = model.peft_config[ADAPTER_NAME]
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
    for checkpoint in checkpoints(job.folder()):
        shutil.rmtree(checkpoint)  # a run that was published is over: resuming it would train one step too many
    return artifact


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
        model.peft_config[ADAPTER_NAME].base_model_name_or_path = settings.base_model
        # TRL adds a copy of the SFT adapter (`ref`) for DPO, which does not travel
        model.save_pretrained(adapter, selected_adapters=[ADAPTER_NAME])
        (adapter / "README.md").unlink(missing_ok=True)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        write_card(staging.path / "README.md", job.recipe, contract, summary, settings)
        for name in (METRICS_FILE, LOG_FILE):
            if (job.folder() / name).is_file():
                shutil.copy2(job.folder() / name, staging.path / name)
        return staging.publish(summary)


def _adapter_tensors(model: Any) -> dict[str, Any]:
    """A copy of the trained adapter's tensors by name."""
    return {
        name: tensor.detach().float().cpu().clone()
        for name, tensor in model.named_parameters()
        if "lora_" in name and f".{ADAPTER_NAME}." in name
    }


def _max_abs_delta(before: dict[str, Any], after: dict[str, Any]) -> float:
    return max(float((after[name] - tensor).abs().max()) for name, tensor in before.items())


if __name__ == "__main__":
    run_worker(main)
