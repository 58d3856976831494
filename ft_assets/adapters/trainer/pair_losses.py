"""Losses on pairs that TRL's DPO trainer lacks: CPO, SimPO and ORPO, and SFT on the chosen answers next to any loss.

TRL has trainers of its own for the first three, with another form of rows. Here they are losses of the DPO trainer, so
that resume, gates and figures are those of DPO: the rewards on the page are measured against the reference, as for
every loss, although these losses do not use it. Each term is a mean over pairs and does not depend on the micro-batch.
"""

# torch and trl are untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ft_assets.adapters.trainer.row_weights import Batch
from ft_assets.config.model import DpoSettings

if TYPE_CHECKING:
    from torch import Tensor


def cpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return CPO's loss of each pair (arXiv 2401.08417, equation 3) from the answers' log-probabilities."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected))


def simpo(chosen: Tensor, rejected: Tensor, beta: float, margin: float) -> Tensor:
    """Return SimPO's loss of each pair (arXiv 2405.14734, equation 6) from mean log-probabilities of a token."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected) - margin)


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return the odds-ratio loss of each pair (arXiv 2403.07691, equation 7) from mean log-probabilities of a token."""
    import torch
    from torch.nn.functional import logsigmoid

    def log_odds(logps: Tensor) -> Tensor:
        return logps - torch.log(-torch.expm1(logps))

    return -beta * logsigmoid(log_odds(chosen) - log_odds(rejected))


def add_pair_losses(trainer_class: type[Any], settings: DpoSettings) -> type[Any]:
    """Return TRL's DPO trainer, or a subclass whose loss is that of the settings where TRL's is not."""
    if not (settings.is_reference_free or settings.weight_of_sft):
        return trainer_class

    class PairLossTrainer(trainer_class):
        def _compute_loss(self, model: Any, inputs: Batch, return_outputs: bool) -> Any:
            logps: list[Tensor] = []  # of each token: by the policy, then perhaps by the reference
            hook = self.model.register_forward_hook(lambda *call: logps.append(call[2].log_probs))
            try:
                outcome = super()._compute_loss(model, inputs, return_outputs)
            finally:
                hook.remove()
            loss, *outputs = outcome if return_outputs else (outcome,)
            loss = _replace(loss, settings, logps[0], inputs["completion_mask"])
            return (loss, *outputs) if return_outputs else loss

    return PairLossTrainer


def _replace(loss: Tensor, settings: DpoSettings, logps: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of the settings; `loss` is TRL's.

    `logps`: of the tokens of the answers, 0 elsewhere, (2 x pairs, tokens - 1); `mask`: those tokens, (2 x pairs,
    tokens). The chosen answers come first.
    """
    sums, lengths = logps.sum(dim=1), mask[:, 1:].sum(dim=1)
    means = sums / lengths.clamp(min=1)
    if settings.is_reference_free:
        loss = _choose(settings)(*(sums if settings.loss == "cpo" else means).chunk(2)).mean()
    chosen, _ = means.chunk(2)
    return loss - settings.weight_of_sft * chosen.mean()


def _choose(settings: DpoSettings) -> Callable[[Tensor, Tensor], Tensor]:
    beta = settings.beta
    if settings.loss == "simpo":
        return lambda chosen, rejected: simpo(chosen, rejected, beta, settings.margin_of_simpo)
    own = cpo if settings.loss == "cpo" else orpo
    return lambda chosen, rejected: own(chosen, rejected, beta)
