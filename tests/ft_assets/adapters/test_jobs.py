"""The parameters and summaries of the workers: strict jobs, and manifests with the same keys as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.rules.answer_scores import read_reply
from ft_assets.adapters.jobs import AnswerSummary, EvaluateParams, TrainParams, TrainSummary
from ft_assets.adapters.score_answers import measure, summarise
from resources.artifacts import Recipe
from resources.launcher import Job

from .tiny_llm import evaluate_params

FIGURES: dict[str, Any] = {
    "steps": 6, "eval_loss_before": 2.0, "eval_loss_after": 1.0, "train_loss_first": 2.0, "train_loss_last": 1.0,
    "max_abs_adapter_delta": 0.1, "trainable_parameters": 10, "rows": 12, "validation_rows": 4,
    "supervised_tokens": 50, "device": "cpu", "dtype": "float32",
}  # fmt: skip


def job(tmp_path: Path, params: dict[str, Any]) -> Job:
    return Job(recipe=Recipe("adapter_evaluation", "1"), store=str(tmp_path), run_dir=str(tmp_path), params=params)


def test_a_job_with_an_unknown_or_a_missing_parameter_is_refused_by_name(tmp_path: Path) -> None:
    params = evaluate_params(tmp_path, tmp_path / "base", {"sft": ("sft_adapter", "0" * 16)}, max_new_tokens=4)
    assert job(tmp_path, params).params_as(EvaluateParams).answer_settings().max_new_tokens == 4
    with pytest.raises(msgspec.ValidationError, match="extra"):
        job(tmp_path, {**params, "extra": 1}).params_as(EvaluateParams)
    with pytest.raises(msgspec.ValidationError, match="compute"):
        job(tmp_path, {"models": params["models"], "answers": {}}).params_as(EvaluateParams)
    with pytest.raises(msgspec.ValidationError, match="models"):
        job(tmp_path, params).params_as(TrainParams)


def test_a_manifest_has_rewards_only_after_dpo_and_older_ones_without_events_are_read() -> None:
    sft = msgspec.convert(FIGURES, TrainSummary)
    assert msgspec.to_builtins(sft) == {**FIGURES, "events": [], "seconds": 0.0}
    rewards = {f"reward_{name}_{time}": 0.5 for name in ("accuracy", "margin") for time in ("before", "after")}
    dpo = msgspec.convert({**FIGURES, **rewards}, TrainSummary)
    assert dpo.figures("reward_") == rewards and sft.figures("reward_") == {}


def test_the_manifest_of_an_evaluation_has_the_means_as_flat_figures() -> None:
    replies = {"base": [read_reply("128"), read_reply("64")], "dpo": [read_reply("128"), read_reply("256")]}
    manifest = summarise(measure(replies, ["128", "256"]), seed=1).as_manifest()
    assert manifest["questions"] == 2 and (manifest["f1_base"], manifest["f1_dpo"]) == (0.5, 1.0)
    assert manifest["intervals"]["dpo"]["f1"]["mean"] == 1.0
    assert manifest["differences"]["dpo-base"]["f1"]["mean"] == 0.5
    assert "evidence_hit_rate" not in manifest
    assert msgspec.convert(manifest, AnswerSummary) == summarise(measure(replies, ["128", "256"]), seed=1)
