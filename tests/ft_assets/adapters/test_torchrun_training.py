"""Adapter training in two gloo processes: equal losses, checkpoints resume in one or two processes, none is left."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ft_assets.adapters import train
from ft_assets.adapters.trainer.checkpoints import checkpoints, find_damage
from resources.launcher import read_failure
from tests.ft_assets.adapters.processes import (
    elsewhere,
    figures,
    finish,
    losses,
    start,
    stop_after,
    wait_for_none,
    wait_for_step,
)
from tests.ft_assets.adapters.tiny_llm import verdict

pytestmark = pytest.mark.slow

# long enough to be stopped in the middle; without dropout, whose random numbers are each process's own
LONG = {
    "epochs": 100,
    "max_steps": 40,
    "save_steps": 5,
    "eval_steps": 20,
    "learning_rate": 1e-3,
    "lora": {"dropout": 0},
}

ANSWERS = ("answered_questions", "exact_match_before", "f1_before", "exact_match_after", "f1_after")


def test_two_processes_train_as_one_with_twice_the_micro_batch(lab: Any, trained: Any) -> None:
    # Adam makes a whole step of rounding noise where a gradient is nearly zero: small steps keep the curves comparable
    # three questions: one process answers two of them
    job = lab.sft_job(lab.instructions(), lora={"dropout": 0}, micro_batch_size=4, learning_rate=1e-3, eval_answers=3)
    one = train.main(elsewhere(job, "one"))
    halved = {**job.params, "settings": {**job.params["settings"], "micro_batch_size": 2}}
    two = finish(elsewhere(msgspec.structs.replace(job, params=halved), "two"))
    assert len(losses(one)) == 6
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert figures(two, "grad_norm") == pytest.approx(figures(one, "grad_norm"), rel=1e-3)
    assert two.summary["steps"] == 6
    assert {name: two.summary[name] for name in ANSWERS} == {name: one.summary[name] for name in ANSWERS}
    assert two.summary["max_abs_adapter_delta"] == pytest.approx(one.summary["max_abs_adapter_delta"], rel=1e-3)

    _, sft, _ = trained
    with lab.store.stage(sft.manifest.recipe) as staging:
        for name in sft.manifest.files:
            (staging.path / name).parent.mkdir(exist_ok=True)
            (staging.path / name).write_bytes(sft.file(name).read_bytes())
        copy = staging.publish()
    pairs = lab.preferences()
    alone = train.main(elsewhere(lab.dpo_job(pairs, copy, micro_batch_size=4, precompute_reference=False), "dpo-one"))
    together = elsewhere(lab.dpo_job(pairs, copy, micro_batch_size=2), "dpo-two")
    assert losses(finish(together)) == pytest.approx(losses(alone), abs=1e-5)
    assert len(together.artifacts().versions("dpo_reference")) == 1


def test_two_processes_train_every_weight_as_one_does(lab: Any) -> None:
    best = {"checkpoint": "best", "eval_steps": 3, "save_steps": 3}
    job = lab.sft_job(lab.instructions(), method="full", learning_rate=1e-4, micro_batch_size=2, **best)
    one = train.main(elsewhere(job, "one"))
    two = finish(elsewhere(job, "two"))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert figures(two, "grad_norm") == pytest.approx(figures(one, "grad_norm"), rel=1e-3)


def test_a_request_to_stop_reaches_every_process(lab: Any) -> None:
    job = elsewhere(lab.sft_job(lab.instructions(), **LONG), "stopped")
    started = start(job)
    wait_for_step(job, started, 3)
    (Path(job.run_dir) / "control.yaml").write_text("stop: true")
    assert started.wait(timeout=180) != 0
    assert "FT-TRAIN-030" in str(read_failure(Path(job.run_dir)))
    assert wait_for_none(job, 30) == []
    newest, *_ = checkpoints(Path(job.run_dir))
    assert find_damage(newest) == []
    assert len(list(newest.glob("rng_state_*.pth"))) == 2


def test_one_process_that_runs_out_of_memory_ends_all_and_the_next_start_takes_the_fallback(lab: Any) -> None:
    job = elsewhere(lab.sft_job(lab.instructions(), **LONG | {"max_steps": 6}), "out-of-memory")
    assert start(job, worker="tests.ft_assets.adapters.runs_out").wait(timeout=180) != 0
    assert "FT-TRAIN-034" in str(read_failure(Path(job.run_dir)))
    assert wait_for_none(job, 30) == []
    artifact = finish(job)
    assert artifact.summary["steps"] == 6
    assert "fallbacks of an earlier start: micro_batch_size 1 (was 2)" in " ".join(artifact.summary["events"])


def test_a_checkpoint_of_two_processes_resumes_in_one_and_the_reverse(lab: Any) -> None:
    job = lab.sft_job(lab.instructions(), **LONG)
    whole = train.main(elsewhere(job, "whole"))

    first_two = elsewhere(job, "two-then-one")
    assert stop_after(first_two, 7, signal.SIGTERM) != 0
    assert wait_for_none(first_two, 30) == []
    (newest, *_) = sorted(Path(first_two.run_dir).glob("checkpoint-*"), key=lambda path: -path.stat().st_mtime)
    assert {path.name for path in newest.glob("rng_state_*.pth")} == {"rng_state_0.pth", "rng_state_1.pth"}
    then_one = train.main(first_two)
    assert losses(then_one) == pytest.approx(losses(whole), abs=1e-4)
    assert then_one.summary["steps"] == 40

    first_one = elsewhere(job, "one-then-two")
    assert stop_after(first_one, 7, signal.SIGTERM, processes=1) != 0
    assert losses(finish(first_one)) == pytest.approx(losses(whole), abs=1e-4)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_cancelling_leaves_no_process_behind(lab: Any, sent: signal.Signals) -> None:
    job = elsewhere(lab.sft_job(lab.instructions(), **LONG, seed=sent), sent.name)
    assert stop_after(job, 2, sent) != 0
    assert wait_for_none(job, 120) == []
    assert job.artifacts().versions("sft_adapter") == []


def test_a_refusal_of_one_process_is_reported_and_every_process_ends(lab: Any, refused_codes: Any) -> None:
    job = elsewhere(lab.sft_job(lab.instructions(), global_batch_size=2, micro_batch_size=2), "refused")
    assert start(job).wait(timeout=120) != 0
    failure = read_failure(Path(job.run_dir))
    assert "FT-TRAIN-050" in str(failure)
    assert wait_for_none(job, 10) == []


def test_kto_in_two_processes_has_the_figures_of_one(trained: Any, lab: Any) -> None:
    theirs, sft, _ = trained
    splits = theirs.verdicts([verdict(n, n % 4 != 0) for n in range(12)])
    job = theirs.dpo_job(splits, sft, loss="kto", learning_rate=5e-3, epochs=3, eval_steps=2)
    job = msgspec.structs.replace(job, run_dir=str(lab.state / "runs/dpo_adapter"))
    alone, together = train.main(elsewhere(job, "one")), finish(elsewhere(job, "two"))
    for name in ("loss", "kl", "rewards/margins"):
        assert figures(together, name) == pytest.approx(figures(alone, name), abs=1e-3), name
    for name in ("eval_loss_after", "reward_margin_after"):
        assert together.summary[name] == pytest.approx(alone.summary[name], rel=1e-2), name
