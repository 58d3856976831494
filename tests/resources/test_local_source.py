"""Text of a model in this process: greedy as transformers generates it, seeded by call, alone or in a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from resources.accelerator import Compute
from resources.decoding import TextWanted, decode, draw
from resources.generator import render
from resources.local_source import LocalModels, LocalSource
from resources.text_source import Call, ModelReply, NoReply, Outcome, Sampling, fault_of
from tests.ft_assets.adapters.tiny_llm import build_base

QUESTIONS = ["AES?", "Which cipher has 128 bit blocks?", "比特 分组 密码", "a" * 40, "AES-9 使用多少比特?"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LocalSource:
    return open_source(build_base(tmp_path_factory.mktemp("base")))


def open_source(folder: Path, batch_size: int = 4) -> LocalSource:
    return LocalSource(LocalModels(name="tiny", base=folder, version="v1"), Compute("cpu", "float32"), batch_size)


def call(question: str, *, sample: int = 0, **sampling: Any) -> Call:
    wanted = {"max_new_tokens": 8, **sampling}
    return Call(messages=[{"role": "user", "content": question}], sampling=Sampling(**wanted), sample=sample)


def ask(source: LocalSource, *calls: Call) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    source.ask(calls, outcomes.__setitem__)
    return [outcomes[n] for n in range(len(calls))]


def texts(source: LocalSource, *calls: Call) -> list[str]:
    replies = ask(source, *calls)
    return [reply.text if isinstance(reply, ModelReply) else reply.code for reply in replies]


def record_shapes(source: LocalSource, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list that gets the shape of the ids of each pass of the loaded model."""
    model, shapes = source._generator().model, list[tuple[int, ...]]()
    forward = model.forward

    def recording(input_ids: Any, **rest: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "forward", recording)
    return shapes


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_text_is_that_of_transformers(
    source: LocalSource, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = source._generator()
    ask(source, call("loads it"))
    monkeypatch.setattr(generator.model.generation_config, "repetition_penalty", penalty)
    replies = ask(source, *(call(question, max_new_tokens=12) for question in QUESTIONS))
    for question, reply in zip(QUESTIONS, replies, strict=True):
        prompt = render(generator.tokenizer, call(question).messages)
        ids = generator.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=generator.stop_ids,
            pad_token_id=generator.pad_id,
        )[0, len(prompt) :].tolist()
        stopped = next((n for n, token in enumerate(ids) if token in generator.stop_ids), None)
        assert isinstance(reply, ModelReply) and reply.prompt_tokens == len(prompt)
        assert reply.text == generator.tokenizer.decode(ids[:stopped], skip_special_tokens=True).strip()
        assert (reply.finish == "length") == (stopped is None) and reply.tokens == len(ids[:stopped])


def test_a_text_depends_on_its_call_and_not_on_the_calls_next_to_it(source: LocalSource) -> None:
    calls = [
        call(question, temperature=temperature, top_p=top_p, sample=sample, max_new_tokens=4 + sample)
        for question in QUESTIONS
        for sample, temperature, top_p in ((0, 0.0, 1.0), (1, 0.7, 0.9), (2, 1.5, 1.0), (3, 1.5, 1.0))
    ]
    together = texts(source, *calls)
    assert together == [texts(source, one)[0] for one in calls]
    assert together == texts(source, *reversed(calls))[::-1]
    assert len(set(together)) > len(QUESTIONS) * 2


def test_seed_and_sample_change_a_drawn_text_and_not_a_greedy_one(source: LocalSource) -> None:
    drawn = [call("AES?", temperature=1.5, seed=seed, sample=sample) for seed in (1, 2) for sample in (0, 1)]
    assert len(set(texts(source, *drawn))) == 4
    assert texts(source, drawn[0]) == texts(source, drawn[0])
    assert len(set(texts(source, call("AES?", seed=1), call("AES?", seed=2), call("AES?", sample=1)))) == 1


