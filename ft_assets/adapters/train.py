"""Worker: train an adapter or a whole model: by SFT on instructions, or from the SFT model by DPO on pairs or KTO.

Load, judge the gates, train, publish.
"""

# torch, transformers, trl, peft and datasets are untyped here
# pyright: basic
from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from expectations.contracts.adapter import (
    AdapterContract,
    BaseModelIdentity,
    LoraShape,
    RagPrompt,
    compare_base,
)
from expectations.contracts.fingerprint import configuration, fingerprint
from ft_assets.adapters.export.export import delete_stale_metrics
from ft_assets.adapters.export.model_card import CardFigures, ModelCard, write_card
from ft_assets.adapters.figures import CHANGE, REPORTED
from ft_assets.adapters.jobs import AnswerLimits, TrainParams, TrainSummary
from ft_assets.adapters.preflight import (
    PREFLIGHT_FILE,
    Preflight,
    choose_rows,
    judge_base,
    judge_resources,
    judge_steps,
    judge_trial,
)
from ft_assets.adapters.refusals import SUBJECT, refuse_if
from ft_assets.adapters.rows.training_data import TrainingData, name_splits
from ft_assets.adapters.trainer.answering import SECONDS, answer_validation, questions_of
from ft_assets.adapters.trainer.best import ended_early, load_best
from ft_assets.adapters.trainer.build import build_trainer, check_devices
from ft_assets.adapters.trainer.checkpoints import checkpoints, remove_checkpoints, train_to_the_end
from ft_assets.adapters.trainer.control import Stop, build_control
from ft_assets.adapters.trainer.dpo_reference import Reference
from ft_assets.adapters.trainer.load_model import load_model
from ft_assets.adapters.trainer.oom_ladder import delete_fallbacks, train_with_fallbacks
from ft_assets.adapters.trainer.reporter import build_reporter
from ft_assets.adapters.trainer.sharding import (
    check_sharding,
    is_sharded,
    largest_change,
    local_part,
    save_whole_model,
)
from ft_assets.adapters.trainer.trackers import add_trackers, check_trackers, read_trackers
from ft_assets.config.model import AdapterSettings, DpoSettings, SftSettings
from ft_assets.generation.jobs import GENERATED
from resources import accelerator, models, torchrun
from resources.accelerator import Compute, Sampler
from resources.artifacts import Artifact, write_json
from resources.launcher import LOG_FILE, RAY_RANKS, Job, run_worker
from resources.model_check import limits_of
from resources.telemetry import METRICS_FILE, Metrics, read_events, read_metrics
from resources.trained_model import (
    ADAPTER_FOLDER,
    ADAPTER_NAME,
    CONTRACT_FILE,
    WHOLE_MODEL_FOLDER,
    copy_companions,
    describe_base,
    given_adapter,
    read_adapter_contract,
    shape_of,
    weights_folder,
)
from resources.training_run import link_final_model, lock_run

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


class Task(NamedTuple):
    """A training job, read and checked, with its inputs."""

    job: Job
    settings: SftSettings | DpoSettings
    prompt: RagPrompt
    thinking: str
    answers: AnswerLimits
    report_to: tuple[str, ...]
    compute: Compute
    splits: tuple[Artifact, ...]
    """The splits that the recipe names. KTO may read two of them."""
    generated: tuple[Artifact, ...]
    """The tables of generated rows that the recipe names."""
    start: Path | None
    """The folder of the model or adapter that DPO and KTO continue; None: the base."""
    reference: Reference | None
    """The reference of DPO and KTO."""
    lora: AdapterSettings | LoraShape | None
    """The adapter's shape: the configured one, or that of the adapter that is continued."""
    base_folder: Path
    base: BaseModelIdentity
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    """The folder that this process writes into: every rank trains, the first reports and publishes."""


