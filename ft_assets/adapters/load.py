"""The base model in the dtype of the hardware, with a trainable adapter on it."""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ft_assets.adapters.refusals import refuse
from ft_assets.settings.model import DpoSettings, SftSettings
from resources import accelerator
from resources.artifacts import Artifact
from resources.generator import ADAPTER_FOLDER

# Up to this length eager attention beats the fused CPU kernel (1.95 s against 2.4 s a step of 8 x 183 tokens)
_EAGER_TOKENS = 1024


def load_model(
    folder: Path, settings: SftSettings | DpoSettings, compute: accelerator.Compute, sft: Artifact | None
) -> Any:
    """The base in the compute dtype with a trainable adapter on it: a new one, or the SFT adapter to go on from."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    quantised: dict[str, Any] = {}
    if settings.method == "qlora":
        if importlib.util.find_spec("bitsandbytes") is None:
            refuse("FT-TRAIN-008", "qlora needs bitsandbytes, which is not installed.", field="method",
                    found="qlora", expected="lora", mend="pip install bitsandbytes, or set method: lora")  # fmt: skip
        from transformers import BitsAndBytesConfig

        quantised["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    eager = compute.device == "cpu" and settings.max_length <= _EAGER_TOKENS
    set_seed(settings.seed)  # a new adapter starts from random numbers
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        # the base is frozen: bf16 loses nothing that autocast would not, and spares a cast of all weights every step
        dtype=torch.bfloat16 if compute.dtype == "bfloat16" else torch.float32,
        attn_implementation="eager" if eager else "sdpa",
        trust_remote_code=False,
        use_safetensors=True,
        **quantised,
    )
    if quantised:
        # bitsandbytes 0.50 on AVX512-BF16 CPUs: the first evaluation repacks the weights for a kernel without a
        # backward pass, and gradients are silently wrong from there on
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    if sft is not None:
        return PeftModel.from_pretrained(model, sft.folder(ADAPTER_FOLDER), is_trainable=True)
    lora = settings.lora
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
