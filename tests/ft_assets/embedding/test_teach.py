"""A cross-encoder as the teacher: its scores reach the loss, are computed once, and what is no teacher is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from expectations.violations import Refused
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.teach import Teacher, distilled_loss
from ft_assets.embedding.train import load_teacher, train
from resources.accelerator import Compute
from resources.cross_encoder import load_cross_encoder
from resources.telemetry import Metrics, read_metrics
from tests.ft_assets.embedding.conftest import settings
from tests.ft_assets.retrieval.cross_encoder import build_cross_encoder

EXACT = Compute("cpu", "float32")


def test_dense_scores_that_agree_with_the_teacher_cost_nothing_and_others_do() -> None:
    owners, taught = [0, 1, 0, 1], [2.0, 1.0, 0.0, 3.0]
    dense = torch.tensor([[0.2, 9.0, 0.0, 9.0], [9.0, 0.1, 9.0, 0.3]])  # 9: passages of the other question
    assert float(distilled_loss(dense, owners, taught, 0.1)) == pytest.approx(0.0, abs=1e-6)
    turned = torch.tensor([[0.0, 9.0, 0.2, 9.0], [9.0, 0.1, 9.0, 0.3]], requires_grad=True)
    loss = distilled_loss(turned, owners, taught, 0.1)
    loss.backward()
    assert float(loss) > 0.5
    assert turned.grad is not None and turned.grad[0, 0] < 0 < turned.grad[0, 2]
    assert turned.grad[:, [1, 3]][0].tolist() == [0.0, 0.0]


def test_a_question_with_one_passage_has_nothing_to_learn_from_the_teacher() -> None:
    assert float(distilled_loss(torch.tensor([[0.3, 0.1], [0.2, 0.4]]), [0, 1], [5.0, -5.0], 0.05)) == 0.0


def test_a_pair_is_scored_once() -> None:
    asked: list[tuple[str, str]] = []

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        asked.extend(pairs)
        return np.array([float(len(asked) + n) for n in range(len(pairs))])

    teacher = Teacher(score, Questions(["1"], ["Why?"], [{"a": 1}], []), {"a": "A.", "b": "B."}.__getitem__)
    first = teacher.scores([(0, "a"), (0, "b"), (0, "a")])
    assert first[0] == first[2] != first[1]
    assert teacher.scores([(0, "b"), (0, "a")]) == [first[1], first[0]]
    assert asked == [("Why?", "A."), ("Why?", "B.")]


def test_the_teacher_changes_the_training(base: Path, questions: Questions, passages: Passages, tmp_path: Path) -> None:
    teacher = build_cross_encoder(tmp_path / "teacher")
    scorer = load_cross_encoder(teacher, 64, EXACT)

    def run(weight: float | None) -> tuple[list[float], list[dict[str, float]]]:
        changes = {} if weight is None else {"teacher": {"model": str(teacher), "weight": weight}}
        wanted = settings(lexical_head=False, epochs=1, hard_negatives=2, **changes)
        encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
        folder = tmp_path / str(weight)
        score = None if weight is None else scorer.score
        losses = train(encoder, questions, passages, wanted, Metrics(folder), score=score).losses
        return losses, [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]

    plain, _ = run(None)
    taught, records = run(0.5)
    assert taught[0] > plain[0] and all(record["teacher"] > 0 for record in records)
    assert taught[0] == pytest.approx(plain[0] + 0.5 * records[0]["teacher"], abs=1e-5)


def test_scores_are_those_of_the_head_in_the_order_of_the_pairs(tmp_path: Path) -> None:
    scorer = load_cross_encoder(build_cross_encoder(tmp_path), 64, EXACT)
    pairs = [
        ("When?", "At two."),
        ("Who?", "The north gate, and a longer answer than others."),
        ("为什么?", "因为。"),
    ]
    together, alone = scorer.score(pairs), [float(scorer.score([pair])[0]) for pair in pairs]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert len(set(together.tolist())) == 3
    assert scorer.score([]).tolist() == []


def test_a_model_with_two_scores_or_without_a_head_is_refused(base: Path, tmp_path: Path) -> None:
    for folder in (build_cross_encoder(tmp_path, labels=2), base):
        with pytest.raises(Refused, match="FT-RET-017"):
            load_cross_encoder(folder, 64, EXACT)


def test_a_teacher_without_wrong_passages_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to teach"):
        settings(teacher={"model": "x"}, hard_negatives=0, judged_negatives=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 0}, "teacher is set and epochs is 0"), ({"teacher": {"model": "x", "weight": 0}}, "greater than 0")],
)
def test_a_teacher_that_is_not_heard_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**{"teacher": {"model": "x"}, "hard_negatives": 1, **changes})


def test_a_teacher_without_a_judged_or_mined_wrong_passage_is_refused(questions: Questions, tmp_path: Path) -> None:
    def load(asked: Questions, mined: int) -> object:
        folder = build_cross_encoder(tmp_path)
        wanted = settings(teacher={"model": str(folder), "max_tokens": 64}, hard_negatives=mined)
        return load_teacher(wanted, asked, tmp_path, EXACT)

    with pytest.raises(Refused, match=r"FT-EMB-025.*found 0, expected 'at least 1'.*embedding\.hard_negatives: 1"):
        load(questions, 0)
    assert load(questions, 1) and load(replace(questions, negatives={"0": ["badge"]}), 0)


def test_more_tokens_than_the_model_has_positions_for_are_refused(tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path)  # a BERT: 512
    words = r"FT-RET-018.*max_tokens: found 513, expected 'at most 512'.*embedding\.teacher\.max_tokens"
    with pytest.raises(Refused, match=words):
        load_cross_encoder(folder, 513, EXACT)
    load_cross_encoder(folder, 512, EXACT).score([("Why?", "because " * 600)])
