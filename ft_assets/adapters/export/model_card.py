"""The model card of an adapter or a merged model. Equal runs get equal cards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from expectations.contracts.adapter import AdapterContract
from expectations.markdown import markdown_table
from expectations.yaml_text import load_yaml
from ft_assets.adapters.jobs import AnswerSummary
from ft_assets.adapters.score_answers import show_scores
from resources.artifacts import Recipe

_LICENCE_FIELDS = ("license", "license_name", "license_link")


class CardFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a training that a card shows, in this order. A figure that is not known is left out."""

    steps: int | UnsetType = UNSET
    rows: int | UnsetType = UNSET
    validation_rows: int | UnsetType = UNSET
    supervised_tokens: int | UnsetType = UNSET
    trainable_parameters: int | UnsetType = UNSET
    train_loss_first: float | UnsetType = UNSET
    train_loss_last: float | UnsetType = UNSET
    eval_loss_before: float | UnsetType = UNSET
    eval_loss_after: float | UnsetType = UNSET
    reward_accuracy_after: float | UnsetType = UNSET
    reward_margin_after: float | UnsetType = UNSET
    answered_questions: int | UnsetType = UNSET
    exact_match_after: float | UnsetType = UNSET
    f1_after: float | UnsetType = UNSET
    best_step: int | UnsetType = UNSET
    best_by: str | UnsetType = UNSET


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a card. `evaluation`, `libraries` and `merged` are known only after the training (`ft export`)."""

    recipe: Recipe
    contract: AdapterContract
    figures: CardFigures
    base_folder: Path
    evaluation: AnswerSummary | None = None
    libraries: Mapping[str, str] = {}
    merged: Mapping[str, object] | None = None


def write_card(path: Path, card: ModelCard) -> None:
    """Write the card: model and base, licence, data, figures, and what else is known."""
    base, recipe = card.contract.base, card.recipe
    is_adapter = card.contract.method == "lora" and card.merged is None
    library, tags = ("peft", ["lora"]) if is_adapter else ("transformers", [])
    header = {"base_model": base.name, "library_name": library, "license": "other", "tags": tags}
    figures = msgspec.to_builtins(card.figures)
    parts = [
        "---\n" + "\n".join(f"{name}: {json.dumps(value)}" for name, value in header.items()) + "\n---",
        f"# {recipe.asset} `{recipe.id}`",
        _describe(card),
        f"## Licence\n\n{_licence(card)}",
        f"## Data\n\n{_table('input', 'version', dict(sorted(recipe.inputs.items())))}",
        f"## Figures\n\n{_table('figure', 'value', figures)}",
    ]
    if card.evaluation is not None:
        method = f"{card.evaluation.questions} held-out questions, answered greedily; 95 % intervals."
        parts.append(f"## Evaluation\n\n{method}\n\n{show_scores(card.evaluation)}")
    if card.merged is not None:
        parts.append(f"## Merge\n\nCompared with base and adapter:\n\n{_table('figure', 'value', card.merged)}")
    if card.libraries:
        parts.append(f"## Libraries\n\n{_table('library', 'version', card.libraries)}")
    text = json.dumps(msgspec.to_builtins(recipe), ensure_ascii=False, indent=2, sort_keys=True)
    parts.append(f"## Recipe\n\n```json\n{text}\n```")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def base_licence(folder: Path) -> dict[str, str]:
    """Return the licence fields of the base model's own card, else of its config; {} if neither states one."""
    from ruamel.yaml import YAMLError

    card, config = folder / "README.md", folder / "config.json"
    text = card.read_text("utf-8") if card.is_file() else ""
    header: object = None
    with contextlib.suppress(YAMLError):  # a broken card states no licence; it must not stop a training
        header = load_yaml(text[4:].partition("\n---")[0]) if text.startswith("---\n") else None
    sources: list[object] = [header, json.loads(config.read_text("utf-8")) if config.is_file() else None]
    licensed: list[object] = [source for source in sources if isinstance(source, dict) and "license" in source]
    stated = cast("dict[str, object]", licensed[0] if licensed else {})
    return {name: str(stated[name]) for name in _LICENCE_FIELDS if stated.get(name)}


def _describe(card: ModelCard) -> str:
    base, prompt = card.contract.base, card.contract.prompt
    name = f"`{base.name}` (revision `{base.revision or 'as found'}`)"
    hashes = f"weights `{base.weights_sha256[:16]}`, tokenizer `{base.tokenizer_sha256[:16]}`"
    usage = f"Use the prompt of its training: `{json.dumps(prompt.template, ensure_ascii=False)}`."
    if card.contract.method == "full":
        return f"{name}, {hashes}, all weights trained further: a whole model.\n{usage}"
    if card.merged is None:
        return f"A LoRA adapter for {name}. Load it only on the base that contract.json names: {hashes}.\n{usage}"
    return f"{name}, {hashes}, with a LoRA adapter merged into it.\n{usage}"


def _licence(card: ModelCard) -> str:
    name, fields = card.contract.base.name, base_licence(card.base_folder)
    stated = ", ".join(f"{field} `{value}`" for field, value in fields.items())
    base = f"`{name}` states: {stated}." if fields else f"`{name}` states none in its folder: look it up."
    both = "This model is derived from the base model and from the data below; the licences of both apply."
    return f"{both} {base}\nFill in `license` above before you pass this model on."


def _table(key: str, value: str, rows: Mapping[str, object]) -> str:
    return markdown_table([key, value], [(name, _plain(cell)) for name, cell in rows.items()])


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
