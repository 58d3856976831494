"""A base with more tokens computes the same for all other texts, and reads and writes the new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expectations.contracts.fingerprint import chat_template, fingerprint
from expectations.violations import Refused
from resources.model_check import check_model
from resources.new_tokens import add_tokens
from tests.ft_assets.adapters.tiny_llm import build_base, untie

TOKENS = ["<cite>", "</cite>"]


@pytest.mark.parametrize("tied", [True, False])
def test_other_texts_keep_their_ids_and_logits_and_the_new_rows_are_means(tmp_path: Path, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = build_base(tmp_path / "base")
    if not tied:
        untie(base)
    (base / "LICENSE").write_text("free")
    added = add_tokens(base, TOKENS, tmp_path / "more")
    again = add_tokens(base, TOKENS, tmp_path / "again")
    assert added.rows == added.rows_before + 2 == again.rows
    assert fingerprint(tmp_path / "more") == fingerprint(tmp_path / "again")
    assert (tmp_path / "more/LICENSE").is_file()
    assert chat_template(tmp_path / "more") == chat_template(base)
    assert not check_model(tmp_path / "more")
    folders = (base, tmp_path / "more")
    tokenizer: Any = AutoTokenizer
    model_class: Any = AutoModelForCausalLM
    old: Any = tokenizer.from_pretrained(base)
    new: Any = tokenizer.from_pretrained(tmp_path / "more")
    text = "AES 使用 128 bit blocks."
    assert new(text)["input_ids"] == old(text)["input_ids"]
    assert new("<cite>")["input_ids"] == [added.ids["<cite>"]]
    assert new.decode(new("a <cite>b</cite>")["input_ids"]) == "a <cite>b</cite>"
    models: list[Any] = list(map(model_class.from_pretrained, folders))
    ids = torch.tensor([old(text)["input_ids"]])
    before, after = (model(ids).logits for model in models)
    assert torch.allclose(before, after[..., : added.rows_before], atol=1e-6)
    pieces = old("<cite>")["input_ids"]
    assert len(pieces) > 1
    for name in ("get_input_embeddings", "get_output_embeddings"):
        old_rows, new_rows = (getattr(model, name)().weight for model in models)
        assert torch.allclose(new_rows[added.ids["<cite>"]], old_rows[pieces].mean(0), atol=1e-6)


@pytest.mark.parametrize("token", ["<|im_end|>", " "])
def test_a_text_that_is_a_token_or_empty_is_refused_and_nothing_is_written(tmp_path: Path, token: str) -> None:
    base = build_base(tmp_path / "base")
    with pytest.raises(Refused) as caught:
        add_tokens(base, ["<cite>", token], tmp_path / "more")
    assert [violation.code for violation in caught.value.violations] == ["FT-MODEL-004"]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
