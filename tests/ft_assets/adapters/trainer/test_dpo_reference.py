from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.dpo_reference import is_wanted
from ft_assets.config.model import DpoSettings
from resources.artifacts import Artifact
from resources.telemetry import read_metrics
from tests.ft_assets.adapters.tiny_llm import preference


@pytest.fixture
def dpo(trained: Any, tmp_path: Path) -> Any:
    """A function that trains DPO from the session's SFT adapter in a run folder of its own."""
    lab, sft, _ = trained

    def run(rows: list[dict[str, Any]] | None = None, **settings: Any) -> Artifact:
        job = lab.dpo_job(lab.preferences(rows), sft, **settings)
        folder = tmp_path / job.recipe.id
        return train.main(msgspec.structs.replace(job, run_dir=str(folder)))

    return run


def records(artifact: Artifact, phase: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(artifact.file("metrics.jsonl")) if record["phase"] == phase]


def figures(artifact: Artifact) -> list[float]:
    names = ("loss", "eval_loss", "rewards/chosen", "eval_rewards/margins")
    return [
        record[name] for phase in ("train", "eval") for record in records(artifact, phase) for name in names
        if name in record
    ]  # fmt: skip


def test_losses_and_rewards_are_the_same_with_and_without_precomputing(trained: Any, dpo: Any) -> None:
    _, _, kept = trained
    assert records(kept, "reference"), "`auto` computes it for a run that sees every pair"
    every_step = dpo(precompute_reference=False)
    assert not records(every_step, "reference")
    assert len(figures(every_step)) > 10
    assert figures(every_step) == pytest.approx(figures(kept), abs=1e-4)


def test_a_run_with_another_learning_rate_computes_no_reference_again(trained: Any, dpo: Any) -> None:
    lab, sft, _ = trained
    dpo(epochs=1)  # other tests of this session may have trained so often that the first reference was deleted
    versions = lab.store.versions("dpo_reference")
    assert {"sft_adapter": sft.data_version} in [version.manifest.recipe.inputs for version in versions]
    other = dpo(learning_rate=3e-3, beta=0.2, loss="ipo", epochs=1)
    assert not records(other, "reference")
    assert [v.recipe_id for v in lab.store.versions("dpo_reference")] == [v.recipe_id for v in versions]


@pytest.mark.slow
def test_other_pairs_and_a_damaged_file_are_computed_again(trained: Any, dpo: Any) -> None:
    lab, _, _ = trained
    before = {version.recipe_id for version in lab.store.versions("dpo_reference")}
    rows = [preference(n) for n in range(40, 48)]
    first = dpo(rows, epochs=1)
    assert records(first, "reference")[-1]["step"] == 12, "8 pairs to train on, 4 to validate"
    (made,) = {v.recipe_id: v for v in lab.store.versions("dpo_reference") if v.recipe_id not in before}.values()
    path = made.path / "reference.parquet"
    path.write_bytes(path.read_bytes()[:-7] + b"altered")
    second = dpo(rows, epochs=1, learning_rate=2e-3)
    assert records(second, "reference")
    (again,) = (v for v in lab.store.versions("dpo_reference") if v.recipe_id == made.recipe_id)
    assert again.verify() == []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"epochs": 1}, True),
        ({"epochs": 0.5}, False),
        ({"max_steps": 12, "global_batch_size": 8}, False),
        ({"max_steps": 13, "global_batch_size": 8}, True),
        ({"max_steps": 1, "precompute_reference": True}, True),
        ({"epochs": 9, "precompute_reference": False}, False),
    ],
)
def test_auto_computes_it_when_the_run_sees_every_one_of_100_pairs(changes: dict[str, Any], wanted: bool) -> None:
    assert is_wanted(DpoSettings.model_validate({"base_model": "base", **changes}), 100) is wanted
