"""An adapter merged into its base: a model of its own, proven by its logits to say what base and adapter say. A whole
model is one already: it is only written in another dtype, with the same proof."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from expectations.contracts.adapter import RagPrompt, compare_base
from expectations.violations import Refused, Violation
from ft_assets.adapters.prompt import build_messages
from resources.generator import render
from resources.trained_model import (
    copy_companions,
    describe_base,
    load_trained,
    load_weights,
    read_adapter_contract,
)

MergedDtype = Literal["float32", "bfloat16", "float16"]
# How far a logit may move, as a share of the largest one: float32 rounds sums only; bfloat16 keeps 8 bits of a weight
# (measured on SmolLM2 with rank-8 adapters: 4e-6, and 1.4e-2 to 3.1e-2)
_TOLERANCE: dict[MergedDtype, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# A small adapter drowns in the rounding of the weights it is added to: what rounding moves, beside what it changes
_MOST_NOISE = 0.5
_PROBES = (
    ("How long is the key?", ["The cipher has a key of 128 bits and a block of 64 bits.", "It was published in 1998."]),
    ("密钥有多长？", ["该算法的分组为 128 比特，密钥为 256 比特。"]),
    ("Name a hash function.", []),
)


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """How near the merged model is to base and adapter: over every position of a few prompts, in float32 arithmetic."""

    dtype: MergedDtype
    positions: int
    largest_logit: float
    max_abs_difference_merged: float
    """After the merge in float32."""
    max_abs_difference_saved: float
    """After the weights were rounded to `dtype`, saved, and read again."""
    tolerance: float
    """What the second may be at most."""
    adapter_effect: float
    """What the training changed in the base's logits (root mean square)."""
    saved_noise: float
    """What merging, rounding and saving changed (root mean square)."""
    same_first_choice: float
    """Share of positions at which the saved model's most likely token is the same."""


def merge_adapter(adapter: Path, base: Path, target: Path, dtype: MergedDtype | None = None) -> Merged:
    """Merge what was trained (an artifact's folder) into the model in `base` and save it in `target`.

    The merge is done in float32 on the CPU, whatever the adapter was trained on: merging into a 4-bit base costs seven
    times the error of the 4-bit model itself. `dtype`: of the saved weights (default: the base's own). Tokenizer, chat
    template and generation settings are the base's files, byte for byte. Memory: 4 bytes a parameter.
    Raises Refused: FT-ADP-001 another base, FT-ADP-010 logits moved, FT-ADP-011 the base is quantised.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    contract = read_adapter_contract(adapter)
    broken = compare_base(contract, describe_base(base, tokenizer)).violations(f"{adapter.name} on {base}")
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        broken.append(
            Violation(
                code="FT-ADP-011", where=str(base), message="an adapter is merged only into a full-precision base.",
                field="quantization_config", found=str(config.quantization_config), expected=None,
                fix="name the unquantised model as base_model",
            )
        )  # fmt: skip
    if broken:
        raise Refused("merging", broken)
    saved_as = dtype or cast("MergedDtype", str(config.dtype or torch.float32).removeprefix("torch."))

    prompts = _probe_prompts(tokenizer, contract.prompt)
    # one model in memory at a time
    plain = _logits(load_weights(base, dtype=torch.float32), prompts)
    model = load_trained(base, adapter, dtype=torch.float32)
    before = _logits(model, prompts)
    if contract.method == "lora":
        model = model.merge_and_unload(safe_merge=True)
    merged = _logits(model, prompts)
    model.to(getattr(torch, saved_as)).save_pretrained(target)
    del model
    copy_companions(base, target)
    saved = _logits(load_weights(target, dtype=torch.float32), prompts)

    largest = float(before.abs().max())
    found = Merged(
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
    broken = check_merged(found, str(target))
    if broken:
        raise Refused("merging", broken)
    return found


def check_merged(found: Merged, where: str) -> list[Violation]:
    """Whether the merged model says what base and adapter said."""
    limits = {
        "max_abs_difference_merged": _TOLERANCE["float32"] * found.largest_logit,
        "max_abs_difference_saved": found.tolerance,
        "saved_noise": _MOST_NOISE * found.adapter_effect,
    }
    return [
        Violation(
            code="FT-ADP-010", where=where, message="the merged model is not what base and adapter were together.",
            field=name, found=getattr(found, name), expected=f"at most {limit:g}",
            fix="save it with --dtype float32, or serve base and adapter",
        )
        for name, limit in limits.items() if not getattr(found, name) <= limit
    ]  # fmt: skip


def _probe_prompts(tokenizer: Any, prompt: RagPrompt) -> list[list[int]]:
    return [render(tokenizer, build_messages(prompt, question, passages)) for question, passages in _PROBES]


def _root_mean_square(values: Any) -> float:
    return float(values.square().mean().sqrt())


def _logits(model: Any, prompts: list[list[int]]) -> Any:
    """The logits [N, V] of all N positions of the prompts."""
    import torch

    with torch.inference_mode():
        return torch.cat([model.eval()(torch.tensor([ids])).logits[0] for ids in prompts])
