"""Train SFT on instructions, or DPO on preferences from what SFT left: an adapter, or every weight of the model.
Worker: load, gate, train, publish. `params["method"]` says which of the two (`sft`, `dpo`)."""

# torch, transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from expectations.contracts.adapter import (
    AdapterContract,
    BaseModelIdentity,
    LoraShape,
    RagPrompt,
    compare_base,
)
from expectations.contracts.fingerprint import fingerprint
from ft_assets.adapters.export.export import forget_published, link_final_model
from ft_assets.adapters.export.model_card import Card, write_card
from ft_assets.adapters.preflight import PREFLIGHT_FILE, Preflight, judge_resources, judge_trial
from ft_assets.adapters.refusals import refuse_if
from ft_assets.adapters.rows.training_data import TrainingData
from ft_assets.adapters.trainer.build import build_trainer, check_devices
from ft_assets.adapters.trainer.checkpoints import checkpoints, hold, remove_checkpoints, train_to_the_end
from ft_assets.adapters.trainer.control import Stop, build_control
from ft_assets.adapters.trainer.dpo_reference import Reference
from ft_assets.adapters.trainer.load_model import load_model
from ft_assets.adapters.trainer.oom_ladder import climb, forget
from ft_assets.adapters.trainer.reporter import build_reporter
from ft_assets.config.model import DpoSettings, LoraSettings, SftSettings
from resources import accelerator, models, torchrun
from resources.accelerator import Compute, Sampler
from resources.artifacts import Artifact, write_json
from resources.launcher import LOG_FILE, Job, run_worker
from resources.telemetry import METRICS_FILE, Metrics, read_events, read_metrics
from resources.trained_model import (
    ADAPTER_FOLDER,
    ADAPTER_NAME,
    CONTRACT_FILE,
    WHOLE_MODEL_FOLDER,
    copy_companions,
    describe_base,
    read_adapter_contract,
)


class Task(NamedTuple):
    """What a job asks for, read and checked, with its inputs at hand."""

    job: Job
    settings: SftSettings | DpoSettings
    prompt: RagPrompt
    compute: Compute
    splits: Artifact
    sft: Artifact | None
    """What DPO goes on from."""
    lora: LoraSettings | LoraShape | None
    """The adapter's shape: the configured one, or that which SFT left."""
    base_folder: Path
    base: BaseModelIdentity
    tokenizer: Any
    folder: Path
    """Where this process writes: every rank trains, the first tells and publishes."""


class Trained(NamedTuple):
    """A training that came to its last step: what it trained, on what, and how it stood before and after."""

    trainer: Any
    data: TrainingData
    untrained: dict[str, Any]
    loss_before: dict[str, float]
    loss_after: dict[str, float]


def main(job: Job) -> Artifact:
    """Train what the job describes and publish it. Raises Refused: FT-TRAIN-001 … 054, FT-ADP-001."""
    with hold(job.folder()):
        return _train_and_publish(job)


def _train_and_publish(job: Job) -> Artifact:
    started = time.monotonic()
    task = _prepare(job)
    if torchrun.is_main():
        forget_published(job.folder())
    metrics = Metrics(task.folder)
    with Stop(job.folder()) as stop, Sampler() as sampler:
        trained = climb(
            lambda settings: _train(task._replace(settings=settings), metrics, stop, sampler),
            task.settings, task.compute, job.folder(), metrics,
        )  # fmt: skip
    metrics.close()
    summary = {
        **_summarise(task, trained),
        "events": read_events(task.folder / METRICS_FILE),
        "seconds": round(time.monotonic() - started, 1),
    }
    if torchrun.is_main():
        link_final_model(job.folder(), _publish(task, trained, summary))
        remove_checkpoints(job.folder())
        forget(job.folder())
    torchrun.wait_for_all()
    return job.published()


def _prepare(job: Job) -> Task:
    from transformers import AutoTokenizer

    is_dpo = job.params["method"] == "dpo"
    settings = (DpoSettings if is_dpo else SftSettings).model_validate(job.params["settings"])
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    check_devices(settings, compute)
    sft = job.input("sft_adapter") if is_dpo else None
    base_folder = models.locate(settings.base_model, Path(job.params["state_dir"]), settings.revision)
    tokenizer: Any = AutoTokenizer.from_pretrained(base_folder, trust_remote_code=False)
    base = describe_base(base_folder, tokenizer, settings.base_model, settings.revision)
    lora = settings.lora if isinstance(settings, SftSettings) else None
    if sft is not None:
        contract = read_adapter_contract(sft.folder())
        refuse_if("loading sft_adapter", compare_base(contract, base).violations("sft_adapter"))
        lora = contract.lora
    return Task(
        job=job,
        settings=settings,
        prompt=msgspec.convert(job.params["prompt"], RagPrompt),
        compute=compute,
        splits=job.input("preference_splits" if is_dpo else "instruction_splits"),
        sft=sft,
        lora=lora,
        base_folder=base_folder,
        base=base,
        tokenizer=tokenizer,
        folder=job.folder() if torchrun.is_main() else job.folder() / f"rank-{torchrun.rank()}",
    )


