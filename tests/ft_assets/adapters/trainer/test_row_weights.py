"""Every token or pair counts the same in a validation figure and in a step, whatever the batches and the processes."""

# torch and safetensors are untyped here
# pyright: basic
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.row_weights import Counts, ScoredBatch, average, share_out
from resources.artifacts import Artifact
from resources.launcher import Job
from resources.telemetry import read_curves, read_metrics
from tests.ft_assets.adapters.test_torchrun_training import elsewhere, finish
from tests.ft_assets.adapters.tiny_llm import instruction, preference, publish_splits, verdict

# a rate at which different gradients are different weights, and rounding is not
GENTLE = {"learning_rate": 1e-3, "lora": {"dropout": 0}}
PAIRS = {"learning_rate": 1e-2, "epochs": 1}


def alone(job: Job) -> Artifact:
    """Train in a run folder of its own."""
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{job.recipe.id}"))


def weights(artifact: Artifact) -> Any:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(artifact.file("adapter/adapter_model.safetensors"))
    return torch.cat([tensor.flatten() for _, tensor in sorted(tensors.items())])


def evaluations(artifact: Artifact) -> list[dict[str, float]]:
    return [
        {name: value for name, value in record.items() if isinstance(value, float) and name.startswith("eval_")}
        for record in read_metrics(artifact.file("metrics.jsonl"))
        if record["phase"] == "eval"
    ]


def assert_equal(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-5)


@pytest.mark.parametrize(("rows", "most", "processes"), [(7, 2, 2), (24, 8, 2), (5, 4, 3), (1, 4, 2), (10, 3, 4)])
def test_every_row_is_scored_and_batches_of_a_round_have_one_size(rows: int, most: int, processes: int) -> None:
    shares = [share_out(rows, most, rank, processes) for rank in range(processes)]
    own_rounds = shares[0][1]
    batches = [list(map(list, each)) for each, _ in shares]
    for together in zip(*batches, strict=True):
        assert len(set(map(len, together))) == 1
        assert 1 <= len(together[0]) <= most
    own = list(itertools.chain.from_iterable(itertools.chain.from_iterable(each[:own_rounds] for each in batches)))
    shared = list(itertools.chain.from_iterable(batches[0][own_rounds:]))
    assert sorted(own + shared) == list(range(rows))
    assert all(each[own_rounds:] == batches[0][own_rounds:] for each in batches)


def test_a_shared_batch_counts_once_and_tokens_weigh_what_is_by_token() -> None:
    first = [ScoredBatch(Counts(2, 10, 4), {"loss": 1.0, "rewards/margins": 1.0, "entropy": 1.0})]
    second = [ScoredBatch(Counts(2, 30, 4), {"loss": 1.0, "rewards/margins": 1.0, "entropy": 2.0})]
    shared = ScoredBatch(Counts(1, 20, 4), {"loss": 6.0, "rewards/margins": 6.0, "entropy": 3.0})
    means = average([[*first, shared], [*second, shared]], by_tokens=False, own_rounds=1)
    assert means == {"loss": 2.0, "rewards/margins": 2.0, "entropy": (10 + 60 + 60) / 60}
    by_tokens = average([[*first, shared], [*second, shared]], by_tokens=True, own_rounds=1)
    assert by_tokens["loss"] == (4 + 4 + 24) / 12


def splits_of(lab: Any, rows: Any, asset: str) -> Artifact:
    """11 rows to train on and 7 to validate: both leave an incomplete batch. Answers have many lengths."""
    parts = {"train": rows(range(11)), "validation": rows(range(20, 27)), "test": rows(range(30, 32))}
    return publish_splits(lab.store, asset, parts)


def instructions(lab: Any) -> Artifact:
    return splits_of(
        lab, lambda ns: [instruction(n, answer=f"{n} 比特" * (1 + n % 4) ** 2) for n in ns], "instruction_splits"
    )


def pairs(lab: Any) -> Artifact:
    return splits_of(lab, lambda ns: [preference(n, chosen=f"{n} 比特" * (1 + n % 3)) for n in ns], "preference_splits")


