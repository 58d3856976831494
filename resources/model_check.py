"""Faults of a model folder that loading would hide: tensors that are missing, do not fit or are not finite."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from expectations.violations import Refused, Violation, violation
from resources import models

_SHOWN = 20
_FIRST_POSITION_AFTER_PAD = {"roberta", "xlm-roberta", "camembert", "mpnet"}
"""Models whose first token has the position after the number of the padding token: 514 positions hold 512 tokens."""
_NUMBER = re.compile(r"\.\d+(?=\.)")


class ModelLimits(NamedTuple):
    """Limits of a row: its tokens in all (None: not limited), and its token ids, which are below `vocabulary`."""

    positions: int | None
    vocabulary: int


def check_model(folder: Path, *, values: bool = True, classifier: bool = False) -> list[Violation]:
    """Return the faults of the weights in a folder, each with the name of its tensor.

    It is a language model, or, with `classifier`, an encoder with a head for classes or scores.

    FT-TRAIN-067: the folder lacks a tensor of the model; transformers would fill it with random numbers.
    FT-TRAIN-068: the folder has a tensor of a part of the model that would not be read.
    FT-TRAIN-069: a tensor has another shape than config.json says.
    FT-TRAIN-066 (with `values`, which reads all of them): a tensor holds NaN or infinity.
    """
    from safetensors import SafetensorError

    try:
        named = () if is_quantised(folder) else _names_and_shapes(folder, classifier)
        return [*named, *(_not_finite(folder) if values else ())][:_SHOWN]
    except SafetensorError as error:  # a file that was cut
        reason = f"The weights cannot be read: {error}"
        return [violation("FT-TRAIN-067", where=str(folder), message=reason)]


def is_quantised(folder: Path) -> bool:
    """Return whether the weights are quantised already: their names and shapes are then those of the quantiser."""
    return "quantization_config" in json.loads((folder / "config.json").read_text("utf-8"))


def _names_and_shapes(folder: Path, classifier: bool) -> list[Violation]:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    models.silence_progress_bars()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would log a report of what the violations say
    try:
        # "meta" compares names and shapes as a real load does, and reads no values
        kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        loaded: Any = kind.from_pretrained(
            folder,
            device_map="meta",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    finally:
        logging.set_verbosity(verbosity)
    return _report_faults(folder, *loaded)


def require_all_read(folder: Path, model: Any, report: dict[str, Any], *, unused: str = "") -> Any:
    """Return a model that was just loaded. Raises Refused (FT-TRAIN-067 … 069) where its tensors are not the folder's.

    `report`: the loading report of transformers. `unused`: beginning of the names of tensors that nothing reads, in the
    model without a head ("bert.pooler." is "pooler.").
    """
    if not is_quantised(folder):
        whole = f"{getattr(model, 'base_model_prefix', '')}."
        faults = [
            fault
            for fault in _report_faults(folder, model, report)
            if not unused or not fault.field.removeprefix(whole).startswith(unused)
        ]
        if faults:
            raise Refused(f"loading {folder}", faults[:_SHOWN])
    return model


def _report_faults(folder: Path, model: Any, report: dict[str, Any]) -> list[Violation]:
    own = {name for name, _ in model.named_modules()}
    return [
        *(_fault("FT-TRAIN-067", folder, name, None, "a tensor") for name in sorted(report["missing_keys"])),
        *(_fault("FT-TRAIN-068", folder, name, "a tensor", None) for name in _unread(report["unexpected_keys"], own)),
        *(
            _fault("FT-TRAIN-069", folder, name, list(found), list(expected))
            for name, found, expected in sorted(report["mismatched_keys"])
        ),
    ]


def limits_of(folder: Path) -> ModelLimits:
    """Return the limits of the model in a folder, from its configuration."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    scaling: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if positions and scaling.get("factor") and scaling.get("original_max_position_embeddings"):
        positions = max(positions, int(scaling["factor"] * scaling["original_max_position_embeddings"]))
    if positions and config.model_type in _FIRST_POSITION_AFTER_PAD:
        positions -= config.pad_token_id + 1
    return ModelLimits(positions, config.vocab_size)


def _unread(names: Collection[str], modules: Collection[str]) -> list[str]:
    """Return the tensors that belong to a part that the model has: without them it would compute something else.

    Others (a value head, saved rotary frequencies) belong to nothing that is trained here.
    """
    parts = {_NUMBER.sub(".N", f"{module}.") for module in modules if module}
    return sorted(name for name in names if _NUMBER.sub(".N", f"{name.rpartition('.')[0]}.") in parts)


def _not_finite(folder: Path) -> Iterator[Violation]:
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 -- it is no mapping
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    count = int((~torch.isfinite(tensor)).sum())
                    yield _fault("FT-TRAIN-066", folder, name, f"{count} of {tensor.numel()}", 0)


def _fault(code: str, folder: Path, name: str, found: object, expected: object) -> Violation:
    return violation(code, where=str(folder), field=name, found=found, expected=expected)
