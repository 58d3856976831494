"""The TRL trainer that the settings describe."""

# transformers and trl are untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_assets.adapters.data import TrainingData
from ft_assets.adapters.head import project_supervised_only
from ft_assets.adapters.reporter import build_reporter
from ft_assets.settings.model import DpoSettings, SftSettings
from resources import accelerator
from resources.telemetry import Metrics


def build_trainer(
    settings: SftSettings | DpoSettings,
    compute: accelerator.Compute,
    model: Any,
    *,
    tokenizer: Any,
    data: TrainingData,
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
        "callbacks": [build_reporter(metrics, compute.dtype)],
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
