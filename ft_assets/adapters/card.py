"""The model card that travels with an adapter. Holds nothing that differs between two equal runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.adapter import AdapterContract
from ft_assets.settings.model import TrainSettings
from resources.artifacts import Recipe

_SHOWN = (
    "steps", "rows", "validation_rows", "supervised_tokens", "trainable_parameters", "train_loss_first",
    "train_loss_last", "eval_loss_before", "eval_loss_after", "reward_accuracy_after", "reward_margin_after",
)  # fmt: skip


def write_card(
    path: Path, recipe: Recipe, contract: AdapterContract, summary: Mapping[str, Any], settings: TrainSettings
) -> None:
    """Write the card: what it is, on what, from which data, with which figures, under which licence."""
    header = {"base_model": settings.base_model, "library_name": "peft", "license": "other", "tags": ["lora"]}
    figures = "\n".join(f"| {name} | {_plain(summary[name])} |" for name in _SHOWN if name in summary)
    inputs = "\n".join(f"| {name} | `{version}` |" for name, version in sorted(recipe.inputs.items()))
    path.write_text(
        f"""---
{chr(10).join(f"{name}: {json.dumps(value)}" for name, value in header.items())}
---

# {recipe.asset} `{recipe.id}`

A LoRA adapter for `{settings.base_model}` (revision `{settings.revision or "as found"}`). Load it only on the base that
contract.json names: weights `{contract.base.weights_sha256[:16]}`, tokenizer `{contract.base.tokenizer_sha256[:16]}`.

## Licence

The adapter is derived from the base model and from the data below; the licences of both apply. Fill in `license`
above before passing it on.

## Data

| input | version |
|---|---|
{inputs}

## Figures

| figure | value |
|---|---|
{figures}

## Recipe

```json
{json.dumps(msgspec.to_builtins(recipe), ensure_ascii=False, indent=2, sort_keys=True)}
```
""",
        encoding="utf-8",
    )


def _plain(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
