"""DPO without SFT: from the base, and from an adapter in a folder."""

# torch, peft and safetensors are untyped here
# pyright: basic
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from ft_assets.adapters.export.export import export
from resources.artifacts import Artifact
from resources.trained_model import read_adapter_contract

from .tiny_llm import build_base

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 5e-3, "epochs": 3}


def run(lab: Any, start: str, **changes: Any) -> Artifact:
    job = lab.dpo_job(lab.preferences(), None, start=start, **{**FAST, **changes})
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{job.recipe.id}"))


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_a_new_adapter_on_the_base_has_the_base_as_its_reference(lab: Any, loss: str) -> None:
    made = run(lab, "base", loss=loss, lora={"r": 4, "alpha": 8, "dropout": 0})
    summary = made.summary
    assert summary["eval_loss_before"] == pytest.approx(0.5 if loss == "kto" else 0.6931, abs=1e-3)
    assert summary["reward_margin_after"] > 0.1
    contract = read_adapter_contract(made.path)
    assert contract.lora is not None and (contract.lora.r, contract.lora.alpha) == (4, 8)
    assert set(made.manifest.recipe.inputs) == {"preference_splits"}
    (reference,) = lab.store.versions("dpo_reference")
    assert reference.manifest.recipe.inputs == {}


def test_every_weight_of_the_base_can_be_trained(lab: Any) -> None:
    made = run(lab, "base", method="full", learning_rate=1e-4)
    assert made.summary["reward_margin_after"] > 0 and (made.path / "model").is_dir()


def test_an_exported_adapter_is_continued_in_its_own_shape(trained: Any, lab: Any, tmp_path: Path) -> None:
    theirs, sft, _ = trained
    export(sft, tmp_path / "export", theirs.store)
    for folder in (tmp_path / "export", tmp_path / "export" / "adapter"):
        made = run(lab, str(folder), save_steps=len(folder.parts))
        assert made.summary["eval_loss_before"] == pytest.approx(0.6931, abs=1e-4), "the adapter is the reference"
        assert made.summary["reward_margin_after"] > 0.1
        assert read_adapter_contract(made.path).lora == read_adapter_contract(sft.path).lora
    other = build_base(tmp_path / "other", seed=7)
    with pytest.raises(Refused, match=r"FT-ADP-001.*weights_sha256"):
        run(lab, str(tmp_path / "export"), base_model=str(other))


def test_a_plain_adapter_of_peft_is_continued(trained: Any, lab: Any, tmp_path: Path) -> None:
    _, sft, _ = trained
    plain = shutil.copytree(sft.folder("adapter"), tmp_path / "plain")
    assert run(lab, str(plain)).summary["reward_margin_after"] > 0.1


def test_a_folder_without_an_adapter_is_refused_by_name(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"FT-TRAIN-070.*dpo\.start.*adapter_model\.safetensors"):
        run(lab, str(tmp_path))
