from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_the_tiled_head_gives_the_log_probabilities_and_gradients_of_whole_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "_TILE_TOKENS", 4)
    monkeypatch.setattr(gpu, "_TILE_VOCABULARY", 7)
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 16, requires_grad=True), torch.randn(23, 16)
    targets, weights = torch.randint(0, 23, (10,)), torch.randn(10)

    found: Any = gpu.TiledLogProbs.apply(hidden, weight, targets)
    (found * weights).sum().backward()
    gradient, hidden.grad = hidden.grad, None
    expected = (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    (expected * weights).sum().backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, hidden.grad)


def test_dequantised_weights_are_close_and_give_the_gradient():
    torch.manual_seed(0)
    weight = torch.randn(128, 128) * 0.02
    layer = gpu.Nf4Linear(weight, None)
    back = layer.dequantise()

    assert (back - weight).norm() / weight.norm() < 0.1  # nf4 on normal weights: 0.09
    stored = sum(t.numel() * t.element_size() for t in (layer.weight, layer.scales, layer.steps))
    assert stored / weight.numel() == pytest.approx(0.5 + 1 / 64 + 4 / 16384, rel=1e-6)
    x = torch.randn(3, 128, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, back.sum(0).expand(3, -1))


@pytest.mark.slow
@pytest.mark.parametrize("engine", gpu.ENGINES)
def test_every_case_runs_on_tiny_shapes(engine: str):
    cases = [case for case in gpu.list_cases([64], 2, tiny=True) if case["engine"] == engine]
    found = list(gpu.run_group(cases, "cpu"))
    assert len(found) == 8  # two shapes, qlora and lora, SFT and DPO
    assert {case["state"] for case in found} == {"measured"}
    assert all(case["tokens_per_second"] > 0 for case in found)


def test_estimates_are_added_to_a_results_file(tmp_path: Path):
    out = tmp_path / "gpu.json"
    case = {**gpu.list_cases([1024], 4, tiny=False)[0], "state": "measured", "peak_gib": 5.0}
    gpu.write(out, {"gpu": "a card"}, [case])
    row = json.loads(out.read_text("utf-8"))["cases"][0]
    assert 3 < row["estimate_gib"] < 6  # Qwen3-4B, qlora, SFT on rows of 1024 tokens
    assert row["estimate_over_peak"] == pytest.approx(row["estimate_gib"] / 5, abs=0.01)


def test_cases_without_time_are_marked_as_not_run(tmp_path: Path):
    cases = gpu.list_cases([64], 2, tiny=True)
    gpu.measure(cases, "cpu", tmp_path / "gpu.json", minutes=0)
    rows = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["cases"]
    assert len(rows) == len(cases)
    assert {row["state"] for row in rows} == {"not run: out of time"}


@pytest.mark.slow
def test_a_child_process_measures_and_its_parent_writes(tmp_path: Path):
    gpu.measure(gpu.list_cases([64], 2, tiny=True)[:2], "cpu", tmp_path / "gpu.json", minutes=9)
    written = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert written["machine"]["quantiser"] in ("torch", "bitsandbytes")
    assert [(row["objective"], row["state"]) for row in written["cases"]] == [("sft", "measured"), ("dpo", "measured")]
    assert all(row["step_seconds"] > 0 and row["estimate_gib"] > 0 for row in written["cases"])
