"""Training: it changes both heads, lowers the loss, and never uses a right passage as a negative."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from expectations.contracts.embedding import probe_drift
from expectations.rules.bootstrap import Interval
from expectations.violations import Refused
from ft_assets.embedding.assets import _unused
from ft_assets.embedding.jobs import EpochFigures, ModelSummary
from ft_assets.embedding.model import HEAD_FILE, HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.ranked import Ranked, RankedCorpus
from ft_assets.embedding.train import (
    EncoderTraining,
    _batches_of_epoch,
    _draw_judged,
    _mask_twins,
    batch_lexical_scores,
    changed_share,
    copy_parameters,
    forward_in_parts,
    hybrid_loss,
    main,
    train,
)
from resources.accelerator import Compute
from resources.artifacts import Recipe
from resources.launcher import Job
from resources.telemetry import Metrics
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")


@pytest.mark.parametrize(("distil", "smaller"), [(True, []), (False, [32, 64])])
def test_training_changes_both_heads_and_lowers_the_loss(  # noqa: PLR0917
    base: Path, questions: Questions, passages: Passages, tmp_path: Path, distil: bool, smaller: list[int]
) -> None:
    wanted = settings(self_distill=distil, matryoshka=smaller)
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    before = copy_parameters(encoder)
    losses = train(encoder, questions, passages, wanted, Metrics(tmp_path)).losses
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert changed_share(encoder, before) > 0.9
    assert not torch.equal(before["head.linear.weight"], encoder.head.linear.weight.detach())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [record["loss"] for record in records] == losses
    assert {"dense", "sparse", "fused", "learning_rate", "gradient_norm"} <= records[0].keys()
    assert records[-1]["learning_rate"] < records[1]["learning_rate"]


def test_the_same_seed_trains_the_same_model(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    runs = []
    for name in ("one", "two"):
        encoder = HybridEncoder.from_base(base, settings(epochs=1), "1", EXACT)
        runs.append(train(encoder, questions, passages, settings(epochs=1), Metrics(tmp_path / name)).losses)
    assert runs[0] == runs[1]


def test_training_stops_at_a_loss_that_is_not_finite(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    encoder.head.linear.bias.data.fill_(float("nan"))
    with pytest.raises(Refused, match="FT-EMB-011"):
        train(encoder, questions, passages, settings(), Metrics(tmp_path))


def test_one_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    job = Job(recipe=Recipe("embedding_model", "1"), store=str(tmp_path), run_dir=str(tmp_path), params={})
    with pytest.raises(Refused, match="FT-EMB-026"):
        main(job)


def test_nothing_to_contrast_is_refused(base: Path, passages: Passages, tmp_path: Path) -> None:
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    with pytest.raises(Refused, match="FT-EMB-010"):
        train(encoder, Questions(["1"], ["When?"], [{"pump": 1}], []), passages, settings(), Metrics(tmp_path))


def test_a_batch_never_holds_two_questions_of_one_passage(questions: Questions) -> None:
    batches = list(_batches_of_epoch(questions, 8, Random(1), 1.0))  # noqa: S311
    for batch in batches:
        named = [name for row in batch for name in questions.qrels[row]]
        assert len(named) == len(set(named))
    assert sorted(row for batch in batches for row in batch) == list(range(len(questions.ids)))


def test_a_passage_that_answers_too_is_no_negative() -> None:
    passages = Passages(["a", "b", "c"], ["d"] * 3, ["x", "y", "x"], ["1", "2", "1"])
    questions = Questions(["p", "q", "r"], ["?", "!", "."], [{"a": 1, "b": 1}, {"b": 1}, {"c": 1}], [])
    mask = _mask_twins([0, 1, 2], ["a", "b", "c"], questions, RankedCorpus(passages, [questions]))
    # p is answered by b too, and c has the text of a
    assert mask.tolist() == [[False, True, True], [False, False, False], [True, False, False]]


def test_a_twin_counts_nothing_in_the_loss_and_the_distillation_stays_finite() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    twins = torch.zeros(3, 3, dtype=torch.bool)
    twins[0, 1] = True
    lexical = torch.eye(3)
    loss, parts = hybrid_loss(vectors, vectors, lexical, twins, settings())
    moved = lexical.clone()
    moved[0, 1] = 50.0
    other, _ = hybrid_loss(vectors, vectors, moved, twins, settings())
    assert torch.isfinite(loss)
    assert parts["distill"] >= 0
    assert float(other) == pytest.approx(float(loss))


def test_lexical_scores_take_the_largest_weight_of_a_repeated_token() -> None:
    queries, weights = torch.tensor([[5, 7]]), torch.tensor([[1.0, 2.0]])
    passages, theirs = torch.tensor([[7, 7, 9]]), torch.tensor([[0.5, 3.0, 9.0]])
    assert batch_lexical_scores(queries, weights, passages, theirs).tolist() == [[6.0]]


def test_a_batch_in_parts_gives_the_same_rows_as_one_forward(base: Path, passages: Passages) -> None:
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    encoder.head.linear.weight.data.normal_()
    rows = encoder.tokenize([*passages.contents, "pump", "年假"], "passage")
    whole, mask = encoder.pad(rows)
    with torch.no_grad():
        vectors, weights = encoder.forward(whole, mask)
        tokens, in_order, their_weights = forward_in_parts(encoder, rows)
    assert torch.equal(tokens, whole)
    torch.testing.assert_close(in_order, vectors, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(their_weights, weights, atol=1e-5, rtol=1e-4)


def test_a_batch_larger_than_memory_has_the_same_gradients_with_fewer_activations(
    base: Path, passages: Passages
) -> None:
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    rows = encoder.tokenize(passages.contents, "passage")
    encoder.train()  # with dropout: the same units must be dropped when activations are computed again
    gradients: list[dict[str, torch.Tensor]] = []
    kept: list[int] = []
    for at_once in (None, 8):  # on a CPU eight go together anyhow
        size = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _, vectors, weights = forward_in_parts(encoder, rows * 2, at_once)
            loss = (vectors @ vectors.T).exp().sum() + weights.square().sum()
        kept.append(size)
        loss.backward()
        gradients.append(
            {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}
        )
        for _, value in encoder.named_parameters():
            value.grad = None
    assert kept[1] < kept[0] / 10
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_the_number_of_texts_at_once_is_no_part_of_the_recipe() -> None:
    assert "micro_batch_size" in _unused(settings(micro_batch_size=4), judged=True)


def test_a_passage_that_is_judged_wrong_is_a_negative_and_without_one_nothing_changes(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    def losses(negatives: dict[str, list[str]], count: int = 1) -> list[float]:
        encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
        asked = replace(questions, negatives=negatives)
        values = settings(epochs=1, judged_negatives=count, self_distill=False)
        return train(encoder, asked, passages, values, Metrics(tmp_path)).losses

    plain = losses({})
    wrong = {
        name: ["badge" if "badge" not in qrels else "pump"]
        for name, qrels in zip(questions.ids, questions.qrels, strict=True)
    }
    assert losses(wrong, count=0) == plain
    assert losses(wrong)[0] > plain[0]  # more passages to tell apart, before the first step


def test_judged_negatives_are_drawn_for_the_queries_that_have_some(questions: Questions) -> None:
    asked = replace(questions, negatives={questions.ids[0]: ["badge", "年假"], questions.ids[3]: ["pump"]})
    drawn = _draw_judged([3, 0, 1], asked, 2, Random(1))  # noqa: S311
    assert drawn[0] == "pump" and sorted(drawn[1:]) == ["badge", "年假"]


def test_without_a_lexical_head_the_dense_loss_is_all_and_nothing_of_it_is_saved(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    wanted = settings(lexical_head=False, epochs=2)
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    losses = train(encoder, questions, passages, wanted, Metrics(tmp_path)).losses
    record = json.loads((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()[0])
    assert record["dense"] == record["loss"] == losses[0]
    assert "sparse" not in record
    contract = encoder.save(tmp_path)
    assert contract.sparse.head_sha256 is None
    assert not (tmp_path / HEAD_FILE).exists()
    again = HybridEncoder.load(tmp_path, EXACT)
    assert all(len(ids) == 0 for ids, _ in again.encode(passages.contents).sparse)
    assert probe_drift(contract.probes, again.probe()) == []


@pytest.mark.parametrize("name", ["sparse_temperature", "sparse_loss_weight", "head_learning_rate"])
def test_settings_of_the_head_count_only_where_it_is_trained(name: str) -> None:
    assert name in _unused(settings(lexical_head=False), judged=True)
    assert name not in _unused(settings(lexical_head=True), judged=True)


@pytest.mark.parametrize(
    ("change", "first_loss"),
    [
        ({"learning_rate": 1e-4}, False),
        ({"temperature": 0.02}, True),
        ({"batch_size": 4}, True),
        ({"hard_negatives": 1}, True),
        ({"seed": 7}, True),
        ({"warmup_steps": 5}, False),
    ],
    ids=str,
)
def test_a_changed_setting_changes_the_training(  # noqa: PLR0917
    base: Path, questions: Questions, passages: Passages, tmp_path: Path, change: dict[str, float], first_loss: bool
) -> None:
    def losses(**changes: float) -> list[float]:
        wanted = settings(**{"lexical_head": False, "epochs": 1, **changes})
        encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
        return train(encoder, questions, passages, wanted, Metrics(tmp_path / str(changes))).losses

    plain, changed = losses(), losses(**change)
    assert changed != plain
    assert (changed[0] != plain[0]) is first_loss


@pytest.mark.parametrize("head", [False, True])
def test_an_adapter_is_trained_in_place_of_the_weights_and_merged_into_them(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path, head: bool
) -> None:
    asked, held = _halves(questions)
    wanted = settings(lexical_head=head, learning_rate=5e-3, patience=9, lora={"r": 4, "dropout": 0})
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    before = copy_parameters(encoder)
    trained = train(encoder, asked, passages, wanted, Metrics(tmp_path), validation=held)
    assert sum(trained.losses[-3:]) < 0.7 * sum(trained.losses[:3])
    assert before.keys() == dict(encoder.named_parameters()).keys()  # a plain model again
    corpus = RankedCorpus(passages, [asked, held])
    corpus.encode(encoder)
    assert corpus.measure(encoder, held) == trained.epochs[trained.best or 0]
    changed = {name for name, value in encoder.named_parameters() if not torch.equal(value, before[name])}
    assert any("attention" in name for name in changed)
    assert not any("embeddings" in name or "LayerNorm" in name for name in changed)
    assert any(name.startswith("head") for name in changed) is head


def test_the_best_epoch_on_the_validation_questions_is_kept(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    asked, held = _halves(questions)
    wanted = settings(lexical_head=False, epochs=4, patience=9, batch_size=4)
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    trained = train(encoder, asked, passages, wanted, Metrics(tmp_path), validation=held)
    assert len(trained.epochs) == 5
    assert trained.best
    means = [sum(epoch.fused) for epoch in trained.epochs]
    assert means[trained.best] == max(means[1:]) >= means[0]
    corpus = RankedCorpus(passages, [asked, held])
    corpus.encode(encoder)
    assert corpus.measure(encoder, held) == trained.epochs[trained.best]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert sum(record["phase"] == "validate" for record in records) == 5


@pytest.mark.parametrize(
    ("fused", "dense", "best"),
    [
        ([[0.5] * 40, [0.4] * 40, [0.3] * 40], [[0.5] * 40] * 3, 0),  # certainly worse
        ([[1.0] * 40, [0.5, *[1.0] * 39]], [[0.5] * 40] * 2, 1),  # one question is no reason to keep the base model
        ([[0.5] * 40, [0.6] * 40, [0.7] * 40, [0.6] * 40], [[0.5] * 40] * 4, 2),
        ([[0.5] * 40, [0.6] * 40, [0.6] * 40], [[0.5] * 40, [0.5] * 40, [0.6] * 40], 2),  # equal: the dense arm decides
        ([[0.5] * 40], [[0.5] * 40], None),
        ([], [], None),
    ],
    ids=["harm", "chance", "best", "tie", "only the base", "no questions"],
)
def test_the_epoch_that_is_kept(fused: list[list[float]], dense: list[list[float]], best: int | None) -> None:
    epochs = [Ranked(dense=d, fused=f) for d, f in zip(dense, fused, strict=True)]
    assert EncoderTraining([], epochs).best == best


@pytest.mark.parametrize(
    ("gain", "best", "words"),
    [
        (Interval(0.02, 0.01, 0.03, 90), 2, "epoch 2 of 2 is kept; certainly better than the base model"),
        (Interval(0.02, -0.01, 0.05, 9), 1, "epoch 1 of 2 is kept; better than the base model, maybe by chance"),
        (Interval(-0.01, -0.03, 0.01, 9), 1, "epoch 1 of 2 is kept; no epoch is better than the base model"),
        (Interval(-0.2, -0.3, -0.1, 90), 0, "the base model is kept; no epoch is better"),
        (None, None, "no validation questions: the last epoch is kept"),
    ],
)
def test_the_summary_says_what_was_kept_and_how_certain_the_gain_is(
    gain: Interval | None, best: int | None, words: str
) -> None:
    figures = [EpochFigures(epoch=n, fused_ndcg_at_10=0.5, dense_ndcg_at_10=0.5) for n in range(3)]
    summary = ModelSummary(
        questions=9, best_epoch=best, gain=gain, epochs=figures, unresolved=0, steps=6, loss_first=1.0, loss_last=0.5,
        non_finite_losses=0, parameters_changed=1.0, dimension=128, device="cpu", dtype="float32",
    )  # fmt: skip
    assert words in summary.choice


def test_a_training_that_only_does_harm_stops_and_leaves_the_base_model(
    base: Path, questions: Questions, passages: Passages, tmp_path: Path
) -> None:
    # words that no passage has: BM25 cannot help
    words = {"guests": "badge", "payment": "invoice", "liquids": "valve", "leave of absence": "holiday",
             "computer storage": "backup"}  # fmt: skip
    held = Questions(list(words), list(words), [{name: 1} for name in words.values()], [])
    wanted = settings(lexical_head=False, epochs=9, patience=2, learning_rate=0.3)
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    before = copy_parameters(encoder)
    trained = train(encoder, questions, passages, wanted, Metrics(tmp_path), validation=held)
    assert trained.best == 0
    assert len(trained.epochs) == 3
    assert changed_share(encoder, before) == 0.0


def _halves(questions: Questions) -> tuple[Questions, Questions]:
    """Return one question of each passage, and the other ones."""

    def take(rows: range) -> Questions:
        columns = (questions.ids, questions.texts, questions.qrels)
        ids, texts, qrels = ([column[row] for row in rows] for column in columns)
        return Questions(ids, texts, qrels, [])  # pyright: ignore[reportArgumentType]

    return take(range(0, len(questions.ids), 2)), take(range(1, len(questions.ids), 2))
