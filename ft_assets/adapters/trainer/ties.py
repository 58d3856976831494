"""The accuracy of DPO's rewards, in which a tie counts half. TRL counts it as a loss."""

# torch and trl are untyped here
# pyright: basic
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_assets.adapters.trainer.row_weights import Batch

if TYPE_CHECKING:
    from torch import Tensor


def count_ties(trainer_class: type[Any]) -> type[Any]:
    """Return a subclass of TRL's DPO trainer whose evaluations count a tie half.

    Ties are not rare: in bf16 a small change of the adapter leaves many log-probabilities as they were, and an
    untrained one leaves all of them.
    """

    class TieCountingTrainer(trainer_class):
        def prediction_step(self, model: object, inputs: Batch, *args: object, **kwargs: object) -> Any:
            sums: list[Tensor] = []  # of the log-probabilities of each answer: the policy's, then the reference's
            hook = self.model.register_forward_hook(lambda *call: sums.append(call[2].log_probs.sum(dim=1)))
            try:
                outcome = super().prediction_step(model, inputs, *args, **kwargs)
            finally:
                hook.remove()
            figures = self._metrics["eval"]["rewards/accuracies"]
            figures[-1] = float(self.accelerator.gather(_rank(sums, inputs)).mean())
            return outcome

    return TieCountingTrainer


def _rank(sums: list[Tensor], inputs: Batch) -> Tensor:
    """Return 1 for each pair whose chosen answer gained more, 0.5 for a tie, else 0."""
    import torch

    policy = sums[0]
    known = "ref_chosen_logps" in inputs
    reference = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]) if known else sums[1]
    chosen, rejected = (policy - reference.to(policy)).chunk(2)
    return ((chosen - rejected).sign() + 1) / 2
