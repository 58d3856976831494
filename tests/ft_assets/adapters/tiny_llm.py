"""A real but tiny Qwen3 with its own tokenizer and chat template, small splits, and jobs to train on them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.adapter import RagPrompt
from ft_assets.adapters.jobs import EvaluateParams, ModelParams, TrainedRef, TrainParams
from ft_assets.config.model import DpoSettings, SftSettings
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.decoding import TextWanted, decode
from resources.generator import Generator, render
from resources.launcher import ComputeParams, Job
from resources.text_source import ChatMessage

PROMPT = RagPrompt(system="", template="Background:\n{passages}\n\nQuestion: {question}\nAnswer:", separator="\n")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
_TEXTS = [
    "Which cipher has 128 bit blocks?",
    "AES",
    "比特 分组 密码 使用 多少",
    "Background Question Answer user assistant",
]


def build_base(folder: Path, *, seed: int = 0, template: str = TEMPLATE, positions: int = 512) -> Path:
    """Random weights, about 100,000 parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(_TEXTS * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=positions, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def untie(folder: Path) -> None:
    """Give the model an output head of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    model.save_pretrained(folder)


def instruction(n: int, **changes: Any) -> dict[str, Any]:
    row = {
        "record_id": f"q{n}", "question": f"AES-{n} 使用多少比特?", "context": [f"AES-{n} 的分组为 {n} 比特。"],
        "system": "", "reasoning": "", "answer": f"{n} 比特", "difficulty": "easy", "language": "zh",
        "evidence": [f"p{n}"], "group": f"d{n}", "source": "questions.jsonl", "line_no": n + 1,
    }  # fmt: skip
    return {**row, **changes}


def preference(n: int, **changes: Any) -> dict[str, Any]:
    row = {
        "record_id": f"p{n}", "question": f"AES-{n} 使用多少比特?", "context": [f"AES-{n} 的分组为 {n} 比特。"],
        "chosen": f"{n} 比特", "rejected": f"{n + 1} 字节", "chosen_score": 1.0, "rejected_score": 0.2, "margin": 0.8,
        "evidence": [f"p{n}"], "group": f"d{n}", "language": "zh", "source": "preferences.jsonl", "line_no": n + 1,
    }  # fmt: skip
    return {**row, **changes}


def verdict(n: int, desirable: bool, **changes: Any) -> dict[str, Any]:
    answer = f"{n} 比特" if desirable else f"{n + 1} 字节"
    row = {
        "record_id": f"u{n}{desirable}", "question": f"AES-{n} 使用多少比特?", "answer": answer, "desirable": desirable,
        "context": [f"AES-{n} 的分组为 {n} 比特。"], "system": "", "history": [], "evidence": [f"p{n}"],
        "group": f"d{n}", "language": "zh", "source": "verdicts.jsonl", "line_no": n + 1,
    }  # fmt: skip
    return {**row, **changes}


def publish_splits(store: ArtifactStore, asset: str, parts: Mapping[str, Sequence[dict[str, Any]]]) -> Artifact:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [row["record_id"] for rows in parts.values() for row in rows]
    with store.stage(Recipe(asset=asset, code_version="test", settings={"ids": ids})) as staging:
        for part in ("train", "validation", "test"):
            pq.write_table(pa.Table.from_pylist(list(parts[part])), staging.path / f"{part}.parquet")
        artifact = staging.publish({"configured": True, **{part: len(rows) for part, rows in parts.items()}})
    store.point(artifact)
    return artifact


def publish_json(store: ArtifactStore, asset: str, name: str, value: Any) -> Artifact:
    with store.stage(Recipe(asset=asset, code_version="test", settings={"value": value})) as staging:
        (staging.path / name).write_text(json.dumps(value), "utf-8")
        artifact = staging.publish()
    store.point(artifact)
    return artifact


def train_job(
    state: Path,
    store: ArtifactStore,
    settings: SftSettings | DpoSettings,
    splits: Artifact | Sequence[Artifact],
    sft: Artifact | None = None,
) -> Job:
    read = [splits] if isinstance(splits, Artifact) else list(splits)
    method = "dpo" if isinstance(settings, DpoSettings) else "sft"
    recipe = Recipe(
        asset=f"{method}_adapter", code_version="test", settings={"training": settings.model_dump(mode="json")},
        inputs={one.asset: one.data_version for one in (*read, *([sft] if sft else []))},
    )  # fmt: skip
    params = TrainParams(
        method=method,
        settings=settings.model_dump(mode="json"),
        prompt=PROMPT,
        thinking="allow_empty",
        compute=compute_params(state),
    )
    run_dir = state / "runs" / recipe.asset
    return Job(recipe=recipe, store=str(store.root), run_dir=str(run_dir), params=msgspec.to_builtins(params))


def evaluate_params(state: Path, base: Path, trained: Mapping[str, tuple[str, str]], **answers: int) -> dict[str, Any]:
    """Return the parameters of an evaluation job. `trained`: name -> (asset, recipe id)."""
    references = {name: TrainedRef(asset=asset, recipe_id=recipe_id) for name, (asset, recipe_id) in trained.items()}
    params = EvaluateParams(
        models=ModelParams(base_model=str(base), revision=None, trained=references),
        answers=answers,
        compute=compute_params(state),
    )
    return msgspec.to_builtins(params)


def compute_params(state: Path, dtype: str = "float32") -> ComputeParams:
    # TEST_DEVICE=cuda runs all of these tests on a GPU
    return ComputeParams(state_dir=str(state), device=os.environ.get("TEST_DEVICE", "cpu"), dtype=dtype)


def greedy(generator: Generator, name: str, chats: Sequence[Sequence[ChatMessage]], max_new_tokens: int) -> list[str]:
    """The likeliest text for each chat, all in one batch."""
    import torch

    prompts = [render(generator.tokenizer, chat) for chat in chats]
    wanted = [
        TextWanted(prompt=n, key="", max_new_tokens=max_new_tokens, temperature=0, top_p=1) for n in range(len(chats))
    ]
    with torch.inference_mode(), generator.using(name):
        rows = decode(generator.model, prompts, wanted, generator.stop_ids, generator.pad_id)
    return [generator.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
