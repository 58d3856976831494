"""What a training trains: a new or the SFT adapter on the frozen base, or every weight of the model."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ft_assets.adapters.refusals import refuse
from ft_assets.config.model import DpoSettings, SftSettings
from resources import accelerator, torchrun
from resources.artifacts import Artifact
from resources.estimate import EAGER_TOKENS
from resources.trained_model import load_trained, read_adapter_contract


def load_model(
    folder: Path,
    settings: SftSettings | DpoSettings,
    compute: accelerator.Compute,
    sft: Artifact | None,
    *,
    longest: int,
) -> Any:
    """The model to train: the base in `folder` with a new adapter on it, or what SFT left, to go on from. Adapters are
    trained on a frozen base in the compute dtype; `full` trains every weight in fp32, an SFT adapter merged into them.
    `longest`: the tokens of the longest row.
    Raises Refused: FT-TRAIN-008 qlora without bitsandbytes, FT-TRAIN-054 an adapter on a whole model."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(settings.seed)  # a new adapter starts from random numbers
    trained = sft.folder() if sft is not None else None
    attention: dict[str, Any] = {"attn_implementation": choose_attention(settings, compute, longest)}
    if settings.method == "full":
        model = load_trained(folder, trained, dtype=torch.float32, **attention)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload(safe_merge=True)
        return model.requires_grad_(True)
    if trained is not None and read_adapter_contract(trained).method == "full":
        refuse("FT-TRAIN-054", "SFT left a whole model, and an adapter goes on a base only.", field="dpo.method",
                found=settings.method, expected="full",
                fix="set dpo.method: full, or train SFT with method: lora")  # fmt: skip
    options = _quantised(compute) if settings.method == "qlora" else _whole(compute)
    model = load_trained(folder, trained, trainable=True, **attention, **options)
    keep_gradients_on_cpu(model)
    if not isinstance(settings, SftSettings):
        return model
    lora = settings.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip


def choose_attention(settings: SftSettings | DpoSettings, compute: accelerator.Compute, longest: int) -> str:
    """`eager` where it is quicker; `sdpa` otherwise, and where rows are packed (it keeps them apart exactly).

    On short rows eager beats the fused CPU kernel (1.95 s against 2.4 s a step of 8 x 183 tokens); its memory grows
    with the square of the length.
    """
    packing = isinstance(settings, SftSettings) and settings.packing
    return "eager" if compute.device == "cpu" and longest <= EAGER_TOKENS and not packing else "sdpa"


def keep_gradients_on_cpu(model: Any) -> None:
    """bitsandbytes 0.50 on AVX512-BF16 CPUs: the first evaluation repacks 4-bit weights for a kernel without a backward
    pass, and gradients are silently wrong from there on. This keeps the kernel that has one."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _whole(compute: accelerator.Compute) -> dict[str, Any]:
    import torch

    # the base is frozen: bf16 loses nothing that autocast would not, and spares a cast of all weights every step
    return {"dtype": torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32}


def _quantised(compute: accelerator.Compute) -> dict[str, Any]:
    """What makes `from_pretrained` load linear layers as nf4, and all else (embeddings, norms) in 16 bit."""
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        refuse("FT-TRAIN-008", "qlora needs bitsandbytes, which is not installed.", field="method",
                found="qlora", expected="lora", fix="pip install 'ft-assets[qlora]', or set method: lora")  # fmt: skip
    from transformers import BitsAndBytesConfig

    dtype = torch.float16 if compute.dtype == "float16" else torch.bfloat16
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    # bitsandbytes places the model itself: on this process's own GPU, never spread over several
    placed = {"device_map": {"": torchrun.local_rank()}} if compute.device == "cuda" else {}
    return {"quantization_config": config, "dtype": dtype, **placed}
