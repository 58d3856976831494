"""Answers of equal models to equal prompts are generated once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from expectations.rules.bootstrap import Interval
from ft_assets.adapters.answer_cache import AnswerCache, Chats
from ft_assets.adapters.score_answers import propose
from resources.accelerator import Compute
from resources.artifacts import ArtifactStore
from resources.generator import Generated
from resources.text_source import ChatMessage

CPU = Compute("cpu", "float32")


def chats(*texts: str) -> list[list[ChatMessage]]:
    return [[{"role": "user", "content": text}] for text in texts]


class Model:
    """A model that repeats the question, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, some: Chats) -> list[Generated]:
        texts = [chat[0]["content"] for chat in some]
        self.asked += texts
        return [Generated(f"re: {text}", tokens=len(text), cut=len(text) > 3, opens_thought=False) for text in texts]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def answers(given: Sequence[Generated]) -> list[str]:
    return [answer.text for answer in given]


def test_only_new_prompts_are_asked_and_the_order_is_that_of_the_prompts(store: ArtifactStore) -> None:
    model = Model()
    first = AnswerCache(store, "base1", {"sft": "v1"}, CPU).ask("sft", chats("a", "long", "a"), 8, model)
    assert answers(first) == ["re: a", "re: long", "re: a"] and model.asked == ["a", "long"]
    again = AnswerCache(store, "base1", {"sft": "v1"}, CPU).ask("sft", chats("new", "long", "a"), 8, model)
    assert answers(again) == ["re: new", "re: long", "re: a"] and model.asked == ["a", "long", "new"]
    assert again[1] == Generated("re: long", tokens=4, cut=True, opens_thought=False)
    assert len(store.versions("generated_answers")) == 2


def test_an_equal_adapter_under_another_name_is_the_same_model(store: ArtifactStore) -> None:
    model = Model()
    cache = AnswerCache(store, "base1", {"sft": "v1", "released": "v1"}, CPU)
    cache.ask("sft", chats("a"), 8, model)
    cache.ask("released", chats("a"), 8, model)
    assert model.asked == ["a"]


@pytest.mark.parametrize(
    ("base", "trained", "tokens", "compute"),
    [
        ("base2", {"sft": "v1"}, 8, CPU),
        ("base1", {"sft": "v2"}, 8, CPU),
        ("base1", {}, 8, CPU),
        ("base1", {"sft": "v1"}, 9, CPU),
        ("base1", {"sft": "v1"}, 8, Compute("cpu", "bfloat16")),
    ],
)
def test_another_model_or_limit_is_asked_again(
    store: ArtifactStore, base: str, trained: dict[str, str], tokens: int, compute: Compute
) -> None:
    model = Model()
    AnswerCache(store, "base1", {"sft": "v1"}, CPU).ask("sft", chats("a"), 8, model)
    AnswerCache(store, base, trained, compute).ask("sft", chats("a"), tokens, model)
    assert model.asked == ["a", "a"]


def test_a_damaged_file_is_deleted_and_asked_again(store: ArtifactStore) -> None:
    model = Model()
    cache = AnswerCache(store, "base1", {}, CPU)
    cache.ask("base", chats("a"), 8, model)
    (kept,) = store.versions("generated_answers")
    path = kept.path / "generated.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    cache.ask("base", chats("a"), 8, model)
    assert model.asked == ["a", "a"]


def test_dpo_is_proposed_only_if_it_answers_better_than_sft() -> None:
    def figures(f1: float, exact: float) -> dict[str, Interval]:
        return {name: Interval(mean=m, low=m, high=m, n=4) for name, m in (("f1", f1), ("exact_match", exact))}

    assert propose({"sft": figures(0.3, 0.2), "dpo": figures(0.4, 0.1)}) == "dpo"
    assert propose({"sft": figures(0.4, 0.2), "dpo": figures(0.4, 0.2)}) == "sft", "a tie is no gain"
    assert propose({"dpo": figures(0.4, 0.2), "sft": figures(0.4, 0.2)}) == "sft", "a job file sorts the names"
    assert propose({"sft": figures(0.4, 0.2), "dpo": figures(0.4, 0.3)}) == "dpo"
    assert propose({"sft": figures(0.5, 0.2), "dpo": figures(0.4, 0.9)}) == "sft"
    assert propose({"dpo": figures(0.0, 0.0)}) == "dpo"
