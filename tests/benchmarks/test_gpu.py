from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu


def case(engine: gpu.Engine, objective: Any = "sft") -> gpu.Case:
    return gpu.Case(engine, "Qwen3-4B", objective, 64, "lora", steps=3)


def measured(cases: list[gpu.Case], out: Path, minutes: float) -> list[dict[str, Any]]:
    gpu.measure(cases, device="cpu", tiny=True, out=out, minutes=minutes, kept=None)
    return json.loads(out.read_text("utf-8"))["cases"]


@pytest.mark.slow
def test_worker_and_trl_train_on_equal_rows_and_the_worker_has_an_estimate(tmp_path: Path):
    cases = [case("ft-assets"), case("ft-assets", "dpo"), case("TRL defaults")]
    sft, dpo, defaults = measured(cases, tmp_path / "gpu.json", minutes=9)
    for row in (sft, dpo, defaults):
        assert row["state"] == "measured", row
        assert row["tokens_per_second"] > 0
        assert len(row["losses"]) == 2
    assert sft["losses"][0] == pytest.approx(defaults["losses"][0], rel=0.02), "random weights: ln(1000)"
    assert sft["estimate_gib"] > 0
    assert dpo["rows_at_once"] == 1


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_row_has_the_tokens_of_its_case(tmp_path: Path, objective: Any):
    from transformers import AutoTokenizer

    folder = gpu.write_model({**gpu.SHAPES["Qwen2.5-7B"], **gpu.TINY}, tmp_path / "model", "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in gpu.make_rows(3, 64, mixed=False):
        record = gpu.as_record(row, objective)
        answer = record["chosen" if objective == "dpo" else "answer"]
        chat = [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        assert 48 <= len(ids) <= 64
        assert tokenizer.unk_token_id not in ids


def test_cases_without_time_are_marked_as_not_run(tmp_path: Path):
    rows = measured(gpu.list_cases(), tmp_path / "gpu.json", minutes=0)
    assert len({row["label"] for row in rows}) == len(gpu.list_cases()), "labels are unique: they name the rows"
    assert {row["state"] for row in rows} == {"not run: out of time"}