class Trained(NamedTuple):
    """A finished training: its trainer and data, the tensors before it, and the evaluations before and after."""

    trainer: Any
    data: TrainingData
    untrained: dict[str, Tensor]
    before: dict[str, float]
    after: dict[str, float]
    best_step: int | None
    """The step whose weights are published, if it need not be the last one."""
    questions: int
    """The number of validation questions that are answered at each evaluation."""


def main(job: Job) -> Artifact:
    """Train the model of the job and publish it. Raises Refused: FT-TRAIN-001 … 080, FT-ADP-001."""
    if RAY_RANKS in os.environ and torchrun.world_size() == 1:
        from ft_assets.adapters.train_on_ray import train_on_ray

        return train_on_ray(main, job)
    params = job.params_as(TrainParams)
    with lock_run(job.folder(), SUBJECT):
        return _train_and_publish(job, params)


def _train_and_publish(job: Job, params: TrainParams) -> Artifact:
    started = time.monotonic()
    stop = Stop(job.folder())  # from here on a person may request one
    task = _prepare(job, params)
    if torchrun.is_main():
        delete_stale_metrics(job.folder())
    metrics = Metrics(task.folder)
    with stop, Sampler() as sampler:
        trained = train_with_fallbacks(
            lambda settings: _train(task._replace(settings=settings), metrics, stop, sampler),
            task.settings,
            task.compute,
            job.folder(),
            metrics,
        )
    summary = _summarise(task, trained, seconds=round(time.monotonic() - started, 1))
    metrics.log("weights", summary.steps, summary.steps, **{CHANGE: summary.max_abs_adapter_delta})
    metrics.close()
    if torchrun.is_main():
        published = _publish(task, trained, summary)
        weights = weights_folder(read_adapter_contract(published.path))
        link_final_model(job.folder(), published.path / weights)
        remove_checkpoints(job.folder())
        delete_fallbacks(job.folder())
    elif is_sharded(task.settings) and task.settings.method == "full":
        save_whole_model(trained.trainer.model, None)
    torchrun.wait_for_all()
    return job.published()


def _prepare(job: Job, params: TrainParams) -> Task:
    from transformers import AutoTokenizer

    settings = params.typed_settings()
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    check_devices(settings, compute)
    check_trackers(params.report_to)
    base_folder = models.locate(settings.base_model, Path(params.compute.state_dir), settings.revision)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base_folder, trust_remote_code=False)
    base = describe_base(base_folder, tokenizer, settings.base_model, settings.revision)
    start, reference, lora = _find_start(job, settings, base)
    check_sharding(settings, lora, compute)
    return Task(
        job=job,
        settings=settings.model_copy(update={"micro_batch_size": choose_rows(settings, lora, compute, base_folder)}),
        prompt=params.prompt,
        thinking=params.thinking,
        answers=params.answers,
        report_to=params.report_to,
        compute=compute,
        splits=tuple(job.input(name) for name in sorted(job.recipe.inputs) if name.endswith("_splits")),
        generated=tuple(job.input(name) for name in GENERATED if name in job.recipe.inputs),
        start=start,
        reference=reference,
        lora=lora,
        base_folder=base_folder,
        base=base,
        tokenizer=tokenizer,
        folder=job.folder() if torchrun.is_main() else job.folder() / f"rank-{torchrun.rank()}",
    )


def _find_start(
    job: Job, settings: SftSettings | DpoSettings, base: BaseModelIdentity
) -> tuple[Path | None, Reference | None, AdapterSettings | LoraShape | None]:
    """Return the folder of what the training continues, the reference, and the shape of the adapter.

    Raises Refused: FT-ADP-001 it belongs to another base, FT-TRAIN-070 there is no adapter in the folder.
    """
    store = job.artifacts()
    if isinstance(settings, SftSettings):
        return None, None, settings.lora
    if settings.start == "base":
        return None, Reference(store, start=base.weights_sha256), settings.lora or AdapterSettings()
    if settings.start == "sft":
        sft = job.input("sft_adapter")
        contract = read_adapter_contract(sft.folder())
        refuse_if("loading sft_adapter", compare_base(contract, base).violations("sft_adapter"))
        return sft.folder(), Reference(store, sft_version=sft.data_version), contract.lora
    given = given_adapter(settings.start)
    if given.contract is not None:
        refuse_if(f"loading {given.folder}", compare_base(given.contract, base).violations(str(given.folder)))
    return given.folder, Reference(store, start=f"{base.weights_sha256} {given.version}"), given.shape


