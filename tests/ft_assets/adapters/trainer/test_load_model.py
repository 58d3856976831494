from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from expectations.violations import Refused
from ft_assets.adapters.trainer.load_model import choose_attention, keep_gradients_on_cpu, load_model
from ft_assets.config.model import DpoSettings, SftSettings
from resources.accelerator import Compute, cpu_flags
from resources.trained_model import load_weights

CPU = Compute("cpu", "bfloat16")


def settings(base: Path, **changes: Any) -> SftSettings:
    return SftSettings.model_validate({"base_model": str(base), **changes})


def gradient_norm(model: Any) -> float:
    """Norm of the adapter's gradient on one batch, as a training step takes it."""
    import torch

    model.train()
    model.zero_grad()
    ids = torch.arange(48).reshape(2, 24) % 200 + 5
    model(input_ids=ids, labels=ids).loss.backward()
    found = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(found).norm())


def evaluate(model: Any) -> None:
    import torch

    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(24)[None] + 5)


@pytest.fixture
def qlora(tiny_base: Path) -> Any:
    pytest.importorskip("bitsandbytes")
    return load_model(tiny_base, settings(tiny_base, method="qlora", lora={"dropout": 0}), CPU, None, longest=64)


def test_qlora_has_linear_layers_in_nf4_doubly_quantised_and_embeddings_in_bf16(qlora: Any) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    quantised = [module for module in qlora.modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == 14
    for module in quantised:
        assert module.weight.dtype == torch.uint8
        assert module.weight.quant_state.quant_type == "nf4"
        assert module.weight.quant_state.nested
        assert module.compute_dtype == torch.bfloat16
    assert qlora.get_input_embeddings().weight.dtype == torch.bfloat16
    assert all(p.requires_grad == ("lora_" in name) for name, p in qlora.named_parameters())


def test_qlora_gradients_are_the_same_before_and_after_an_evaluation(qlora: Any) -> None:
    before = gradient_norm(qlora)
    evaluate(qlora)
    assert gradient_norm(qlora) == pytest.approx(before, rel=1e-6)


@pytest.mark.skipif("avx512_bf16" not in cpu_flags(), reason="bitsandbytes errs on CPUs with AVX512-BF16 only")
def test_without_the_guard_bitsandbytes_loses_gradients_after_an_evaluation(qlora: Any) -> None:
    from bitsandbytes.nn import Linear4bit

    for module in qlora.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = True
    before = gradient_norm(qlora)
    evaluate(qlora)
    assert gradient_norm(qlora) != pytest.approx(before, rel=0.05), "fixed upstream: the guard can go"
    keep_gradients_on_cpu(qlora)


def test_qlora_without_bitsandbytes_names_the_package_to_install(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(Refused, match=r"FT-TRAIN-008.*ft-assets\[qlora\]"):
        load_model(tiny_base, settings(tiny_base, method="qlora"), CPU, None, longest=64)


def test_a_lora_base_has_the_dtype_of_the_hardware_and_only_the_adapter_trains(tiny_base: Path) -> None:
    import torch

    for dtype, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float32)):
        model = load_model(tiny_base, settings(tiny_base), Compute("cpu", dtype), None, longest=64)
        assert model.get_input_embeddings().weight.dtype == expected, "under fp16 master weights stay fp32"
        assert {name for name, p in model.named_parameters() if p.requires_grad} == {
            name for name, _ in model.named_parameters() if "lora_" in name
        }


@pytest.mark.parametrize(
    ("changes", "longest", "device", "expected"),
    [
        ({}, 512, "cpu", "eager"),
        ({"max_length": 2048}, 512, "cpu", "eager"),
        ({}, 513, "cpu", "sdpa"),
        ({"packing": True}, 512, "cpu", "sdpa"),
        ({}, 512, "cuda", "sdpa"),
    ],
)
def test_attention_is_eager_only_where_it_is_faster_and_never_with_packing(
    changes: dict[str, Any], longest: int, device: Any, expected: str
) -> None:
    assert choose_attention(settings(Path("base"), **changes), Compute(device, "bfloat16"), longest) == expected
    dpo = DpoSettings.model_validate({"base_model": "base"})
    assert choose_attention(dpo, Compute("cuda", "bfloat16"), longest) == "sdpa"


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], r".*\.q_proj|.*lm_head"])
def test_an_adapter_on_the_output_head_is_refused_by_name(tiny_base: Path, refused_codes: Any, targets: Any) -> None:
    def load() -> None:
        load_model(tiny_base, settings(tiny_base, lora={"targets": targets}), CPU, None, longest=64)

    assert refused_codes(load) == {"FT-TRAIN-078"}


def test_a_given_adapter_on_the_output_head_is_refused_as_well(
    tiny_base: Path, tmp_path: Path, refused_codes: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    get_peft_model(load_weights(tiny_base), config).save_pretrained(str(tmp_path))
    asked = DpoSettings(base_model=str(tiny_base), start=str(tmp_path))
    assert refused_codes(lambda: load_model(tiny_base, asked, CPU, tmp_path, longest=64)) == {"FT-TRAIN-078"}
