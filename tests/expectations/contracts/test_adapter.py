from __future__ import annotations

from typing import Any

import msgspec
import pytest

from expectations.contracts.adapter import (
    AdapterContract,
    BaseModel,
    LoraShape,
    RagPrompt,
    compare,
    compare_base,
    violations,
)

CONTRACT = AdapterContract(
    base=BaseModel(
        name="Qwen3-4B", revision=None, weights_sha256="w", tokenizer_sha256="t", chat_template_sha256="c",
        stop_token_ids=[151645],
    ),
    prompt=RagPrompt(system="", template="{passages}{question}", separator="\n"),
    reasoning="strip",
    lora=LoraShape(r=16, alpha=32, targets=["q_proj"]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("part", "changes", "outcome"),
    [
        ("base", {}, "COMPATIBLE"),
        ("base", {"name": "/models/qwen3", "revision": "abc"}, "COMPATIBLE"),
        ("prompt", {"separator": "\n\n"}, "RETRAIN"),
        ("base", {"weights_sha256": "x"}, "BROKEN"),
        ("base", {"tokenizer_sha256": "x"}, "BROKEN"),
        ("base", {"chat_template_sha256": "x"}, "BROKEN"),
        ("base", {"stop_token_ids": [1]}, "BROKEN"),
        ("lora", {"r": 8}, "BROKEN"),
    ],
)
def test_what_changed_decides_the_outcome(part: str, changes: dict[str, Any], outcome: str) -> None:
    changed = msgspec.structs.replace(getattr(CONTRACT, part), **changes)
    found = compare(CONTRACT, msgspec.structs.replace(CONTRACT, **{part: changed}))
    assert found.outcome == outcome
    assert [d.field for d in found.differences] == (
        [] if outcome == "COMPATIBLE" else [f"{part}.{next(iter(changes))}"]
    )


def test_another_reasoning_policy_asks_for_a_new_training() -> None:
    assert compare(CONTRACT, msgspec.structs.replace(CONTRACT, reasoning="require")).outcome == "RETRAIN"


def test_a_violation_names_the_field_both_values_and_the_fix() -> None:
    other = msgspec.structs.replace(CONTRACT.base, weights_sha256="x")
    (violation,) = violations(compare_base(CONTRACT, other), "adapter sft")
    assert (violation.code, violation.field, violation.found, violation.expected) == (
        "FT-ADP-001", "base.weights_sha256", "w", "x",
    )  # fmt: skip
    assert "ft run" in violation.fix


def test_a_contract_survives_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(CONTRACT), type=AdapterContract) == CONTRACT
