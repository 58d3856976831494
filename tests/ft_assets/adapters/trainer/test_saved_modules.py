"""Whole modules and rows of the embedding that are trained next to an adapter, and bases with more tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.prompt import build_messages
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
    lab: Any, tmp_path: Path, kind: str, tied: bool
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
    moved = (whole.get_input_embeddings().weight - plain.get_input_embeddings().weight).abs().amax(1) > 0
    assert moved[ids].all()
    assert bool(moved[: ids[0]].any()) == (kind == "modules_to_save")

    dpo = run(lab.dpo_job(lab.preferences(), sft))
    assert dpo.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the reference must be the SFT adapter"
    assert read_adapter_contract(dpo.folder()).lora == contract.lora
    # both adapters on one base in memory: each answers as it does merged
    together = Generator(lab.base, {"sft": sft.folder(), "dpo": dpo.folder()}, choose("cpu", "float32"))
    chats = [build_messages(PROMPT, row["question"], row["context"]) for row in map(instruction, range(20, 23))]
    for name, adapter in (("sft", sft), ("dpo", dpo)):
        target = tmp_path / name
        assert merge_adapter(adapter.folder(), lab.base, target).adapter_effect > 0
        alone = Generator(target, {}, choose("cpu", "float32"))
        assert greedy(together, name, chats, 8) == greedy(alone, "base", chats, 8)


def test_names_and_tokens_that_the_model_lacks_are_refused(lab: Any, refused_codes: Any) -> None:
    splits = lab.instructions()
    missing = {"modules_to_save": ["lm_heads"]}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora=missing))) == {"FT-TRAIN-065"}
    shared = {"modules_to_save": ["embed_tokens"]}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora=shared))) == {"FT-TRAIN-075"}
    assert refused_codes(lambda: run(lab.sft_job(splits, lora={"train_tokens": ["<cite>"]}))) == {"FT-TRAIN-074"}