def _train(task: Task, metrics: Metrics, stop: Stop, sampler: Sampler) -> Trained:
    """Train from the files to the last step, with the job's settings or with a fallback that needs less memory."""
    settings, compute, run_dir = task.settings, task.compute, task.job.folder()
    preflight = Preflight(f"training on {name_splits([*task.splits, *task.generated])}", task.folder)
    judge_base(preflight, task.base_folder)
    data = TrainingData(
        task.splits,
        task.tokenizer,
        prompt=task.prompt,
        thinking=task.thinking,
        settings=settings,
        stop_ids=task.base.stop_token_ids,
        limits=limits_of(task.base_folder),
        preflight=preflight,
        generated=task.generated,
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
        load_model(task.base_folder, settings, compute, task.start, longest=data.longest),
        tokenizer=task.tokenizer,
        data=data,
        metrics=metrics,
        run_dir=run_dir,
        reference=task.reference,
    )
    data.check_against(trainer)
    questions = questions_of(data.validation, task.prompt, settings.eval_answers)
    if questions.golds:
        trainer.answer = answer_validation(trainer, task.tokenizer, task.base.stop_token_ids, questions, task.answers)
    judge_steps(preflight, trainer)
    judge_trial(preflight, trainer)
    board = "tensorboard" in task.report_to
    trainer.add_callback(build_reporter(trainer, metrics, sampler, data.name_row, board=board))
    add_trackers(trainer, task.report_to, task.job)
    trainer.add_callback(build_control(run_dir, metrics, stop))
    untrained = _copy_trainable(trainer.model)
    before = _first_evaluation(trainer, task.folder)
    with stop.at_a_step():
        train_to_the_end(
            trainer,
            run_dir,
            metrics,
            is_over=lambda state: ended_early(state.log_history, settings.best_by, settings.patience),
        )
    best_step = load_best(trainer) if settings.checkpoint == "best" else None
    after = _final_evaluation(trainer, best_step)
    return Trained(trainer, data, untrained, before, after, best_step, len(questions.golds))


def _first_evaluation(trainer: Any, own_folder: Path) -> dict[str, float]:
    """Return the figures before the first step; a run that resumes has already logged them."""
    logged = [record for record in read_metrics(own_folder / METRICS_FILE) if record.get("eval_loss") is not None]
    first = next((record for record in reversed(logged) if record["step"] == 0), None)
    kept = first if checkpoints(Path(trainer.args.output_dir)) else None
    return torchrun.gather(kept)[0] or trainer.evaluate()  # one process evaluating alone would wait for ever


def _final_evaluation(trainer: Trainer, best_step: int | None) -> dict[str, float]:
    """Return the figures of the weights that are published: those of the last step or of the best one. There is no
    other evaluation if the trainer has done one there."""
    step = trainer.state.global_step if best_step is None else best_step
    logged = (entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry)
    return next((entry for entry in logged if entry["step"] == step), None) or trainer.evaluate()


