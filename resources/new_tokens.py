"""A base model with more tokens: the tokenizer and the embedding are extended, and everything else stays as it is."""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expectations.violations import Refused, violation
from resources.trained_model import load_weights

_LOADED = ("model.safetensors*", "*.safetensors", "config.json")


class Extended(NamedTuple):
    """The result of `add_tokens`: token -> its id, and the rows of the embedding before and after."""

    ids: dict[str, int]
    rows_before: int
    rows: int


def add_tokens(base: Path, tokens: Sequence[str], target: Path) -> Extended:
    """Write the model in `base` with these tokens to `target`, which appears whole or not at all.

    A new row of the embedding, and of an output head of its own, is the mean of the rows of the tokens that the text
    was read as before: the same in every run. Raises Refused (FT-MODEL-004) where a text is a token already, or empty.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    known = tokenizer.get_vocab()
    if refused := [token for token in tokens if token in known or not token.strip()]:
        unusable = violation("FT-MODEL-004", where=str(base), field="token", found=refused, expected="new tokens")
        raise Refused("adding tokens", [unusable])
    parts = [tokenizer(token, add_special_tokens=False)["input_ids"] for token in tokens]
    tokenizer.add_tokens(list(tokens))
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    dtype = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32
    model: Any = load_weights(base, dtype=dtype)
    rows_before = model.get_input_embeddings().num_embeddings
    # many models have more rows than tokens; the new ones then use what is there
    model.resize_token_embeddings(max(rows_before, len(tokenizer)), mean_resizing=False)
    head = model.get_output_embeddings()
    modules = [module for module in (model.get_input_embeddings(), head) if module is not None]
    matrices = {id(module.weight): module.weight for module in modules}
    with torch.no_grad():
        for weight in matrices.values():
            for token, pieces in zip(ids, parts, strict=True):
                weight[token] = weight[pieces].float().mean(0).to(weight.dtype)
            bias = getattr(head, "bias", None)
            if bias is not None and weight is head.weight:
                bias[rows_before:] = bias[:rows_before].mean()
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # licences, generation settings and what else belongs to the model
        shutil.copytree(base, staging, ignore=shutil.ignore_patterns(*_LOADED))
        generation = staging / "generation_config.json"
        kept = generation.read_bytes() if generation.is_file() else None
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        if kept is not None:
            generation.write_bytes(kept)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Extended(dict(zip(tokens, ids, strict=True)), rows_before, model.get_input_embeddings().num_embeddings)
