"""Merge an adapter into its base, and prove by the logits that the merged model computes the same as base and adapter.

A whole model needs no merge: it is only written in another dtype, with the same proof.
"""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from expectations.contracts.adapter import RagPrompt, compare_base
from expectations.violations import Violation, violation
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.refusals import refuse_if
from resources.generator import render
from resources.trained_model import (
    copy_companions,
    describe_base,
    load_trained,
    load_weights,
    read_adapter_contract,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

MergedDtype = Literal["float32", "bfloat16", "float16"]
# How much a logit may change, as a share of the largest one: float32 rounds sums only; bfloat16 keeps 8 bits of a
# weight (measured on SmolLM2 with rank-8 adapters: 4e-6, and 1.4e-2 to 3.1e-2)
_TOLERANCE: dict[MergedDtype, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# A small adapter is lost in the rounding of the weights it is added to: the most that rounding may change the logits,
# as a share of the adapter's own effect
_MOST_NOISE = 0.5
_PROBES = (
    ("How long is the key?", ["The cipher has a key of 128 bits and a block of 64 bits.", "It was published in 1998."]),
    ("密钥有多长？", ["该算法的分组为 128 比特，密钥为 256 比特。"]),
    ("Name a hash function.", []),
)


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """The distance between the merged model and base and adapter, over all positions of a few prompts, in float32."""

    dtype: MergedDtype
    positions: int
    largest_logit: float
    max_abs_difference_merged: float
    """After the merge in float32."""
    max_abs_difference_saved: float
    """After the weights were rounded to `dtype`, saved, and read again."""
    tolerance: float
    """The most that max_abs_difference_saved may be."""
    adapter_effect: float
    """Root mean square of the change that the training made to the base's logits."""
    saved_noise: float
    """Root mean square of the change by merging, rounding and saving."""
    same_first_choice: float
    """Share of the positions at which the most likely token of the saved model is the same."""


def merge_adapter(adapter: Path, base: Path, target: Path, dtype: MergedDtype | None = None) -> Merged:
    """Merge a trained adapter (an artifact's folder) into the model in `base` and save the result in `target`.

    The merge is done in float32 on the CPU, whatever the adapter was trained on: merging into a 4-bit base costs seven
    times the error of the 4-bit model itself. `dtype`: of the saved weights (default: the base's own). Tokenizer, chat
    template and generation settings are the base's files, byte for byte. Memory: 4 bytes for each parameter.
    Raises Refused: FT-ADP-001 another base, FT-ADP-010 logits changed, FT-ADP-011 the base is quantised.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    contract = read_adapter_contract(adapter)
    mismatches = compare_base(contract, describe_base(base, tokenizer)).violations(f"{adapter.name} on {base}")
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        mismatches.append(
            violation(
                "FT-ADP-011",
                where=str(base),
                field="quantization_config",
                found=str(config.quantization_config),
                expected=None,
            )
        )
    refuse_if("merging", mismatches)
    saved_as = dtype or cast("MergedDtype", str(config.dtype or torch.float32).removeprefix("torch."))

    prompts = probe_prompts(tokenizer, contract.prompt)
    # one model in memory at a time
    plain = logits_of(load_weights(base, dtype=torch.float32), prompts)
    model: Any = load_trained(base, adapter, dtype=torch.float32)
    before = logits_of(model, prompts)
    if contract.method == "lora":
        model = model.merge_and_unload(safe_merge=True)
    merged = logits_of(model, prompts)
    model.to(getattr(torch, saved_as)).save_pretrained(str(target))
    del model
    copy_companions(base, target)
    saved = logits_of(load_weights(target, dtype=torch.float32), prompts)

    largest = float(before.abs().max())
    figures = Merged(
        dtype=saved_as,
        positions=len(before),
        largest_logit=largest,
        max_abs_difference_merged=float((merged - before).abs().max()),
        max_abs_difference_saved=float((saved - before).abs().max()),
        tolerance=_TOLERANCE[saved_as] * largest,
        adapter_effect=_root_mean_square(before - plain),
        saved_noise=_root_mean_square(saved - before),
        same_first_choice=float((saved.argmax(-1) == before.argmax(-1)).float().mean()),
    )
    refuse_if("merging", check_merged(figures, str(target)))
    return figures


def check_merged(figures: Merged, where: str) -> list[Violation]:
    """Return a violation (FT-ADP-010) for each figure of the merge that is above its limit."""
    limits = {
        "max_abs_difference_merged": _TOLERANCE["float32"] * figures.largest_logit,
        "max_abs_difference_saved": figures.tolerance,
        "saved_noise": _MOST_NOISE * figures.adapter_effect,
    }
    values = {name: float(getattr(figures, name)) for name in limits}
    return [
        violation("FT-ADP-010", where=where, field=name, found=value, expected=f"at most {limits[name]:g}")
        for name, value in values.items()
        if not value <= limits[name]  # true for NaN as well
    ]


def probe_prompts(tokenizer: PreTrainedTokenizerBase, prompt: RagPrompt) -> list[list[int]]:
    """Return the token ids of a few prompts, with which two models are compared."""
    return [render(tokenizer, build_messages(prompt, question, passages)) for question, passages in _PROBES]


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def logits_of(model: nn.Module, prompts: list[list[int]]) -> Tensor:
    """Return the logits [N, V] of all N positions of the prompts."""
    import torch

    with torch.inference_mode():
        return torch.cat([model.eval()(torch.tensor([ids])).logits[0] for ids in prompts])