def test_one_prompt_is_computed_once_for_all_its_samples(source: LocalSource, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(source, call("AES?"))
    shapes = record_shapes(source, monkeypatch)
    ask(source, *(call("AES?", sample=n, temperature=1.0, max_new_tokens=3) for n in range(4)))
    assert shapes[0][0] == 1 and shapes[0][1] > 1
    assert all(shape[1] == 1 and shape[0] <= 4 for shape in shapes[1:]) and shapes[1][0] > 1


def test_what_all_prompts_begin_with_is_computed_once(source: LocalSource, monkeypatch: pytest.MonkeyPatch) -> None:
    chats = [[{"role": "system", "content": "密" * 20}, *call(question).messages] for question in QUESTIONS[:4]]
    calls = [msgspec.structs.replace(call(""), messages=chat) for chat in chats]
    alone = [texts(source, one)[0] for one in calls]
    prompts = [render(source._generator().tokenizer, chat) for chat in chats]
    shared = next(n for n, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    shapes = record_shapes(source, monkeypatch)
    assert texts(source, *calls) == alone
    assert shapes[:2] == [(1, shared), (4, max(map(len, prompts)) - shared)] and shared > 20


def test_calls_that_do_not_fit_into_memory_together_come_in_smaller_batches(
    source: LocalSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = [call(f"AES-{n}?", temperature=1.0) for n in range(7)]
    wanted = texts(source, *calls)
    model, forward, tried = source._generator().model, source._generator().model.forward, []

    def without_memory(input_ids: Any, **rest: Any) -> Any:
        tried.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "forward", without_memory)
    assert texts(source, *calls) == wanted
    assert tried[0] == 4 and max(tried[1:]) == 2 and "batches of 2" in caplog.text


def test_a_prompt_that_is_too_long_is_no_reply_and_the_others_are_answered(source: LocalSource) -> None:
    long, short = ask(source, call("密" * 300), call("AES?"))
    assert isinstance(long, NoReply) and long.code == "FT-GEN-005" and "512" in long.reason
    assert isinstance(short, ModelReply)


def test_a_cut_or_empty_text_has_its_code() -> None:
    reply = ModelReply(text="AES", prompt_tokens=3, tokens=2, finish="stop")
    assert fault_of(reply) is None
    for changes, code in (({"finish": "length"}, "FT-GEN-003"), ({"text": ""}, "FT-GEN-004")):
        fault = fault_of(msgspec.structs.replace(reply, **changes))
        assert fault is not None and fault.code == code


def wanted(temperature: float, top_p: float, key: str = "k") -> TextWanted:
    return TextWanted(prompt=0, key=key, max_new_tokens=1, temperature=temperature, top_p=top_p)


def test_draws_follow_temperature_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def shares(temperature: float, top_p: float, number: int = 4000) -> list[float]:
        rows = [wanted(temperature, top_p, f"key {n}") for n in range(number)]
        drawn = Counter(draw(logits.repeat(number, 1), rows, step=0).tolist())
        return [drawn[token] / number for token in range(4)]

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(1.0, 0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(0.5, 1.0) == pytest.approx([0.685, 0.247, 0.062, 0.007], abs=0.03)
    assert shares(0.0, 1.0) == [1, 0, 0, 0]


def test_a_flat_distribution_is_drawn_from_all_of_a_large_vocabulary() -> None:
    number, vocabulary = 2000, 1000
    rows = [wanted(1.0, 1.0 if n % 2 else 0.95, f"key {n}") for n in range(number)]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, vocabulary, generator=generator) * 0.01
    together = draw(logits.repeat(number, 1), rows, step=3)
    assert together.tolist() == [int(draw(logits, [row], step=3)) for row in rows]
    ranks = logits[0].argsort(descending=True).argsort()[together]
    assert 480 < ranks.float().mean() < 510 and ranks[1::2].max() > 970 and ranks[::2].max() < 955


SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("Mistral", {"sliding_window": 8}), ("Gemma3Text", {"sliding_window": 8}), ("Qwen3Next", LINEAR)],
)
def test_models_with_windows_and_recurrent_layers_share_a_prefill_too(name: str, sizes: dict[str, Any]) -> None:
    config = getattr(transformers, f"{name}Config")(**SIZES, **sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    beginning = torch.randint(3, 300, (12,), generator=generator).tolist()  # longer than the windows
    prompts = [beginning + torch.randint(3, 300, (length,), generator=generator).tolist() for length in (5, 23, 12, 30)]
    asked = [(0, 4), (1, 9), (2, 12), (3, 7), (1, 3)]
    texts = [TextWanted(prompt=n, key="", max_new_tokens=most, temperature=0, top_p=1) for n, most in asked]
    with torch.inference_mode():
        made = decode(model, prompts, texts, [2], 0)
        for (n, most), tokens in zip(asked, made, strict=True):
            ids, mask = torch.tensor([prompts[n]]), torch.ones(1, len(prompts[n]), dtype=torch.long)
            alone = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=most)
            assert tokens == alone[0, len(prompts[n]) :].tolist()
