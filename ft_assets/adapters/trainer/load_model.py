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
from ft_assets.adapters.trainer.sharding import accept_shards, is_sharded, shard_options
from ft_assets.config.model import AdapterSettings, DpoSettings, SftSettings
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
    targets that match no layer, FT-TRAIN-074 … 076 tokens and modules that cannot be trained with an adapter,
    FT-TRAIN-078 an adapter on the output head, FT-TRAIN-080 a model that cannot be split into shards.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(settings.seed)  # a new adapter starts from random numbers
    trained = start.folder() if isinstance(start, Artifact) else start
    attention: dict[str, Any] = {"attn_implementation": choose_attention(settings, compute, longest)}
    if is_sharded(settings):
        attention |= shard_options()
    if settings.method == "full":
        model = load_trained(folder, trained, dtype=torch.float32, **attention)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload(safe_merge=True)
        if is_sharded(settings):
            accept_shards(model)
        return model.requires_grad_(True)
    if trained is not None and (trained / WHOLE_MODEL_FOLDER).is_dir():
        refuse(violation("FT-TRAIN-054", where=SUBJECT, field="dpo.method", found=settings.method, expected="full"))
    options = _quantised(compute) if settings.method == "qlora" else _whole(compute)
    model = load_trained(folder, trained, trainable=True, **attention, **options)
    if is_sharded(settings):
        accept_shards(model.get_base_model() if isinstance(model, PeftModel) else model)
    keep_gradients_on_cpu(model)
    if trained is not None:
        return _prepare(model)
    lora = settings.lora or AdapterSettings()
    _refuse_unmatched(model, "lora.targets", lora.targets)
    _refuse_unmatched(model, "lora.modules_to_save", lora.modules_to_save)
    _refuse_shared(model, lora.modules_to_save)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        modules_to_save=lora.modules_to_save or None,
        trainable_token_indices=_token_rows(model, folder, lora),
        task_type="CAUSAL_LM",
    )
    return _prepare(get_peft_model(model, config))


def _prepare(model: Any) -> Any:
    """Cast what is trained next to the adapter's matrices, as PEFT casts these: in bfloat16 small steps are lost.

    Also give a head of which rows are trained the `bias` that TRL reads and PEFT 0.21 does not pass on. PEFT would drop
    any other than None. Raises Refused: FT-TRAIN-076, FT-TRAIN-078 (TRL multiplies by the head's own weight)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import TrainableTokensWrapper

    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer):
        name = next(name for name, module in model.named_modules() if module is head).rpartition(".")[2]
        refuse(
            violation(
                "FT-TRAIN-078", where=SUBJECT, field="lora.targets", found=name, expected="layers below the output head"
            )
        )
    if isinstance(head, TrainableTokensWrapper):
        if head.original_module.bias is not None:
            _refuse_rows(["the bias of the output head"])
        head.register_parameter("bias", None)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (".modules_to_save." in name or "trainable_tokens_delta" in name):
            parameter.data = parameter.data.float()
    return model


def _ends(model: Any) -> dict[str, Any]:
    """Return the embedding and the output head, by their names in the model."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name: module for name, module in model.named_modules() if module in ends}


def _are_one(ends: dict[str, Any]) -> bool:
    """Return True if the output head is the embedding."""
    return len({id(module.weight) for module in ends.values()}) < len(ends)


def _token_rows(model: Any, folder: Path, lora: AdapterSettings) -> list[int] | dict[str, list[int]] | None:
    """Return the rows to train, as PEFT takes them: a list is of the head only where that is the embedding.

    Raises Refused: FT-TRAIN-074 no token, FT-TRAIN-076 all rows are trained anyway."""
    if not (ids := _token_ids(folder, lora.train_tokens)):
        return None
    ends = _ends(model)
    others = (lora.modules_to_save, lora.targets)
    if taken := [name for name in ends if any(_matches(name, targets) for targets in others)]:
        _refuse_rows(taken)
    return ids if _are_one(ends) else dict.fromkeys(ends, ids)


def _refuse_rows(found: list[str]) -> None:
    expected = "an embedding and an output head without a bias that no other key of lora trains"
    refuse(violation("FT-TRAIN-076", where=SUBJECT, field="lora.train_tokens", found=found, expected=expected))


def _matches(name: str, targets: str | list[str]) -> bool:
    """Return True if PEFT takes the module of this name for one of the targets."""
    if isinstance(targets, str):
        return targets != "all-linear" and re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _token_ids(folder: Path, tokens: list[str]) -> list[int]:
    """Return the ids of these tokens. Raises Refused (FT-TRAIN-074) where one is no token of the model."""
    from transformers import AutoTokenizer

    if not tokens:
        return []
    vocabulary = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    if unknown := [token for token in tokens if token not in vocabulary]:
        refuse(
            violation(
                "FT-TRAIN-074",
                where=str(folder),
                field="lora.train_tokens",
                found=unknown,
                expected="tokens of the model",
            )
        )
    return sorted(vocabulary[token] for token in tokens)


def _refuse_shared(model: Any, modules: list[str]) -> None:
    """Refuse (FT-TRAIN-075) to save an embedding that is the output head too: PEFT 0.21 keeps the two equal for the
    first adapter on a base only, so that DPO's reference and an evaluation of two adapters would be wrong."""
    ends = _ends(model)
    shared = {name.rpartition(".")[2] for name in ends}
    named = [name for name in modules if name.rpartition(".")[2] in shared]
    if named and _are_one(ends):
        refuse(
            violation(
                "FT-TRAIN-075",
                where=SUBJECT,
                field="lora.modules_to_save",
                found=named,
                expected="modules of their own",
            )
        )


def _refuse_unmatched(model: PreTrainedModel | PeftModel, field: str, targets: str | list[str]) -> None:
    """Refuse (FT-TRAIN-065) names that match no layer, as PEFT matches them."""
    from torch import nn

    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    unmatched = (
        [target for target in targets if not any(_matches(name, [target]) for name in names)]
        if isinstance(targets, list)
        else [targets] * (not any(_matches(name, targets) for name in names))
    )
    if unmatched:
        kinds = nn.Linear if field == "lora.targets" else (nn.Linear, nn.Embedding)
        usable = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, kinds)}
        refuse(
            violation(
                "FT-TRAIN-065",
                where=SUBJECT,
                field=field,
                found=unmatched,
                expected=f"among {', '.join(sorted(usable))}",
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
