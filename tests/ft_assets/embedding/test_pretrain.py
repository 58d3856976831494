"""Training on the corpus' own sentences: the questions it makes, what it changes, and what it leaves as it was."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from expectations.canonical import text_digest
from ft_assets.embedding import ranked
from ft_assets.embedding.assets import _unused
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.pretrain import ask_sentences
from ft_assets.embedding.ranked import Ranked, RankedCorpus
from ft_assets.embedding.train import EncoderTraining, _pretrain, changed_share, copy_parameters, train
from resources.accelerator import Compute
from resources.telemetry import Metrics
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")
TEXTS = {
    "pump": "Pumps\nThe pump is primed before its start. Otherwise the seal runs dry.",
    "年假": "员工满一年后可享受五天带薪年假。未休完的年假可以折算成工资。年假须提前两周申请。",
    "short": "One sentence alone is no question and its answer.",
    "table": "1.\n2.\n3.\n4.",
}
PASSAGES = Passages([*TEXTS], [*TEXTS], [*TEXTS.values()], [text_digest(text) for text in TEXTS.values()])


def test_a_sentence_asks_for_the_rest_of_its_passage() -> None:
    kept = 0
    for seed in range(200):
        asked, rest = ask_sentences(PASSAGES, 9, Random(seed))  # noqa: S311
        assert sorted(asked.ids) == ["pump", "年假"] and asked.qrels == [{name: 1} for name in asked.ids]
        assert rest.ids == asked.ids
        for name, sentence, content in zip(asked.ids, asked.texts, rest.contents, strict=True):
            whole = TEXTS[name]
            assert sentence in whole and content in (whole, *_without(whole, sentence))
            kept += content == whole
    assert 0.05 < kept / 400 < 0.15


def test_no_more_passages_are_prepared_than_the_steps_take(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [f"The pump {n} is kept in hall {n}. Every valve {n} is checked in week {n}." for n in range(300)]
    names = [text_digest(text) for text in contents]
    large = Passages(names, names, contents, names)
    one, rest = ask_sentences(large, 20, Random(7))  # noqa: S311
    two, _ = ask_sentences(large, 20, Random(7))  # noqa: S311
    assert one == two and len(one.ids) == 20 and rest.ids == one.ids
    assert ask_sentences(large, 20, Random(8))[0].ids != one.ids  # noqa: S311

    def refuse(*_: object) -> None:
        raise AssertionError("passages are scored")

    monkeypatch.setattr(ranked, "MOST", 10)
    monkeypatch.setattr(ranked, "lexical_scores", refuse)
    monkeypatch.setattr(ranked, "rank_lexical", refuse)
    encoder = HybridEncoder.from_base(base, settings(), "1", EXACT)
    wanted = settings(pretrain="ict", pretrain_steps=3, batch_size=8, lexical_head=False)
    _pretrain(encoder, large, wanted, Metrics(tmp_path))
    assert len((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()) == 3


def test_patience_begins_after_the_pre_training(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [f"The {a} is kept in hall {b}. Every {a} is checked in week {b}." for b, a in enumerate(_NOUNS, 1)]
    passages = Passages(_NOUNS, _NOUNS, contents, [text_digest(text) for text in contents])
    means = iter([0.9, 0.5, 0.4, 0.3])  # each look is certainly worse than the base model
    monkeypatch.setattr(RankedCorpus, "measure", lambda *_: Ranked([0.5] * 40, [next(means)] * 40))
    wanted = settings(
        lexical_head=False, epochs=5, pretrain="ict", pretrain_steps=1, patience=1, max_steps=5, batch_size=16
    )
    encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
    asked = _questions(_NOUNS[:8])
    trained = train(encoder, asked, passages, wanted, Metrics(tmp_path), validation=_questions(_NOUNS[8:12]))
    assert len(trained.epochs) == 3 and trained.best == 0  # the base model, the pre-trained one, one epoch of training
    assert len(trained.losses) == 1


def _without(whole: str, sentence: str) -> list[str]:
    before, after = whole.split(sentence)
    return [f"{before.rstrip()} {after.lstrip()}".strip()]


def test_pre_training_counts_as_an_epoch_and_reads_no_question(base: Path, tmp_path: Path) -> None:
    contents = [f"The {a} is kept in hall {b}. Every {a} is checked in week {b}." for b, a in enumerate(_NOUNS, 1)]
    passages = Passages(_NOUNS, _NOUNS, contents, [text_digest(text) for text in contents])
    asked = _questions(_NOUNS[:10])

    def run(held: Questions, **changes: object) -> tuple[EncoderTraining, HybridEncoder, list[dict[str, float]]]:
        wanted = settings(lexical_head=False, epochs=1, max_steps=1, pretrain_steps=2, patience=9, **changes)
        encoder = HybridEncoder.from_base(base, wanted, "1", EXACT)
        folder = tmp_path / f"{changes}{held.ids[0]}"
        trained = train(encoder, asked, passages, wanted, Metrics(folder), validation=held)
        lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        return trained, encoder, [record for record in map(json.loads, lines) if record["phase"] == "pretrain"]

    one, first, steps = run(_questions(_NOUNS[10:14]), pretrain="ict")
    two, second, others = run(_questions(_NOUNS[14:18]), pretrain="ict")
    plain, without, none = run(_questions(_NOUNS[10:14]))
    assert len(steps) == 2 and none == []
    assert [step["pretrain_loss"] for step in steps] == [step["pretrain_loss"] for step in others]
    assert len(one.epochs) == 3 and len(plain.epochs) == 2
    assert one.epochs[0] == plain.epochs[0]  # the base model
    assert one.losses != plain.losses
    assert changed_share(first, copy_parameters(without)) > 0.9
    if one.best == two.best:  # the validation questions choose the epoch and nothing else
        assert changed_share(first, copy_parameters(second)) == 0


_NOUNS = Path(__file__).with_name("nouns.txt").read_text("utf-8").split()[:24]


def _questions(nouns: list[str]) -> Questions:
    return Questions(nouns, [f"Where is the {noun}?" for noun in nouns], [{noun: 1} for noun in nouns], [])


def test_pre_training_without_a_training_is_refused() -> None:
    with pytest.raises(ValueError, match="pretrain is `ict` and epochs is 0"):
        settings(pretrain="ict", epochs=0)


def test_pre_training_is_in_the_recipe_only_where_it_is_done() -> None:
    assert "pretrain" not in settings().model_dump() and "pretrain_steps" in _unused(settings(), judged=True)
    wanted = settings(pretrain="ict")
    assert wanted.model_dump()["pretrain"] == "ict" and "pretrain_steps" not in _unused(wanted, judged=True)