def _train(task: Task, metrics: Metrics, stop: Stop, sampler: Sampler) -> Trained:
    """From the files to the last step, with the task's settings: the job's, or ones that need less memory."""
    settings, compute, run_dir = task.settings, task.compute, task.job.folder()
    preflight = Preflight(f"training on {task.splits.asset}", task.folder)
    data = TrainingData(
        task.splits,
        task.tokenizer,
        prompt=task.prompt,
        thinking=task.job.params["thinking"],
        settings=settings,
        stop_ids=task.base.stop_token_ids,
        preflight=preflight,
    )
    judge_resources(
        preflight,
        settings,
        compute,
        base=task.base_folder,
        lora=task.lora,
        tokens=data.longest,
        supervised=data.most_supervised,
        run_dir=run_dir,
    )
    trainer = build_trainer(
        settings,
        compute,
        load_model(task.base_folder, settings, compute, task.sft, longest=data.longest),
        tokenizer=task.tokenizer,
        data=data,
        metrics=metrics,
        run_dir=run_dir,
        reference=Reference(task.job.artifacts(), task.sft.data_version) if task.sft is not None else None,
    )
    data.check_against(trainer)
    judge_trial(preflight, trainer)
    trainer.add_callback(build_reporter(trainer, metrics, sampler, data.name_row))
    trainer.add_callback(build_control(run_dir, metrics, stop))
    untrained = _copy_trainable(trainer.model)
    loss_before = _first_evaluation(trainer, task.folder)
    with stop.at_a_step():
        train_to_the_end(trainer, run_dir, metrics)
    return Trained(trainer, data, untrained, loss_before, _final_evaluation(trainer))


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


def _summarise(task: Task, trained: Trained) -> dict[str, Any]:
    """The figures of the manifest."""
    trainer, data, untrained, before, after = trained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    rewards = {
        f"{name}_{moment}": found[f"eval_rewards/{key}"]
        for name, key in (("reward_accuracy", "accuracies"), ("reward_margin", "margins"))
        for moment, found in (("before", before), ("after", after))
        if task.sft is not None
    }
    return {
        "steps": trainer.state.global_step,
        "eval_loss_before": before["eval_loss"],
        "eval_loss_after": after["eval_loss"],
        "train_loss_first": losses[0],
        "train_loss_last": losses[-1],
        **rewards,
        "max_abs_adapter_delta": max(
            float((tensor.detach().cpu() - untrained[name]).abs().max())
            for name, tensor in trainer.model.named_parameters() if name in untrained
        ),
        "trainable_parameters": sum(tensor.numel() for tensor in untrained.values()),
        "rows": len(data.train),
        "validation_rows": len(data.validation),
        "supervised_tokens": data.supervised_tokens,
        "device": task.compute.device,
        "dtype": task.compute.dtype,
    }  # fmt: skip


def _publish(task: Task, trained: Trained, summary: dict[str, Any]) -> Artifact:
    job = task.job
    with job.artifacts().stage(job.recipe) as staging:
        save = _save_model if task.settings.method == "full" else _save_adapter
        contract = save(task, trained.trainer.model, staging.path)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        card = Card(recipe=job.recipe, contract=contract, summary=summary, base_folder=task.base_folder)
        write_card(staging.path / "README.md", card)
        trained.data.write_too_long(staging.path)
        for name in (METRICS_FILE, LOG_FILE, PREFLIGHT_FILE):
            if (job.folder() / name).is_file():
                shutil.copy2(job.folder() / name, staging.path / name)
        return staging.publish(summary)


def _save_adapter(task: Task, model: Any, folder: Path) -> AdapterContract:
    target, config = folder / ADAPTER_FOLDER, model.peft_config[ADAPTER_NAME]
    # a local path would make equal adapters differ from machine to machine
    config.base_model_name_or_path = task.settings.base_model
    # TRL adds a copy of the SFT adapter (`ref`) for DPO, which does not travel
    model.save_pretrained(target, selected_adapters=[ADAPTER_NAME])
    (target / "README.md").unlink(missing_ok=True)
    shape = LoraShape(r=config.r, alpha=config.lora_alpha, targets=sorted(config.target_modules))
    return AdapterContract(base=task.base, prompt=task.prompt, reasoning=task.job.params["thinking"], lora=shape)


def _save_model(task: Task, model: Any, folder: Path) -> AdapterContract:
    """In fp32, as it was trained and measured: rounding would undo the smallest of what was learnt."""
    from transformers import AutoConfig

    target = folder / WHOLE_MODEL_FOLDER
    model.save_pretrained(target)
    config = AutoConfig.from_pretrained(task.base_folder, trust_remote_code=False)  # trainers write into the model's
    config.dtype = "float32"
    config.save_pretrained(target)
    copy_companions(task.base_folder, target)
    return AdapterContract(
        base=task.base,
        prompt=task.prompt,
        reasoning=task.job.params["thinking"],
        method="full",
        weights_sha256=fingerprint(target)["weights"],
    )


def _copy_trainable(model: Any) -> dict[str, Any]:
    """A copy of the tensors that are trained, by name."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}


if __name__ == "__main__":
    run_worker(main)
