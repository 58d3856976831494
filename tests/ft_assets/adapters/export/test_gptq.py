"""4-bit weights in GPTQ's layout: read again, they have the same shapes and nearly the same logits."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.adapters.export import gptq
from ft_assets.adapters.export.export import export


@pytest.mark.slow
def test_an_export_in_4_bits_is_whole_and_close_to_the_merged_model(trained: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lab, sft, _ = trained
    report = export(sft, tmp_path / "out", lab.store, gptq=True)
    folder = tmp_path / "out/gptq"
    assert report["gptq"]["noise"] < 0.2
    assert report["gptq"]["group_size"] == 64
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == ("gptq", 4, 64)
    tensors: dict[str, Any] = load_file(folder / "model.safetensors")
    packed = tensors["model.layers.0.mlp.up_proj.qweight"]
    assert tuple(packed.shape) == (64 // 8, 128), "eight 4-bit weights in each integer"
    assert (folder / "tokenizer.json").read_bytes() == (lab.base / "tokenizer.json").read_bytes()
    assert (folder / "contract.json").is_file()
    assert not (tmp_path / "out/merged").exists()
    assert "gptq/model.safetensors" in report["files"]


def test_what_the_quantiser_cannot_do_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        gptq.quantise(tmp_path, tmp_path / "out")
    assert [violation.code for violation in caught.value.violations] == ["FT-ADP-015"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("noise", [float("nan"), float("inf"), 0.3])
def test_logits_that_moved_too_far_or_are_no_numbers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float
) -> None:
    figures = gptq.Quantised(bits=4, group_size=32, positions=9, noise=noise, same_first_choice=0.1)
    printing = tmp_path / "python"  # a process that prints what the quantiser would
    printing.write_text(f"#!/bin/sh\necho {shlex.quote(msgspec.json.encode(figures).decode())}\n")
    printing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(printing))
    with pytest.raises(Refused) as caught:
        gptq.quantise(tmp_path, tmp_path / "out")
    assert [violation.code for violation in caught.value.violations] == ["FT-ADP-015"]
