"""Whole modules and rows of the embedding that are trained next to an adapter, and bases with more tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.trainer.load_model import load_model
from ft_assets.config.model import SftSettings
from resources.accelerator import Compute
from resources.artifacts import Artifact
from resources.launcher import Job
from tests.ft_assets.adapters.tiny_llm import PROMPT, greedy, instruction, untie


def run(job: Job) -> Artifact:
    """Train in a run folder of its own."""
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{job.recipe.id}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tied"), [("modules_to_save", False), ("train_tokens", False), ("train_tokens", True)]
)
def test_what_is_trained_next_to_an_adapter_is_saved_continued_answered_with_and_merged(
    lab: Any, tmp_path: Path, kind: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from ft_assets.adapters.export.merge import merge_adapter
    from resources.accelerator import choose
    from resources.generator import Generator
    from resources.new_tokens import add_tokens
    from resources.trained_model import load_trained, load_weights, read_adapter_contract

    if not tied:
        lab.base = shutil.copytree(lab.base, tmp_path / "untied")
        untie(lab.base)
    added = add_tokens(lab.base, ["<cite>", "</cite>"], tmp_path / "more")
    lab.base = tmp_path / "more"
    ids = sorted(added.ids.values())
    rows = [instruction(n, answer=f"<cite>{n}</cite> 比特") for n in range(12)]
    trained = {"modules_to_save": ["embed_tokens", "lm_head"], "train_tokens": list(added.ids)}[kind]
    shape = {"r": 4, "alpha": 8, "dropout": 0, kind: trained}
    sft = run(lab.sft_job(lab.instructions(rows), lora=shape))
    contract = read_adapter_contract(sft.folder())
    assert contract.lora
    assert contract.lora.modules_to_save == (trained if kind == "modules_to_save" else [])
    assert contract.lora.train_tokens == (ids if kind == "train_tokens" else [])

    plain: Any = load_weights(lab.base, dtype=torch.float32)
    model: Any = load_trained(lab.base, sft.folder(), dtype=torch.float32)
    whole = model.merge_and_unload(safe_merge=True)
    for end in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(each, end)().weight for each in (plain, whole))
        moved = (after - before).abs().amax(1) > 0
        assert moved[ids].all(), end
        assert bool(moved[: ids[0]].any()) == (kind == "modules_to_save"), end

    dpo = run(lab.dpo_job(lab.preferences(), sft))
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the reference must be the SFT adapter"
    assert read_adapter_contract(dpo.folder()).lora == contract.lora
    # both adapters on one base in memory: each answers as it does merged
    monkeypatch.setattr("resources.generator.is_quantised", lambda _: True)  # otherwise float32 would be merged
    together = Generator(lab.base, {"sft": sft.folder(), "dpo": dpo.folder()}, choose("cpu", "float32"))
    chats = [build_messages(PROMPT, row["question"], row["context"]) for row in map(instruction, range(20, 23))]
    for name, adapter in (("sft", sft), ("dpo", dpo)):
        target = tmp_path / name
        assert merge_adapter(adapter.folder(), lab.base, target).adapter_effect > 0
        alone = Generator(target, {}, choose("cpu", "float32"))
        assert greedy(together, name, chats, 8) == greedy(alone, "base", chats, 8)
        saved: Any = load_weights(target, dtype=torch.float32)
        assert (saved.get_output_embeddings().weight != plain.get_output_embeddings().weight)[ids].any(1).all()


def test_names_and_tokens_that_the_model_lacks_are_refused(lab: Any, refused_codes: Any) -> None:
    splits = lab.instructions()
    missing = {"modules_to_save": ["lm_heads"]}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora=missing))) == {"FT-TRAIN-065"}
    shared = {"modules_to_save": ["embed_tokens"]}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora=shared))) == {"FT-TRAIN-075"}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora={"train_tokens": ["<cite>"]}))) == {"FT-TRAIN-074"}


def load(base: Path, **lora: object) -> Any:
    settings = SftSettings.model_validate({"base_model": str(base), "lora": {"dropout": 0, **lora}})
    return load_model(base, settings, Compute("cpu", "float32"), None, longest=64)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_both_ends_learn_from_the_head_that_is_used_on_gpus(
    tiny_base: Path, tmp_path: Path, tied: bool
) -> None:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    base = shutil.copytree(tiny_base, tmp_path / "base")
    if not tied:
        untie(base)
    model = load(base, train_tokens=["A", "B"])
    add_fused_lm_head(model.get_base_model())
    ids = torch.arange(64).reshape(2, 32)
    found: list[list[float]] = []
    for options in ({}, {"fused_lm_head": True}):
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids, **options).loss
        loss.backward()
        rows = [rows.grad.norm() for name, rows in model.named_parameters() if "trainable_tokens_delta" in name]
        assert len(rows) == (1 if tied else 2)
        found.append([float(loss.detach()), *map(float, rows)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert min(found[0]) > 0


def other_model(kind: str, tokenizer: Path, folder: Path) -> Path:
    """Write a small model of another architecture with this tokenizer."""
    import transformers

    shutil.copytree(tokenizer, folder)
    made: Any = transformers
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(made, f"{kind}Config")(vocab_size=320, **sizes)
    getattr(made, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "lora",
    [
        {"modules_to_save": ["embed_in"]},
        {"modules_to_save": ["lm_head"]},
        {"targets": ["query_key_value", "embed_in"]},
        {"targets": ".*head"},
    ],
)
def test_tokens_of_a_module_that_another_key_trains_are_refused(
    tiny_base: Path, tmp_path: Path, refused_codes: Any, lora: dict[str, Any]
) -> None:
    base = other_model("GPTNeoX", tiny_base, tmp_path / "base")
    assert refused_codes(lambda: load(base, train_tokens=["A"], **lora)) == {"FT-TRAIN-076"}


def test_tokens_of_a_head_with_a_bias_are_refused(tiny_base: Path, tmp_path: Path, refused_codes: Any) -> None:
    base = other_model("Phi", tiny_base, tmp_path / "base")
    assert refused_codes(lambda: load(base, train_tokens=["A"])) == {"FT-TRAIN-076"}


def test_the_shape_of_an_adapter_names_the_tokens_of_all_modules() -> None:
    from resources.trained_model import shape_of

    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    for tokens in ([7, 5], {"embed_tokens": [7, 5], "lm_head": [5]}):
        assert shape_of({**config, "trainable_token_indices": tokens}).train_tokens == [5, 7]
    assert shape_of(config).train_tokens == []
