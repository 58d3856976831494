"""Hard negatives: wrong passages that the model ranks high, and never a right one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from expectations.canonical import text_digest
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.negatives import POOL, mine_negatives
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.ranked import RankedCorpus
from ft_assets.embedding.train import _mask_twins, hybrid_loss, train
from resources.accelerator import Compute
from resources.telemetry import Metrics
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")
NOTHING = (np.empty(0, np.int32), np.empty(0, np.float32))


def corpus(texts: list[str]) -> Passages:
    names = [f"p{n}" for n in range(len(texts))]
    return Passages(names, names, texts, [text_digest(text) for text in texts])


def dense(*rows: list[float]) -> Encoded:
    return Encoded(np.asarray(rows, np.float32), [NOTHING] * len(rows), 0)


def test_the_wrong_passages_that_score_highest_are_mined_and_no_right_one() -> None:
    passages = corpus(["alpha pump", "beta valve", "gamma invoice", "delta badge"])
    questions = Questions(["q", "r"], ["?", "!"], [{"p1": 1, "p3": 2}, {"p0": 1}], [])
    queries, vectors = dense([1.0], [-1.0]), dense([0.2], [0.9], [0.5], [0.8])
    assert mine_negatives(queries, vectors, questions, passages, 0.3) == [[2, 0], [2, 3, 1]]


def test_lexical_scores_count_with_their_weight() -> None:
    passages = corpus(["alpha pump", "beta valve", "gamma invoice"])
    questions = Questions(["q"], ["?"], [{"p0": 1}], [])
    token = np.asarray([7], np.int32)
    queries = Encoded(np.asarray([[1.0]], np.float32), [(token, np.asarray([1.0], np.float32))], 0)
    sparse = [NOTHING, NOTHING, (token, np.asarray([1.0], np.float32))]
    vectors = Encoded(np.asarray([[0.9], [0.5], [0.1]], np.float32), sparse, 0)
    assert mine_negatives(queries, vectors, questions, passages, 0.3) == [[1, 2]]
    assert mine_negatives(queries, vectors, questions, passages, 0.5) == [[2, 1]]


def test_a_text_nearly_equal_to_a_right_one_is_no_negative() -> None:
    right = "员工入职满一年后可享受五天带薪年假，工龄每增加一年增加一天，最多不超过十五天。"
    passages = corpus([right, right.replace("最多", "至多"), "更换滤芯之前要关闭两个阀门并等待十分钟。"])
    questions = Questions(["q"], ["年假有几天？"], [{"p0": 1}], [])
    assert mine_negatives(dense([1.0]), dense([0.9], [0.8], [0.1]), questions, passages, 0.3) == [[2]]


def test_at_most_a_pool_of_negatives_is_kept() -> None:
    passages = corpus([f"number {n} stands alone here as text {n * n}" for n in range(100)])
    questions = Questions(["q"], ["?"], [{"p0": 1}], [])
    vectors = dense(*([1 - n / 100] for n in range(100)))
    assert mine_negatives(dense([1.0]), vectors, questions, passages, 0.3) == [list(range(1, POOL + 1))]


def test_a_hard_negative_of_another_question_counts_unless_it_answers_this_one() -> None:
    passages = corpus(["a", "b", "c"])
    questions = Questions(["q", "r"], ["?", "!"], [{"p0": 1, "p2": 1}, {"p1": 1}], [])
    twins = _mask_twins([0, 1], ["p0", "p1", "p2"], questions, RankedCorpus(passages, [questions]))
    assert twins.tolist() == [[False, False, True], [False, False, False]]
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)

    def loss(scores: list[list[float]]) -> float:
        return float(hybrid_loss(vectors[:2], vectors, torch.tensor(scores), twins, settings())[0])

    plain = loss([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert loss([[1.0, 0.0, 9.0], [0.0, 1.0, 0.0]]) == pytest.approx(plain)
    assert loss([[1.0, 0.0, 0.0], [0.0, 1.0, 0.9]]) > plain


def rivals(passages: Passages, questions: Questions) -> tuple[Passages, Questions]:
    """Return the passages, each with a similar one that no question names, and the questions on them."""
    end = " This holds for the old kind alone, which nobody has bought or sold since the year 1990."
    both = corpus([*passages.contents, *(text[: 2 * len(text) // 3] + end for text in passages.contents)])
    names = dict(zip(passages.ids, both.ids, strict=False))
    return both, replace(questions, qrels=[{names[p]: 1 for p in qrels} for qrels in questions.qrels])


def test_the_first_epoch_has_hard_negatives(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    both, asked = rivals(passages, questions)
    wanted = settings(hard_negatives=1, epochs=1, self_distill=False)
    losses = {}
    for count in (0, 1):
        values = wanted.model_copy(update={"hard_negatives": count})
        encoder = HybridEncoder.from_base(base, values, "1", EXACT)
        losses[count] = train(encoder, asked, both, values, Metrics(tmp_path / str(count))).losses
    first = json.loads((tmp_path / "1/metrics.jsonl").read_text("utf-8").splitlines()[0])
    assert (first["phase"], first["step"]) == ("mine", 0)
    assert losses[1][0] > losses[0][0]  # more passages to tell apart, before the first step


def test_bm25_finds_the_rival_of_each_passage_before_any_training(
    base: Path, questions: Questions, passages: Passages
) -> None:
    both, asked = rivals(passages, questions)
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    for value in encoder.backbone.parameters():
        value.data.normal_(std=0.02)  # it knows nothing
    ranked = RankedCorpus(both, [asked])
    ranked.encode(encoder)
    mined = ranked.mine(encoder, asked)
    right = [ranked.row_of[next(iter(qrels))] for qrels in asked.qrels]
    found = sum(row + len(passages.ids) in wrong[:3] for row, wrong in zip(right, mined, strict=True))
    assert found >= len(mined) // 2


@pytest.mark.slow
def test_hard_negatives_separate_the_right_passage_from_similar_ones(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    both, renamed = rivals(passages, questions)  # only mining puts the similar ones into a batch
    margins = {}
    for count in (0, 1):
        wanted = settings(hard_negatives=count, epochs=8, batch_size=4)
        encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
        train(encoder, renamed, both, wanted, Metrics(tmp_path / str(count)))
        queries, vectors = encoder.encode(renamed.texts, "query").dense, encoder.encode(both.contents).dense
        scores = queries @ vectors.T
        rows = [both.ids.index(next(iter(qrels))) for qrels in renamed.qrels]
        margins[count] = np.mean([s[row] - s[row + len(passages.ids)] for s, row in zip(scores, rows, strict=True)])
    records = [json.loads(line) for line in (tmp_path / "1/metrics.jsonl").read_text("utf-8").splitlines()]
    assert sum(record["phase"] == "mine" for record in records) == 8
    assert margins[1] > margins[0] + 0.05
