"""The TRL trainer that the settings describe."""

# torch, transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.rows.sampler import StepOrder, row_lengths
from ft_assets.adapters.rows.training_data import TrainingData, take_token_ids
from ft_assets.adapters.rows.verdicts import choose_weights
from ft_assets.adapters.trainer.best import build_best
from ft_assets.adapters.trainer.cpu_loss import project_supervised_only
from ft_assets.adapters.trainer.dpo_reference import Reference, use_reference
from ft_assets.adapters.trainer.hardened import harden
from ft_assets.adapters.trainer.kto import build_kto
from ft_assets.adapters.trainer.pair_losses import add_pair_losses
from ft_assets.adapters.trainer.sharding import is_sharded, prepare_shards
from ft_assets.adapters.trainer.ties import count_ties
from ft_assets.config.model import NEEDS_BITSANDBYTES, DpoSettings, SftSettings, TrainSettings
from resources import accelerator, torchrun
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase, TrainerState

# label smoothing that the papers recommend: robust DPO and EXO
_SMOOTHING: Mapping[str, float] = {"robust": 0.1, "exo_pair": 1e-3}
# how much a packed row may change its neighbour's logits, as a share of the largest one
_LEAK = 1e-3


def build_trainer(
    settings: SftSettings | DpoSettings,
    compute: accelerator.Compute,
    model: nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    metrics: Metrics,
    run_dir: Path,
    reference: Reference | None = None,
) -> Any:
    """Return the trainer, ready to train. `reference` (DPO): the store of the reference log-probabilities.
    Raises Refused (FT-TRAIN-053)."""
    from transformers import PrinterCallback, ProgressCallback

    arguments = _arguments(settings, compute, run_dir)
    common = {
        "model": model,
        "train_dataset": data.datasets["train"],
        "eval_dataset": data.datasets["validation"],
        "processing_class": tokenizer,
    }
    trainer = (
        _build_dpo(settings, arguments, common, metrics, data)
        if isinstance(settings, DpoSettings)
        else _build_sft(settings, arguments, common, metrics)
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    _order_rows(trainer, settings)
    if settings.checkpoint == "best":
        trainer.add_callback(build_best(settings.best_by, settings.patience))
    if compute.dtype == "float16":
        _cast_trainable_to_fp32(trainer.model)
    if compute.device == "cpu" and not is_sharded(settings):  # in shards a CPU is for tests, of the head that GPUs run
        project_supervised_only(trainer.model if settings.method == "full" else trainer.model.get_base_model())
    if isinstance(settings, DpoSettings) and reference is not None:
        use_reference(trainer, reference, settings, compute, metrics)
    if is_sharded(settings):
        prepare_shards(trainer)
    elif torchrun.world_size() > 1:
        # transformers does not wrap a model in DDP if it was evaluated before it is trained: every process would
        # silently train a model of its own, and that of the first would be published
        trainer.model_wrapped = trainer.accelerator.prepare(trainer.model)
    return trainer


def _build_dpo(
    settings: DpoSettings, arguments: dict[str, Any], common: dict[str, Any], metrics: Metrics, data: TrainingData
) -> Any:
    if settings.is_kto:
        return build_kto(settings, arguments, common, choose_weights(settings, data.verdicts), metrics)
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    smoothing = settings.label_smoothing
    config = DPOConfig(
        **arguments,
        beta=settings.beta,
        loss_type=["sigmoid" if settings.is_reference_free else settings.loss],  # replaced by pair_losses.py
        label_smoothing=_SMOOTHING.get(settings.loss, 0.0) if smoothing is None else smoothing,
        # without it, TRL would load a second whole model as the reference
        precompute_ref_log_probs=settings.method == "full",
    )
    trainer = harden(count_ties(add_pair_losses(take_token_ids(DPOTrainer), settings)), metrics)(args=config, **common)
    trainer.loss_by_tokens = settings.loss == "sft"
    _complete_reference(trainer.model)
    return trainer


def _complete_reference(model: nn.Module) -> None:
    """Copy the rows of trained tokens into the adapter `ref`. TRL 1.16 copies only what has `.default.` in its name,
    and these end with it: the reference would have the rows of the base."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        copy = parameters.get(f"{name.removesuffix('.default')}.ref") if name.endswith(".default") else None
        if copy is not None:
            copy.data.copy_(parameter.data)


def _build_sft(settings: SftSettings, arguments: dict[str, Any], common: dict[str, Any], metrics: Metrics) -> Any:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    # packed rows stay apart exactly (checked below); the validation rows are scored one by one in any case
    packing = {"packing": True, "packing_strategy": "bfd", "eval_packing": False} if settings.packing else {}
    config = SFTConfig(**arguments, **packing, neftune_noise_alpha=settings.neftune)
    trainer = harden(SFTTrainer, metrics)(args=config, **common)
    trainer.loss_by_tokens = True
    if settings.packing:
        _refuse_leaks(trainer)
    return trainer


def _cast_trainable_to_fp32(model: nn.Module) -> None:
    """Cast the trained parameters: the loss scaler of fp16 takes fp32 gradients only."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _arguments(settings: SftSettings | DpoSettings, compute: accelerator.Compute, run_dir: Path) -> dict[str, Any]:
    """Return the arguments that the configurations of all of TRL's trainers have."""
    on_cpu, processes = compute.device == "cpu", torchrun.world_size()
    return {
        "output_dir": str(run_dir),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.rows_at_once,
        "per_device_eval_batch_size": settings.rows_at_once,
        "gradient_accumulation_steps": settings.global_batch_size // (settings.rows_at_once * processes),
        "max_length": settings.max_length,
        **_schedule(settings),
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "adam_epsilon": settings.epsilon,
        "optim": "adamw_torch_fused" if settings.optimizer == "adamw" else settings.optimizer,
        "activation_checkpointing": settings.recomputes_on(compute.device),
        "activation_offloading": settings.activation_offloading,
        "eval_strategy": "steps",
        "eval_steps": settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_only_model": is_sharded(settings),
        # gradients that are summed up over micro-batches would be those of the whole model
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": is_sharded(settings)}},
        "logging_steps": settings.logging_steps,
        "logging_first_step": True,  # the first figures are logged even if the run is short
        "logging_nan_inf_filter": False,  # its default shows a NaN loss as 0.0
        "bf16": compute.dtype == "bfloat16",
        "fp16": compute.dtype == "float16",
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and processes > 1 else None,
        "ddp_find_unused_parameters": False,  # every step uses all trained parameters
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "data_seed": settings.seed,
    }


def _schedule(settings: TrainSettings) -> dict[str, Any]:
    if share := settings.min_learning_rate_share:
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": share}}
    return {"lr_scheduler_type": settings.scheduler}


def check_devices(settings: SftSettings | DpoSettings, compute: accelerator.Compute) -> None:
    """Refuse settings that these processes and GPUs cannot run, before anything is loaded.
    Raises Refused: FT-TRAIN-008, FT-TRAIN-050 … 052, FT-TRAIN-055."""
    import torch

    processes = torchrun.world_size()
    if settings.global_batch_size % (settings.rows_at_once * processes):
        refuse(
            violation(
                "FT-TRAIN-050",
                where=SUBJECT,
                field="global_batch_size",
                found=settings.global_batch_size,
                expected=f"a multiple of {settings.rows_at_once} x {processes}",
            )
        )
    if settings.optimizer in NEEDS_BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        refuse(violation("FT-TRAIN-008", where=SUBJECT, field="optimizer", found=settings.optimizer, expected="adamw"))
    if compute.device == "cpu":
        if settings.activation_offloading:
            refuse(violation("FT-TRAIN-051", where=SUBJECT, field="activation_offloading", found=True, expected=False))
        return
    gpus = torch.cuda.device_count()
    if processes == 1 and gpus > 1:
        refuse(violation("FT-TRAIN-055", where=SUBJECT, field="GPUs", found=gpus, expected=1))
    if torchrun.local_rank() >= gpus:
        refuse(
            violation(
                "FT-TRAIN-052",
                where=SUBJECT,
                field="launcher.processes",
                found=processes,
                expected=f"at most {gpus}",
            )
        )


def _order_rows(trainer: Any, settings: SftSettings | DpoSettings) -> None:
    """Make the trainer take its rows in StepOrder."""
    from transformers import TrainerCallback

    order = StepOrder(row_lengths(trainer.train_dataset), settings.global_batch_size, settings.seed)

    class BeginEpoch(TrainerCallback):
        # not by the sampler's `set_epoch`: accelerate does not pass it on when several processes resume
        def on_epoch_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            order.begin_epoch(state.global_step)

    trainer.add_callback(BeginEpoch())
    trainer._get_train_sampler = lambda dataset=None: order


def _refuse_leaks(trainer: Any) -> None:
    """Refuse (FT-TRAIN-053) to pack if rows influence each other in this model: with another first row, the logits of
    the second must stay the same."""
    ids = list(trainer.train_dataset[0]["input_ids"][:16])
    half = len(ids) // 2
    first, second = ids[:half], ids[half:]
    model, training = trainer.model, trainer.model.training
    model.eval()
    logits, others = (_second_logits(trainer, start, second) for start in (first, first[::-1]))
    model.train(training)
    change = float((logits - others).abs().max() / logits.abs().max())
    if change > _LEAK:
        refuse(
            violation(
                "FT-TRAIN-053",
                where=SUBJECT,
                field="packing",
                found=f"a neighbour changes logits by {change:.1%}",
                expected="no change",
            )
        )


def _second_logits(trainer: Any, first: list[int], second: list[int]) -> Tensor:
    """Return the logits of the second of two packed rows."""
    import torch

    model, packed = trainer.model, first + second
    row = {"input_ids": packed, "labels": packed, "seq_lengths": [len(first), len(second)]}
    batch = {n: v.to(model.device) if torch.is_tensor(v) else v for n, v in trainer.data_collator([row]).items()}
    del batch["labels"]
    with torch.no_grad(), trainer.accelerator.autocast():
        return model(**batch, use_cache=False).logits[0, len(first) : len(packed)].float()
