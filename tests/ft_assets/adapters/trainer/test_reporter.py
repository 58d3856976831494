from __future__ import annotations

from typing import Any

import pytest

from expectations.violations import Refused
from ft_assets.adapters import train
from resources.telemetry import read_curves, read_metrics
from tests.ft_assets.adapters.tiny_llm import instruction


def test_every_step_logs_throughput_memory_and_the_change_of_the_weights(trained: Any) -> None:
    for artifact in trained[1:]:
        steps = [record for record in read_metrics(artifact.file("metrics.jsonl")) if record["phase"] == "train"]
        assert len(steps) == 6
        for record in steps:
            assert record["tokens_per_second"] > 0
            assert 0 <= record["data_share"] < 1
            assert record["rss_gib"] > 0.1
            assert record["weight_norm"] > 0
        # a cosine that ends at 0: the last step hardly changes any weight
        assert steps[1]["update_ratio"] > 2 * steps[-1]["update_ratio"] > 0


def test_curves_contain_the_figures_of_an_asset_page(trained: Any) -> None:
    _, sft, dpo = trained
    assert {"loss", "eval_loss", "grad_norm", "learning_rate", "tokens_per_second"} <= read_curves(
        sft.file("metrics.jsonl")
    ).keys()
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")}
    assert rewards | {"logps/chosen", "logps/rejected"} <= read_curves(dpo.file("metrics.jsonl")).keys()


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_a_loss_that_is_not_finite_names_step_checkpoint_and_rows(lab: Any, packing: bool) -> None:
    from transformers import TrainerCallback

    def spoil(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            next(p for p in kwargs["model"].parameters() if p.requires_grad).data.fill_(float("nan"))

    rows = [instruction(n) for n in range(4)]  # each step has all of them
    packed = {"packing": True, "global_batch_size": 1, "micro_batch_size": 1, "max_length": 512} if packing else {}
    job = lab.sft_job(lab.instructions(rows), save_steps=2, max_steps=6, **packed)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused) as caught:
        patch.setattr(TrainerCallback, "on_step_begin", spoil)
        train.main(job)
    text = str(caught.value)
    assert "FT-TRAIN-010" in text
    assert "Step 5 is not finite" in text
    assert "kept: checkpoint-4" in text
    assert all(f"questions.jsonl:{n + 1} (q{n})" in text for n in range(4))
    artifact = train.main(job)  # the kept checkpoint is good
    assert artifact.summary["steps"] == 6


def test_tensorboard_gets_the_same_figures_where_it_is_installed(lab: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    artifact = train.main(lab.sft_job(lab.instructions()))
    board = accumulator.EventAccumulator(str(lab.state / "runs/sft_adapter/tensorboard"))
    board.Reload()
    logged = {event.step: event.value for event in board.Scalars("train/loss")}
    losses = {r["step"]: r["loss"] for r in read_metrics(artifact.file("metrics.jsonl")) if "loss" in r}
    assert logged == pytest.approx(losses)
