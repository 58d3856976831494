"""The result of a training and its loading: an adapter for its base model, or a whole model.

    <artifact>/contract.json    what it belongs to; its `method` decides which of these two is there
    <artifact>/adapter/         lora: PEFT's layout
    <artifact>/model/           full: safetensors, configuration, tokenizer, chat template, generation settings

Whoever loads compares the contract first (`compare_base`), so that nothing is loaded on another base.
"""

# torch, transformers and peft are untyped here
# pyright: basic
from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from expectations.canonical import digest, file_digest, text_digest
from expectations.contracts.adapter import AdapterContract, BaseModelIdentity, LoraShape
from expectations.contracts.fingerprint import configuration, tokenizer_files
from expectations.violations import Refused, violation
from resources import models
from resources.model_check import require_all_read

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER_FOLDER = "adapter"
WHOLE_MODEL_FOLDER = "model"
ADAPTER_NAME = "default"  # what PEFT calls the adapter that is trained
CONTRACT_FILE = "contract.json"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_GENERATION = "generation_config.json"


class GivenAdapter(NamedTuple):
    """An adapter that was trained elsewhere, in PEFT's layout."""

    folder: Path
    version: str
    """Hash of its weights and configuration."""
    contract: AdapterContract | None
    """Its base, prompt and shape, if `ft export` wrote it."""
    shape: LoraShape


def given_adapter(name: str) -> GivenAdapter:
    """Return the adapter in a folder, or in the folder `adapter` below it. Raises Refused (FT-TRAIN-070)."""
    named = Path(name).expanduser().resolve()
    folder = next((place for place in (named, named / ADAPTER_FOLDER) if (place / _CONFIG).is_file()), None)
    if folder is None or not (folder / _WEIGHTS).is_file():
        lacking = f"{_CONFIG} and {_WEIGHTS}"
        missing = violation("FT-TRAIN-070", where=str(named), field="dpo.start", found=name, expected=lacking)
        raise Refused("loading the adapter that DPO continues", [missing])
    config = json.loads((folder / _CONFIG).read_text("utf-8"))
    place = next((place for place in (folder, named) if (place / CONTRACT_FILE).is_file()), None)
    return GivenAdapter(
        folder=folder,
        version=digest({name: file_digest(folder / name) for name in (_CONFIG, _WEIGHTS)})[:16],
        contract=read_adapter_contract(place) if place else None,
        shape=shape_of(config),
    )


def shape_of(config: Mapping[str, Any]) -> LoraShape:
    """Return the shape of an adapter from PEFT's configuration of it."""
    targets = config.get("target_modules") or []
    tokens = config.get("trainable_token_indices") or []  # PEFT: of the embedding, or of each module that is named
    lists = tokens.values() if isinstance(tokens, dict) else [tokens]
    return LoraShape(
        r=config["r"],
        alpha=config["lora_alpha"],
        targets=[targets] if isinstance(targets, str) else list(targets),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        modules_to_save=sorted(config.get("modules_to_save") or []),
        train_tokens=sorted(set().union(*lists)),
    )


def read_adapter_contract(folder: Path) -> AdapterContract:
    """Return the contract in an artifact's folder."""
    return msgspec.json.decode((folder / CONTRACT_FILE).read_bytes(), type=AdapterContract)


def weights_folder(contract: AdapterContract) -> str:
    """Return the folder of an artifact that has the trained weights."""
    return WHOLE_MODEL_FOLDER if contract.method == "full" else ADAPTER_FOLDER


def load_weights(folder: Path, **options: Any) -> PreTrainedModel:
    """Return the causal language model in a folder; `options` as `from_pretrained` takes them.

    Raises Refused (FT-TRAIN-067, -068) where the folder lacks a tensor, which would be filled at random, or has one of
    the model that would not be read.
    """
    from transformers import AutoModelForCausalLM

    models.silence_progress_bars()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
    )
    return require_all_read(folder, *loaded)


def put_adapter(model: PreTrainedModel | PeftModel, trained: Path, name: str = ADAPTER_NAME, **options: Any) -> Any:
    """Return the model with one more adapter, read from an artifact's folder or from its own; `options` are PEFT's."""
    from peft import PeftModel

    folder = trained if (trained / _CONFIG).is_file() else trained / ADAPTER_FOLDER
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, folder, adapter_name=name, **options)
    model.load_adapter(folder, adapter_name=name, **options)
    return model


def load_trained(
    base: Path, trained: Path | None, *, trainable: bool = False, **options: Any
) -> PreTrainedModel | PeftModel:
    """Return the trained model of an artifact's folder (`trained`; None: the base itself): the base in `base` with the
    adapter (`trainable`: to train it further), or the whole model. The contract is not compared here.
    """
    if trained is None:
        return load_weights(base, **options)
    if (trained / WHOLE_MODEL_FOLDER).is_dir():
        return load_weights(trained / WHOLE_MODEL_FOLDER, **options)
    return put_adapter(load_weights(base, **options), trained, is_trainable=trainable)


def copy_companions(base: Path, target: Path) -> None:
    """Give the model saved in `target` the base's tokenizer, chat template and generation settings, byte for byte."""
    (target / _GENERATION).unlink(missing_ok=True)  # transformers writes one of its own
    for path in [*tokenizer_files(base), *base.glob(_GENERATION)]:
        shutil.copy2(path, target / path.name)


def describe_base(folder: Path, tokenizer: Any, name: str = "", revision: str | None = None) -> BaseModelIdentity:
    """Return the base model's identity for a contract: content hashes, chat template, the tokens that end an answer."""
    from transformers import GenerationConfig

    stops = {tokenizer.eos_token_id}
    if (folder / _GENERATION).is_file():
        configured = GenerationConfig.from_pretrained(folder).eos_token_id
        stops |= set(configured if isinstance(configured, list) else [configured])
    prints = models.model_fingerprint(folder)
    return BaseModelIdentity(
        name=name,
        revision=revision,
        weights_sha256=prints["weights"],
        tokenizer_sha256=prints["tokenizer"],
        chat_template_sha256=text_digest(tokenizer.chat_template or ""),
        stop_token_ids=sorted(token for token in stops if token is not None),
        config=configuration(folder),
    )
