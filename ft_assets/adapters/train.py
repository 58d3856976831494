"""Train a LoRA adapter: SFT on instructions, or DPO on preferences from the SFT adapter on. Worker: load, gate, train,
publish. `params["method"]` says which of the two (`sft`, `dpo`)."""

# torch, transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from expectations.contracts.adapter import AdapterContract, LoraShape, RagPrompt, compare_base, violations
from ft_assets.adapters.card import Card, write_card
from ft_assets.adapters.checkpoints import checkpoints, hold, remove_checkpoints, train_to_the_end
from ft_assets.adapters.control import Stop, build_control
from ft_assets.adapters.data import TrainingData
from ft_assets.adapters.export import link_final_model
from ft_assets.adapters.ladder import climb, forget
from ft_assets.adapters.load import load_model
from ft_assets.adapters.preflight import PREFLIGHT_FILE, Preflight, judge_resources, judge_trial
from ft_assets.adapters.reference import Reference
from ft_assets.adapters.refusals import refuse_if
from ft_assets.adapters.reporter import build_reporter
from ft_assets.adapters.trainer import build_trainer, check_devices
from ft_assets.settings.model import DpoSettings, SftSettings
from resources import accelerator, models, torchrun
from resources.accelerator import Sampler
from resources.artifacts import Artifact, write_json
from resources.generator import ADAPTER_FOLDER, ADAPTER_NAME, CONTRACT_FILE, describe_base, read_contract
from resources.launcher import LOG_FILE, Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics, read_events, read_metrics


class Trained(NamedTuple):
    """A training that came to its last step: what it trained, on what, and how it stood before and after."""

    trainer: Any
    data: TrainingData
    untrained: dict[str, Any]
    loss_before: dict[str, float]
    loss_after: dict[str, float]


def main(job: Job) -> Artifact:
    """Train the adapter that the job describes and publish it. Raises Refused: FT-TRAIN-001 … 053, FT-ADP-001."""
    with hold(job.folder()):
        return _train_and_publish(job)


def _train_and_publish(job: Job) -> Artifact:
    from transformers import AutoTokenizer

    started = time.monotonic()
    method = job.params["method"]
    settings = (SftSettings if method == "sft" else DpoSettings).model_validate(job.params["settings"])
    prompt = msgspec.convert(job.params["prompt"], RagPrompt)
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    check_devices(settings, compute)
    splits = job.input(f"{'instruction' if method == 'sft' else 'preference'}_splits")
    sft = job.input("sft_adapter") if method == "dpo" else None
    folder = models.locate(settings.base_model, Path(job.params["state_dir"]), settings.revision)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    base = describe_base(folder, tokenizer, settings.base_model, settings.revision)
    if sft is not None:
        refuse_if("loading sft_adapter", violations(compare_base(read_contract(sft.folder()), base), "sft_adapter"))

    # every rank runs this function; the first tells and publishes
    own_folder = job.folder() if torchrun.is_main() else job.folder() / f"rank-{torchrun.rank()}"
    metrics = Metrics(own_folder)

    def train(current: SftSettings | DpoSettings) -> Trained:
        """From the files to the last step, with the job's settings or with ones that need less memory."""
        preflight = Preflight(f"training on {splits.asset}", own_folder)
        data = TrainingData(
            splits,
            tokenizer,
            prompt=prompt,
            thinking=job.params["thinking"],
            settings=current,
            stop_ids=base.stop_token_ids,
            preflight=preflight,
        )
        judge_resources(
            preflight,
            current,
            compute,
            base=folder,
            tokens=data.longest,
            supervised=data.most_supervised,
            dpo=method == "dpo",
            run_dir=job.folder(),
        )
        trainer = build_trainer(
            current,
            compute,
            load_model(folder, current, compute, sft, longest=data.longest),
            tokenizer=tokenizer,
            data=data,
            metrics=metrics,
            run_dir=job.folder(),
            reference=Reference(job.artifacts(), sft.data_version) if sft is not None else None,
        )
        data.check_against(trainer)
        judge_trial(preflight, trainer)
        trainer.add_callback(build_reporter(trainer, metrics, sampler, data.name_row))
        trainer.add_callback(build_control(job.folder(), metrics, stop))
        untrained = _adapter_tensors(trainer.model)
        loss_before = _first_evaluation(trainer, own_folder)
        with stop.at_a_step():
            train_to_the_end(trainer, job.folder(), metrics)
        return Trained(trainer, data, untrained, loss_before, _final_evaluation(trainer))

    with Stop(job.folder()) as stop, Sampler() as sampler:
        trainer, data, before, loss_before, loss_after = climb(train, settings, compute, job.folder(), metrics)
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
        "events": read_events(own_folder / METRICS_FILE),
        "seconds": round(time.monotonic() - started, 1),
    }
    if torchrun.is_main():
        link_final_model(job.folder(), _publish(job, model, contract, summary, settings, base_folder=folder, data=data))
        remove_checkpoints(job.folder())
        forget(job.folder())
    torchrun.wait_for_all()
    return job.published()


def _first_evaluation(trainer: Any, own_folder: Path) -> dict[str, float]:
    """The figures before the first step: a run that goes on has told them already."""
    told = [record for record in read_metrics(own_folder / METRICS_FILE) if record.get("eval_loss") is not None]
    first = next((record for record in reversed(told) if record["step"] == 0), None)
    kept = first if checkpoints(Path(trainer.args.output_dir)) else None
    return torchrun.gather(kept)[0] or trainer.evaluate()  # one process evaluating alone would wait for ever


def _final_evaluation(trainer: Any) -> dict[str, float]:
    """The figures of the last step: those the trainer just took, if it evaluated there."""
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
    return last if last is not None and last["step"] == trainer.state.global_step else trainer.evaluate()


def _publish(
    job: Job,
    model: Any,
    contract: AdapterContract,
    summary: dict[str, Any],
    settings: SftSettings | DpoSettings,
    *,
    base_folder: Path,
    data: TrainingData,
) -> Artifact:
    with job.artifacts().stage(job.recipe) as staging:
        adapter = staging.path / ADAPTER_FOLDER
        # a local path would make equal adapters differ from machine to machine
        model.peft_config[ADAPTER_NAME].base_model_name_or_path = settings.base_model
        # TRL adds a copy of the SFT adapter (`ref`) for DPO, which does not travel
        model.save_pretrained(adapter, selected_adapters=[ADAPTER_NAME])
        (adapter / "README.md").unlink(missing_ok=True)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        card = Card(recipe=job.recipe, contract=contract, summary=summary, base_folder=base_folder)
        write_card(staging.path / "README.md", card)
        data.write_too_long(staging.path)
        for name in (METRICS_FILE, LOG_FILE, PREFLIGHT_FILE):
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
