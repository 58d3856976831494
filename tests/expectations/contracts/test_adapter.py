"""An adapter is compared with a base and a prompt; every difference names its field, both values and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.adapter import (
    AdapterContract,
    BaseModelIdentity,
    LoraShape,
    RagPrompt,
    base_of,
    compare,
    compare_base,
    compare_prompt,
)
from expectations.contracts.compare import Level

CONTRACT = AdapterContract(
    base=BaseModelIdentity(
        name="Qwen3-4B",
        revision=None,
        weights_sha256="w",
        tokenizer_sha256="t",
        chat_template_sha256="c",
        stop_token_ids=[151645],
    ),
    prompt=RagPrompt(system="", template="{passages}{question}", separator="\n"),
    reasoning="strip",
    lora=LoraShape(r=16, alpha=32, targets=["q_proj"]),
)


@pytest.mark.parametrize(
    ("part", "changes", "level"),
    [
        ("base", {}, Level.IDENTICAL),
        ("base", {"name": "/models/qwen3", "revision": "abc"}, Level.IDENTICAL),
        ("prompt", {"separator": "\n\n"}, Level.RETRAIN),
        ("base", {"weights_sha256": "x"}, Level.BROKEN),
        ("base", {"tokenizer_sha256": "x"}, Level.BROKEN),
        ("base", {"chat_template_sha256": "x"}, Level.BROKEN),
        ("base", {"stop_token_ids": [1]}, Level.BROKEN),
        ("lora", {"r": 8}, Level.BROKEN),
    ],
)
def test_the_changed_field_decides_the_level(part: str, changes: dict[str, Any], level: Level) -> None:
    changed = msgspec.structs.replace(getattr(CONTRACT, part), **changes)
    found = compare(CONTRACT, msgspec.structs.replace(CONTRACT, **{part: changed}))
    assert found.level is level
    assert [d.field for d in found.differences] == (
        [] if level is Level.IDENTICAL else [f"{part}.{next(iter(changes))}"]
    )


def test_another_reasoning_policy_needs_a_new_training() -> None:
    assert compare(CONTRACT, msgspec.structs.replace(CONTRACT, reasoning="require")).level is Level.RETRAIN


def test_a_violation_names_the_field_both_values_and_the_fix() -> None:
    other = msgspec.structs.replace(CONTRACT.base, weights_sha256="x")
    (violation,) = compare_base(CONTRACT, other).violations("adapter sft")
    assert (violation.code, violation.field, violation.found, violation.expected) == (
        "FT-ADP-001",
        "base.weights_sha256",
        "w",
        "x",
    )
    assert "ft run" in violation.fix


def test_base_and_prompt_break_rules_of_their_own() -> None:
    other = msgspec.structs.replace(CONTRACT.prompt, separator=" ")
    (violation,) = compare_prompt(CONTRACT, other).violations("adapter sft")
    assert (violation.code, violation.field) == ("FT-ADP-002", "prompt.separator")
    both = msgspec.structs.replace(
        CONTRACT, prompt=other, base=msgspec.structs.replace(CONTRACT.base, tokenizer_sha256="x")
    )
    comparison = compare(CONTRACT, both)
    assert comparison.level is Level.BROKEN
    assert [v.code for v in comparison.violations("adapter sft")] == ["FT-ADP-001", "FT-ADP-002"]


def test_a_contract_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(CONTRACT), type=AdapterContract) == CONTRACT


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rope_theta": 20000.0}, "base.config.rope_parameters.rope_theta"),
        ({"rms_norm_eps": 1e-5}, "base.config.rms_norm_eps"),
        ({"num_key_value_heads": 4}, "base.config.num_key_value_heads"),
        ({"vocab_size": 512}, "base.config.vocab_size"),
        ({"sliding_window": 64}, "base.config.sliding_window"),
    ],
)
def test_another_configuration_of_the_base_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    config = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6, "num_key_value_heads": 2, "vocab_size": 320}
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "5", "dtype": "float32"}))
    stored = msgspec.structs.replace(CONTRACT, base=base_of(tmp_path, CONTRACT))
    # a newer transformers writes rope in another way, and its own version
    newer: dict[str, Any] = {key: value for key, value in config.items() if key != "rope_theta"}
    newer["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps(newer | {"transformers_version": "6"}))
    assert compare_base(stored, base_of(tmp_path, stored)).level is Level.IDENTICAL
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    found = compare_base(stored, base_of(tmp_path, stored))
    assert [difference.field for difference in found.differences] == [field]
    earlier = msgspec.structs.replace(stored, base=msgspec.structs.replace(stored.base, config=msgspec.UNSET))
    assert compare_base(earlier, base_of(tmp_path, stored)).level is Level.IDENTICAL


def test_other_stop_tokens_of_the_base_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 7, "content": "</s>"}]}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    stored = msgspec.structs.replace(CONTRACT, base=base_of(tmp_path, CONTRACT))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (difference,) = compare_base(stored, base_of(tmp_path, stored)).differences
    assert (difference.field, difference.stored, difference.expected) == ("base.stop_token_ids", [7], [7, 9])
