"""Calls shared by actors: the batches are those of one process, and so is every reply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from resources import local_source, models
from resources.accelerator import Compute
from resources.local_source import LocalModels, LocalSource
from resources.ray_source import RaySource, _Answerer
from resources.text_source import Call, GeneratorParams, NoReply, Outcome, Sampling
from tests.ft_assets.adapters.tiny_llm import build_base

COMPUTE = Compute("cpu", "float32")


def call(text: str, sample: int = 0) -> Call:
    sampling = Sampling(max_new_tokens=6, temperature=1.0)
    return Call(messages=[{"role": "user", "content": text}], sampling=sampling, sample=sample)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> GeneratorParams:
    return GeneratorParams(base_model=str(build_base(tmp_path_factory.mktemp("base"))), batch_size=4)


def local(params: GeneratorParams, state: Path) -> LocalModels:
    name = params.base_model
    return LocalModels(name=name, base=Path(name), version=models.version(name, state))


def test_batches_and_replies_are_those_of_one_process(
    params: GeneratorParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = local_source.decode, []

    def noting(model: Any, prompts: list[Any], wanted: list[Any], *rest: Any) -> Any:
        decoded.append((prompts, wanted))
        return decode(model, prompts, wanted, *rest)

    monkeypatch.setattr(local_source, "decode", noting)
    calls = [call(f"AES-{'9' * (n * 7 % 31)}?", sample) for n in range(9) for sample in (0, 1)]
    calls.insert(5, call("密" * 300))
    alone: dict[int, Outcome] = {}
    LocalSource(local(params, tmp_path), COMPUTE, params.batch_size).ask(calls, alone.__setitem__)
    batches, decoded[:] = sorted(decoded), []

    answer = _Answerer(local(params, tmp_path), COMPUTE, params, tmp_path)
    shared: dict[int, Outcome] = {}
    for batch in RaySource(local(params, tmp_path), COMPUTE, params, tmp_path)._cut(calls):
        shared.update(zip(batch, answer([calls[n] for n in batch]), strict=True))
    assert shared == alone and len(shared) == 19
    assert isinstance(shared[5], NoReply) and shared[5].code == "FT-GEN-005"
    assert sorted(decoded) == batches and len(batches) == 5


def test_a_node_with_another_model_of_the_name_is_refused(params: GeneratorParams, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"FT-RAY-007.*expected 'another'"):
        other = msgspec.structs.replace(local(params, tmp_path), version="another")
        _Answerer(other, COMPUTE, params, tmp_path)
