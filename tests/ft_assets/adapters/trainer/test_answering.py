"""Questions that the model in training answers: the figures, and the weights that they choose or leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from expectations.rules.answer_scores import score
from ft_assets.adapters import train
from ft_assets.adapters.assets import material_of
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.prompt import build_messages
from ft_assets.adapters.trainer.answering import questions_of
from ft_assets.adapters.trainer.best import ended_early
from ft_assets.config.model import SftSettings
from ft_assets.graph.gates import Evidence, judge
from resources.accelerator import Compute
from resources.artifacts import Artifact
from resources.generator import Generator
from resources.launcher import Job
from resources.releases import Releases
from resources.telemetry import read_metrics
from tests.ft_assets.adapters.tiny_llm import PROMPT, greedy, instruction, preference, verdict

ADAPTER = "adapter/adapter_model.safetensors"
# learns in the first half to answer "N 比特", and goes on to learn the numbers of its own rows
LEARNS = {
    "max_steps": 16, "learning_rate": 2e-2, "eval_steps": 2, "save_steps": 100, "lora": {"dropout": 0},
    "scheduler": "constant", "checkpoint": "best", "best_by": "f1", "eval_answers": 3,
}  # fmt: skip


def run(job: Job, name: str) -> Artifact:
    """Train in a run folder of its own."""
    return train.main(msgspec.structs.replace(job, run_dir=f"{job.run_dir}-{name}"))


def evaluations(artifact: Artifact) -> dict[int, dict[str, float]]:
    return {r["step"]: r for r in read_metrics(artifact.file("metrics.jsonl")) if "eval_loss" in r}


def log(*figures: tuple[float, float]) -> list[dict[str, Any]]:
    """A log of evaluations with these exact matches and losses."""
    return [{"step": 2 * n + 2, "eval_exact_match": em, "eval_loss": loss} for n, (em, loss) in enumerate(figures)]


def test_of_equal_answers_the_lower_loss_is_better() -> None:
    falling = log((0.2, 3.0), (0.2, 2.0), (0.2, 2.5))
    assert ended_early(falling, "exact_match", 1)
    assert not ended_early(falling[:2], "exact_match", 1), "the lower loss is better"
    assert not ended_early(log((0.2, 2.0), (0.4, 9.0)), "exact_match", 1), "whatever the loss"
    assert ended_early(log((0.2, 2.0), (0.4, 9.0)), "loss", 1)


def test_the_questions_are_the_first_that_have_a_right_answer() -> None:
    rows = [verdict(n, n % 2 == 0) for n in range(6)]
    questions = questions_of(rows, PROMPT, 2)
    assert questions.golds == ["0 比特", "2 比特"]
    assert questions.chats[0] == build_messages(PROMPT, rows[0]["question"], rows[0]["context"])
    assert questions_of([preference(1)], PROMPT, 5).golds == ["1 比特"], "of a pair the chosen one"
    assert questions_of(rows, PROMPT, 0).golds == []
    assert questions.part(1, 2).golds == ["2 比特"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_by": "f1", "eval_answers": 9}, "checkpoint is `last`: nothing would be chosen by it"),
        ({"best_by": "exact_match", "checkpoint": "best"}, "eval_answers is 0: no question would be answered"),
    ],
)
def test_a_choice_by_answers_needs_a_checkpoint_and_questions(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SftSettings.model_validate({"base_model": "base", **changes})
    assert message in str(caught.value)


def test_the_questions_decide_the_weights_only_where_they_choose_them() -> None:
    best: dict[str, Any] = {"base_model": "m", "checkpoint": "best"}
    by_loss = [material_of(SftSettings(**best, eval_answers=number)) for number in (0, 50)]
    assert by_loss[0] == by_loss[1]
    assert not {"eval_answers", "best_by"} & by_loss[0].keys(), "a recipe of an earlier version must stay as it was"
    by_answers = [material_of(SftSettings(**best, eval_answers=number, best_by="f1")) for number in (20, 50)]
    assert by_answers[0] != by_answers[1]
    assert by_answers[0]["best_by"] == "f1"


@pytest.mark.slow
def test_the_weights_with_the_best_answers_are_published(lab: Any) -> None:
    splits = lab.instructions()
    made = run(lab.sft_job(splits, **LEARNS), "best")
    found = evaluations(made)
    trained = {step: (-record["eval_f1"], record["eval_loss"]) for step, record in found.items() if step}
    best = min(trained, key=lambda step: trained[step])
    summary = made.summary
    assert (summary["best_step"], summary["best_by"]) == (best, "f1")
    assert summary["f1_after"] == found[best]["eval_f1"] > summary["f1_before"] == found[0]["eval_f1"]
    assert summary["exact_match_after"] == found[best]["eval_exact_match"]
    assert summary["answered_questions"] == 3
    assert summary["answer_seconds"] > 0
    assert "| best_by | f1 |" in made.file("README.md").read_text("utf-8")

    # the figures are those of the published adapter, asked as serving asks it
    generator = Generator(lab.base, {"sft": made.folder()}, Compute("cpu", "float32"))
    rows = [instruction(n) for n in range(20, 23)]
    chats = [build_messages(PROMPT, row["question"], row["context"]) for row in rows]
    assert mean_f1(greedy(generator, "sft", chats, 32), rows) == pytest.approx(summary["f1_after"])
    assert mean_f1(greedy(generator, "base", chats, 32), rows) == pytest.approx(summary["f1_before"])

    lab.store.point(made)
    (gate,) = (gate for gate in GATES if gate.name == "answers_hold" and gate.asset == "sft_adapter")
    verdict = judge(gate, Evidence(lab.store, Releases(lab.state / "released"), None))  # pyright: ignore[reportArgumentType]
    assert not verdict.violations
    assert verdict.figures["f1_after"] == summary["f1_after"]

    # DPO starts from these weights, and asks the same questions by its pairs
    dpo = run(lab.dpo_job(lab.preferences(), made, max_steps=1, eval_answers=3), "dpo")
    assert dpo.summary["f1_before"] == summary["f1_after"]


def mean_f1(answers: Sequence[str], rows: Sequence[dict[str, Any]]) -> float:
    return sum(score(text, row["answer"]).f1 for text, row in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.slow
def test_answers_change_no_weight_and_a_killed_run_chooses_the_same(lab: Any, stop_after: Any) -> None:
    splits = lab.instructions()
    short = {**LEARNS, "max_steps": 6, "save_steps": 3}
    silent = run(lab.sft_job(splits, **{**short, "checkpoint": "last", "best_by": "loss", "eval_answers": 0}), "silent")
    asked = run(lab.sft_job(splits, **{**short, "checkpoint": "last", "best_by": "loss"}), "asked")
    assert asked.file(ADAPTER).read_bytes() == silent.file(ADAPTER).read_bytes()
    assert "f1_after" in asked.summary
    assert "f1_after" not in silent.summary

    whole = run(lab.sft_job(splits, **short), "whole")
    killed = lab.sft_job(splits, **short, logging_steps=2)
    with stop_after(5):
        run(killed, "killed")
    resumed = run(killed, "killed")
    assert resumed.summary["best_step"] == whole.summary["best_step"]
    assert resumed.summary["f1_before"] == whole.summary["f1_before"]
    assert resumed.file(ADAPTER).read_bytes() == whole.file(ADAPTER).read_bytes()
