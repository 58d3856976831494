"""The model to train: a new adapter or the SFT adapter on the frozen base, or a whole model."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.config.model import DpoSettings, LoraSettings, SftSettings
from resources import accelerator, torchrun
from resources.artifacts import Artifact
from resources.estimate import EAGER_TOKENS
from resources.trained_model import WHOLE_MODEL_FOLDER, load_trained

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_model(
    folder: Path,
    settings: SftSettings | DpoSettings,
    compute: accelerator.Compute,
    start: Artifact | Path | None,
    *,
    longest: int,
) -> PreTrainedModel | PeftModel:
    """Return the model to train: the base in `folder` with a new adapter on it, or the model to continue from (`start`:
    the SFT model, or the folder of an adapter).

    Adapters are trained on a frozen base in the compute dtype. `full` trains every weight in fp32, after merging the
    adapter to continue from if there is one. `longest`: the tokens of the longest row.
    Raises Refused: FT-TRAIN-008 qlora without bitsandbytes, FT-TRAIN-054 an adapter on a whole model, FT-TRAIN-065
    targets that match no layer.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(settings.seed)  # a new adapter starts from random numbers
    trained = start.folder() if isinstance(start, Artifact) else start
    attention: dict[str, Any] = {"attn_implementation": choose_attention(settings, compute, longest)}
    if settings.method == "full":
        model = load_trained(folder, trained, dtype=torch.float32, **attention)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload(safe_merge=True)
        return model.requires_grad_(True)
    if trained is not None and (trained / WHOLE_MODEL_FOLDER).is_dir():
        refuse(violation("FT-TRAIN-054", where=SUBJECT, field="dpo.method", found=settings.method, expected="full"))
    options = _quantised(compute) if settings.method == "qlora" else _whole(compute)
    model = load_trained(folder, trained, trainable=True, **attention, **options)
    keep_gradients_on_cpu(model)
    if trained is not None:
        return model
    lora = settings.lora or LoraSettings()
    _refuse_unmatched(model, lora.targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _refuse_unmatched(model: PreTrainedModel | PeftModel, targets: str | list[str]) -> None:
    """Refuse (FT-TRAIN-065) names of targets that match no layer, as PEFT matches them."""
    from torch import nn

    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    unmatched = (
        [target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)]
        if isinstance(targets, list)
        else [targets] * (not any(re.fullmatch(targets, name) for name in names))
    )
    if unmatched:
        linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        refuse(
            violation(
                "FT-TRAIN-065",
                where=SUBJECT,
                field="lora.targets",
                found=unmatched,
                expected=f"among {', '.join(sorted(linear))}",
            )
        )


def choose_attention(settings: SftSettings | DpoSettings, compute: accelerator.Compute, longest: int) -> str:
    """Return `eager` where it is faster, else `sdpa`; also `sdpa` for packed rows, which it keeps apart exactly.

    On short rows eager is faster than the fused CPU kernel (1.95 s against 2.4 s for a step of 8 x 183 tokens). Its
    memory grows with the square of the length.
    """
    packing = isinstance(settings, SftSettings) and settings.packing
    return "eager" if compute.device == "cpu" and longest <= EAGER_TOKENS and not packing else "sdpa"


def keep_gradients_on_cpu(model: Any) -> None:
    """Keep the CPU kernel of bitsandbytes that has a backward pass.

    bitsandbytes 0.50 on AVX512-BF16 CPUs: the first evaluation repacks 4-bit weights for a kernel without one, and all
    later gradients are silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _whole(compute: accelerator.Compute) -> dict[str, Any]:
    import torch

    # the base is frozen: bf16 loses no more than autocast does, and saves a cast of all weights in every step
    return {"dtype": torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32}


def _quantised(compute: accelerator.Compute) -> dict[str, Any]:
    """Return options of `from_pretrained` that load linear layers as nf4 and the rest (embeddings, norms) in 16 bit."""
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        refuse(violation("FT-TRAIN-008", where=SUBJECT, field="method", found="qlora", expected="lora"))
    from transformers import BitsAndBytesConfig

    dtype = torch.float16 if compute.dtype == "float16" else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    # without it, transformers takes the first GPU that is there, whatever the settings say, or spreads over several
    place = torchrun.local_rank() if compute.device == "cuda" else "cpu"
    return {"quantization_config": config, "dtype": dtype, "device_map": {"": place}}
