"""A loss for the CPU that projects only the positions that carry loss; TRL's fused head projects all of them there."""

# torch and trl are untyped here
# pyright: basic
from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from expectations.rules.training import IGNORED
from resources.estimate import CPU_HEAD_TOKENS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from trl.trainer.utils import FusedCausalLMOutput


def project_supervised_only(model: PreTrainedModel) -> None:
    """Make the fused forward of `model` (patched by a TRL trainer, without PEFT's wrapper) score only the positions
    that carry loss. The values equal TRL's (tested). Measured: steps are 1.7 times faster where answers are short.

    TRL does this itself on GPUs. Models that scale or cap their logits keep TRL's head.
    """
    config = model.config.get_text_config()
    special = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    if any(getattr(config, name, None) is not None for name in special):
        return
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: object,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **kwargs: object,
    ) -> FusedCausalLMOutput:
        unusual = {"shift_labels", "num_items_in_batch", "output_router_logits"} & kwargs.keys()
        if not fused_lm_head or labels is None or unusual or int((labels != IGNORED).sum()) > CPU_HEAD_TOKENS:
            # with more tokens the memory of the logits costs more than is saved: use TRL's, which works in tiles
            return fused(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        mask = labels[:, 1:] != IGNORED
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, :-1]
        return _score(self.get_output_embeddings()(hidden[mask]).float(), labels[:, 1:], mask)

    model.forward = types.MethodType(forward, model)


def _score(logits: Tensor, labels: Tensor, mask: Tensor) -> FusedCausalLMOutput:
    """Return TRL's output from the logits [N, V] of the N positions that `mask` [B, T] selects."""
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    targets = labels[mask]
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, targets[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        mean_logits = logits.mean(-1)
        is_top1 = logits.argmax(-1) == targets

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    return FusedCausalLMOutput(
        loss=-chosen.sum() / mask.sum().clamp(min=1),
        log_probs=spread(chosen),
        entropy=spread(entropy),
        mean_logits=spread(mean_logits),
        is_top1=spread(is_top1),
        label_mask=mask,
    )
