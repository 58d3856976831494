"""The model card: the licence that the base states, and only measured figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.adapter import AdapterContract, BaseModelIdentity, LoraShape
from expectations.rules.answer_scores import read_reply
from ft_assets.adapters.export.model_card import CardFigures, ModelCard, base_licence, write_card
from ft_assets.adapters.score_answers import measure, summarise
from resources.artifacts import Recipe
from tests.ft_assets.adapters.tiny_llm import PROMPT

HEADER = "---\nlanguage: [zh, en]\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---\n# A base\n"
CONTRACT = AdapterContract(
    base=BaseModelIdentity(
        name="Qwen/Qwen3-4B", revision=None, weights_sha256="a" * 64, tokenizer_sha256="b" * 64,
        chat_template_sha256="c" * 64, stop_token_ids=[2],
    ),
    prompt=PROMPT,
    reasoning="strip",
    lora=LoraShape(r=8, alpha=16, targets=["q_proj"]),
)  # fmt: skip
FIGURES = CardFigures(steps=60, eval_loss_after=0.25)


def make_card(base: Path, **changes: Any) -> ModelCard:
    recipe = Recipe(asset="sft_adapter", code_version="1", inputs={"instruction_splits": "0123abcd"})
    card = ModelCard(recipe=recipe, contract=CONTRACT, figures=FIGURES, base_folder=base)
    return msgspec.structs.replace(card, **changes)


@pytest.mark.parametrize(
    ("readme", "config", "stated"),
    [
        (HEADER, {}, {"license": "other", "license_name": "qwen", "license_link": "LICENSE"}),
        (None, {"license": "apache-2.0"}, {"license": "apache-2.0"}),
        ("# No header\nlicense: mit\n", {"license": "apache-2.0"}, {"license": "apache-2.0"}),
        ("---\ntags: [a\n---\n", {}, {}),
        ("---\n- a list\n---\n", {}, {}),
        (None, {}, {}),
    ],
)
def test_the_licence_is_what_the_base_states_and_never_invented(
    tmp_path: Path, readme: str | None, config: dict[str, str], stated: dict[str, str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if readme is not None:
        (tmp_path / "README.md").write_text(readme, "utf-8")
    assert base_licence(tmp_path) == stated
    write_card(tmp_path / "card.md", make_card(tmp_path))
    text = (tmp_path / "card.md").read_text("utf-8")
    assert ("states none in its folder" in text) == (not stated)
    assert all(f"`{value}`" in text for value in stated.values())


def test_a_card_names_recipe_data_prompt_and_figures_and_equal_runs_get_equal_cards(tmp_path: Path) -> None:
    for name in ("one.md", "two.md"):
        write_card(tmp_path / name, make_card(tmp_path))
    text = (tmp_path / "one.md").read_text("utf-8")
    assert text == (tmp_path / "two.md").read_text("utf-8")
    assert text.startswith('---\nbase_model: "Qwen/Qwen3-4B"\nlibrary_name: "peft"\n')
    for content in ("| instruction_splits | 0123abcd |", "| steps | 60 |", "Background:", "aaaaaaaaaaaaaaaa"):
        assert content in text
    assert "## Evaluation" not in text


def test_a_card_shows_evaluation_and_merge_when_they_are_known(tmp_path: Path) -> None:
    replies = {"base": [read_reply("不知道"), read_reply("128")], "sft": [read_reply("256 比特"), read_reply("128 位")]}
    card = make_card(
        tmp_path,
        evaluation=summarise(measure(replies, ["256比特", "128位"]), 1),
        merged={"dtype": "bfloat16", "max_abs_difference_saved": 0.5},
        libraries={"torch": "2.13"},
    )
    write_card(tmp_path / "card.md", card)
    text = (tmp_path / "card.md").read_text("utf-8")
    assert "| sft | 1.000 (1.000 … 1.000)" in text
    assert "| sft-base | +" in text
    assert "| max_abs_difference_saved | 0.5 |" in text
    assert 'library_name: "transformers"' in text
    assert "| torch | 2.13 |" in text
