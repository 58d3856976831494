from __future__ import annotations

from typing import Any

import pytest

from ft_assets.adapters.trainer.memory_needs import fitting_rows, needs_of
from ft_assets.config.model import AdapterSettings, Settings, SftSettings
from resources.estimate import GIB, estimate_training
from resources.model_shape import ModelShape

QWEN3_4B = ModelShape.from_sizes(
    layers=36, hidden=2560, heads=32, kv_heads=8, head_dim=128, ffn=9728, vocab=151936, tied=True
)
GPU: dict[str, Any] = {"device": "cuda", "bf16": True}


def rows(memory: float, *, processes: int = 1, device: str = "cuda", **values: Any) -> int:
    settings = SftSettings.model_validate({"base_model": "x", "method": "qlora", **values})
    on: dict[str, Any] = {**GPU, "device": device}
    return fitting_rows(settings, AdapterSettings(), QWEN3_4B, **on, memory=int(memory * GIB), processes=processes)


def test_a_gpu_takes_as_many_rows_at_once_as_fit_and_divide_the_batch() -> None:
    found = {memory: rows(memory, global_batch_size=12) for memory in (2, 4.5, 5, 6, 80)}
    assert found == {2: 1, 4.5: 1, 5: 2, 6: 4, 80: 12}
    settings = SftSettings.model_validate({"base_model": "x", "method": "qlora", "micro_batch_size": 4})
    assert estimate_training(QWEN3_4B, *needs_of(settings, AdapterSettings(), tokens=1024, **GPU)).fits(6 * GIB)


def test_longer_rows_are_fewer_at_once() -> None:
    assert rows(10, global_batch_size=16, max_length=512) == 16
    assert rows(10, global_batch_size=16, max_length=4096) == 2


def test_shards_leave_room_for_more_rows_in_each_process() -> None:
    on: dict[str, Any] = {"processes": 4, "method": "lora", "max_length": 2048}
    assert (rows(10, **on), rows(10, **on, sharding="fsdp2")) == (1, 2)
    full = SftSettings.model_validate({"base_model": "x", "method": "full", "sharding": "fsdp2"})
    alone, shared = (
        estimate_training(QWEN3_4B, *needs_of(full, None, tokens=1024, **GPU, processes=count)).parts
        for count in (1, 4)
    )
    for part in ("weights", "gradients and optimizer"):
        assert shared[part] == alone[part] / 4
    assert "gathered layers" in shared.keys() - alone.keys()


def test_rows_of_tokens_take_a_copy_of_the_head_and_its_gradient() -> None:
    settings = SftSettings.model_validate({"base_model": "x", "method": "qlora"})
    totals = [
        sum(estimate_training(QWEN3_4B, *needs_of(settings, lora, tokens=1024, **GPU)).parts.values())
        for lora in (AdapterSettings(), AdapterSettings(train_tokens=["<cite>"]))
    ]
    # measured with weights in bf16 and a head of 200,000 x 512: 810 MB for 819
    assert totals[1] - totals[0] == 151936 * 2560 * 8


def test_a_number_stays_as_it_is() -> None:
    assert rows(2, micro_batch_size=8) == 8
    assert rows(2, micro_batch_size=8, device="cpu") == 8


@pytest.mark.parametrize(("batch", "processes", "expected"), [(8, 1, 4), (6, 1, 3), (7, 1, 1), (8, 4, 2), (6, 2, 3)])
def test_a_cpu_takes_at_most_four_rows_of_a_process(batch: int, processes: int, expected: int) -> None:
    assert rows(80, device="cpu", global_batch_size=batch, processes=processes) == expected


def test_with_auto_the_processes_must_share_the_batch() -> None:
    values: dict[str, Any] = {"launcher": {"kind": "torchrun", "processes": 4}, "corpus": {"files": ["*.md"]}}
    sft = {"base_model": "x", "global_batch_size": 6}
    with pytest.raises(ValueError, match="must be a multiple of"):
        Settings.model_validate({**values, "sft": sft})
    assert Settings.model_validate({**values, "sft": {**sft, "global_batch_size": 8}}).sft
