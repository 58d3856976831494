"""KTO's trainer: TRL's, with a KL term that does not depend on the size of the micro-batch."""

# torch and trl are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ft_assets.adapters.rows.training_data import take_token_ids
from ft_assets.adapters.trainer.hardened import harden
from ft_assets.config.model import DpoSettings
from resources.telemetry import Metrics

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
_LEAST_ROWS = 2


def build_kto(
    settings: DpoSettings,
    arguments: Mapping[str, Any],
    common: Mapping[str, Any],
    weights: tuple[float, float],
    metrics: Metrics,
) -> Any:
    """Return the trainer. `weights`: of desirable and of undesirable answers."""
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    rows = arguments["per_device_train_batch_size"]
    config = KTOConfig(
        # TRL refuses one row: its mismatched answer would be its own. Here it is that of another row.
        **{**arguments, "per_device_train_batch_size": max(rows, _LEAST_ROWS)},
        beta=settings.beta,
        loss_type="kto",
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        # without it, TRL would load a second whole model as the reference
        precompute_ref_log_probs=settings.method == "full",
    )
    trainer = share_kl(harden(take_token_ids(KTOTrainer), metrics))(args=config, **common)
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = rows
    trainer.precompute_ref_logps = True  # the batches bring them: from dpo_reference.py, or added below
    return trainer


def share_kl(trainer_class: type[Any]) -> type[Any]:
    """Return a hardened KTO trainer whose KL term is one figure for all rows of an optimizer step, or of an evaluation.

    TRL estimates the term on each micro-batch, so that its size would change the result, and memory fallbacks with it.
    The mean over the whole step is the same estimate from more rows. The means of rewards count every row once; TRL
    takes the mean of the means of micro-batches, however few answers of a verdict these have.
    """

    class KlSharingTrainer(trainer_class):
        kl: Any = None
        """The KL divergence from the reference as a tensor, at least 0; None until it is estimated."""

        def get_batch_samples(self, *args: object, **kwargs: object) -> tuple[list[Batch], Tensor | int | None]:
            batches, items = super().get_batch_samples(*args, **kwargs)
            self.kl, self.step_batches = None, [_add_reference(self, batch) for batch in batches]
            return self.step_batches, items

        def evaluation_loop(self, dataloader: Iterable[Batch], *args: object, **kwargs: object) -> Any:
            self.kl = self._estimate_kl(dataloader)
            try:
                return super().evaluation_loop(dataloader, *args, **kwargs)
            finally:
                self.kl = None

        def _compute_loss(self, model: Any, inputs: Batch, return_outputs: bool) -> Any:
            import torch

            if self.kl is None:  # at the first micro-batch of a step; trial steps are no step of the training
                self.kl = self._estimate_kl(self.step_batches or [inputs])
            batch = _add_reference(self, inputs)
            # TRL takes the mean of `_compute_kl_logps` less this
            batch = {**batch, "ref_KL_logps": torch.zeros_like(batch["ref_KL_logps"])}
            loss = super()._compute_loss(model, batch, return_outputs)
            _weigh_figures(self, batch["label"])
            return loss

        def _compute_kl_logps(self, model: Any, batch: Batch) -> Tensor:
            return self.kl.expand_as(batch["ref_KL_logps"])

        def _estimate_kl(self, batches: Iterable[Batch]) -> Tensor:
            """Return the mean log-ratio of all mismatched answers, over all processes."""
            import torch

            ratios: list[Tensor] = []
            with torch.no_grad(), self.compute_loss_context_manager(), self.accelerator.autocast():
                for number, each in enumerate(batches):
                    batch = _add_reference(self, self._prepare_inputs(each))
                    own = super()._compute_kl_logps(self.model, batch).float() - batch["ref_KL_logps"]
                    ratios.append(own if self.is_shared(number) else self.accelerator.gather(own))
            return torch.cat(ratios).mean().clamp(min=0)

        def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
            figures = _figures(self)
            sides = [figures[name] for name in ("rewards/chosen", "rewards/rejected") if figures.get(name)]
            if len(sides) == 2:
                chosen, rejected = (sum(rewards) / len(rewards) for rewards in sides)
                figures["rewards/margins"] = [chosen - rejected]
            super().log(logs, *args, **kwargs)

    return KlSharingTrainer


def _figures(trainer: Any) -> dict[str, list[float]]:
    """Return the figures that TRL has collected since the last entry of the log."""
    return trainer._metrics["train" if trainer.model.training else "eval"]


def _add_reference(trainer: Any, batch: Batch) -> Batch:
    """Return the batch with the log-probabilities of the reference, which the rows may have already."""
    if "ref_logps" in batch:
        return batch
    own, mismatched = trainer.compute_ref_log_probs(trainer.model, trainer._prepare_inputs(batch))
    return {**batch, "ref_logps": own, "ref_KL_logps": mismatched}


def _weigh_figures(trainer: Any, labels: Tensor) -> None:
    """Count the figures of the last micro-batch once for each of its answers of a verdict."""
    figures = _figures(trainer)
    shared = trainer.is_shared(len(trainer.scored))
    everywhere = labels if shared else trainer.accelerator.gather(labels.to(trainer.accelerator.device))
    desirable = int(everywhere.sum())
    for side, answers in (("chosen", desirable), ("rejected", len(everywhere) - desirable)):
        for name in (f"rewards/{side}", f"logps/{side}"):
            if answers:
                figures[name] += figures[name][-1:] * (answers - 1)