def verdicts(lab: Any) -> Artifact:
    return splits_of(lab, lambda ns: [verdict(n, n % 4 != 0) for n in ns], "unpaired_preference_splits")


@pytest.mark.slow
def test_the_validation_loss_of_sft_is_that_of_all_tokens(lab: Any) -> None:
    rows = instructions(lab)
    job = lab.sft_job(rows, **GENTLE, epochs=1, global_batch_size=8, micro_batch_size=1)
    one = evaluations(alone(job))
    for micro in (2, 4, 8):
        other = lab.sft_job(rows, **GENTLE, epochs=1, global_batch_size=8, micro_batch_size=micro)
        assert_equal(evaluations(alone(other)), one)
    two = lab.sft_job(rows, **GENTLE, epochs=1, global_batch_size=8, micro_batch_size=4)
    assert evaluations(finish(elsewhere(two, "two")))[0] == pytest.approx(one[0], abs=2e-5)


@pytest.mark.slow
def test_an_evaluation_that_continues_with_smaller_batches_has_the_same_loss(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    job = lab.sft_job(instructions(lab), **GENTLE, epochs=1, global_batch_size=4, micro_batch_size=4)
    whole = evaluations(alone(job))
    loop = Trainer.evaluation_loop

    def run_out(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.args.per_device_eval_batch_size > 2:
            raise torch.OutOfMemoryError("the device is full")
        return loop(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "evaluation_loop", run_out)
    other = lab.sft_job(instructions(lab), **GENTLE, epochs=1, global_batch_size=4, micro_batch_size=4, logging_steps=2)
    smaller = alone(other)
    assert "batches of 2" in " ".join(smaller.summary["events"])
    assert_equal(evaluations(smaller), whole)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "sft", "orpo"])
def test_the_micro_batch_changes_neither_weights_nor_figures_of_dpo(trained: Any, loss: str) -> None:
    lab, sft, _ = trained
    rows = pairs(lab)
    made = [
        alone(lab.dpo_job(rows, sft, **PAIRS, loss=loss, micro_batch_size=micro, precompute_reference=False))
        for micro in (1, 2, 4)
    ]
    for other in made[1:]:
        assert_equal(evaluations(other), evaluations(made[0]))
        assert float((weights(other) - weights(made[0])).abs().max()) < 1e-4
        curves = [read_curves(each.file("metrics.jsonl"))["loss"] for each in (other, made[0])]
        assert curves[0] == pytest.approx(curves[1], abs=2e-5)


@pytest.mark.slow
def test_the_micro_batch_does_not_change_the_weights_of_kto(trained: Any) -> None:
    lab, sft, _ = trained
    rows = verdicts(lab)
    made = [alone(lab.dpo_job(rows, sft, **PAIRS, loss="kto", micro_batch_size=micro)) for micro in (1, 2)]
    for name in ("eval_loss_after", "reward_margin_after"):
        assert made[1].summary[name] == pytest.approx(made[0].summary[name], abs=2e-5), name
    assert float((weights(made[1]) - weights(made[0])).abs().max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_two_processes_have_the_validation_figures_of_one(trained: Any, lab: Any, loss: str, tmp_path: Path) -> None:
    theirs, sft, _ = trained
    rows = verdicts(theirs) if loss == "kto" else pairs(theirs)
    job = theirs.dpo_job(rows, sft, learning_rate=5e-3, max_steps=2, loss=loss)
    job = msgspec.structs.replace(job, run_dir=str(tmp_path / "runs/dpo_adapter"))
    one, two = train.main(elsewhere(job, "one")), finish(elsewhere(job, "two"))
    for found, expected in zip(evaluations(two), evaluations(one), strict=True):
        names = [name for name in expected if "logits" not in name and "entropy" not in name and "token" not in name]
        assert "eval_loss" in names
        assert [found[name] for name in names] == pytest.approx([expected[name] for name in names], abs=1e-3)