def _summarise(task: Task, trained: Trained, seconds: float) -> TrainSummary:
    trainer, data, untrained = trained.trainer, trained.data, trained.untrained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tensors = [tensor for name, tensor in trainer.model.named_parameters() if name in untrained]
    summary = TrainSummary(
        steps=trainer.state.global_step,
        eval_loss_before=trained.before["eval_loss"],
        eval_loss_after=trained.after["eval_loss"],
        train_loss_first=losses[0],
        train_loss_last=losses[-1],
        max_abs_adapter_delta=largest_change(tensors, untrained.values()),
        trainable_parameters=sum(tensor.numel() for tensor in tensors),
        rows=len(data.train),
        validation_rows=len(data.validation),
        verdicts=data.verdicts or msgspec.UNSET,
        origins=data.origins or msgspec.UNSET,
        supervised_tokens=data.supervised_tokens,
        device=task.compute.device,
        dtype=task.compute.dtype,
        best_step=msgspec.UNSET if trained.best_step is None else trained.best_step,
        best_by=msgspec.UNSET if trained.best_step is None else task.settings.best_by,
        events=read_events(task.folder / METRICS_FILE),
        seconds=seconds,
        trackers=read_trackers(task.job.folder()) or msgspec.UNSET,
    )
    figures: dict[str, Any] = {}
    for time_of, evaluation in (("before", trained.before), ("after", trained.after)):
        figures |= {f"{name}_{time_of}": evaluation[key] for name, key in REPORTED.items() if key in evaluation}
    if trained.questions:
        records = read_metrics(task.folder / METRICS_FILE)
        seconds = sum(record.get(f"eval_{SECONDS}", 0.0) for record in records)
        figures |= {"answered_questions": trained.questions, SECONDS: round(seconds, 1)}
    return msgspec.structs.replace(summary, **figures)


def _publish(task: Task, trained: Trained, summary: TrainSummary) -> Artifact:
    job = task.job
    with job.artifacts().stage(job.recipe) as staging:
        save = _save_model if task.settings.method == "full" else _save_adapter
        contract = save(task, trained.trainer.model, staging.path)
        write_json(staging.path / CONTRACT_FILE, msgspec.to_builtins(contract))
        figures = msgspec.convert(summary.figures(), CardFigures)
        card = ModelCard(recipe=job.recipe, contract=contract, figures=figures, base_folder=task.base_folder)
        write_card(staging.path / "README.md", card)
        trained.data.write_too_long(staging.path)
        for name in (METRICS_FILE, LOG_FILE, PREFLIGHT_FILE):
            if (job.folder() / name).is_file():
                shutil.copy2(job.folder() / name, staging.path / name)
        return staging.publish(summary)


def _save_adapter(task: Task, model: Any, folder: Path) -> AdapterContract:
    target, config = folder / ADAPTER_FOLDER, model.peft_config[ADAPTER_NAME]
    # with a local path, equal adapters would differ between machines
    config.base_model_name_or_path = task.settings.base_model
    # PEFT has a set, which would be written in the order of its hashes: they differ between processes
    targets = config.target_modules if isinstance(config.target_modules, str) else sorted(config.target_modules)
    config.target_modules = targets
    config.modules_to_save = sorted(set(config.modules_to_save or [])) or None
    # for DPO and KTO, TRL adds a copy of the SFT adapter (`ref`), which is not published
    model.save_pretrained(target, selected_adapters=[ADAPTER_NAME])
    (target / "README.md").unlink(missing_ok=True)
    return AdapterContract(base=task.base, prompt=task.prompt, reasoning=task.thinking, lora=shape_of(config.to_dict()))


def _save_model(task: Task, model: PreTrainedModel, folder: Path) -> AdapterContract:
    """Save in fp32, as it was trained and measured: rounding would undo the smallest changes."""
    from transformers import AutoConfig

    target = folder / WHOLE_MODEL_FOLDER
    if is_sharded(task.settings):
        save_whole_model(model, target)
    else:
        model.save_pretrained(target)
    config = AutoConfig.from_pretrained(task.base_folder, trust_remote_code=False)  # trainers change the model's own
    config.dtype = "float32"
    config.save_pretrained(target)
    copy_companions(task.base_folder, target)
    return AdapterContract(
        base=task.base,
        prompt=task.prompt,
        reasoning=task.thinking,
        method="full",
        weights_sha256=fingerprint(target)["weights"],
        config=configuration(target),
    )


def _copy_trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the tensors that are trained, or of this process' shards of them, by name."""
    return {name: local_part(p).to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}


if __name__ == "__main__":
    run_worker(main)
