"""Factors of BM25's weights: learned where they help, refused where nothing is certain, saved with the model."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
import torch

from expectations.canonical import text_digest
from expectations.violations import Refused
from ft_assets.embedding.assets import _unused
from ft_assets.embedding.factors import FACTORS_FILE
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import NO_QUESTIONS, Passages, Questions
from ft_assets.embedding.ranked import RankedCorpus
from ft_assets.embedding.train_factors import fit_factors, learn_factors
from resources.accelerator import Compute
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")
WANTED = settings(lexical_head=False, bm25_factors=True)
WORDS = Path(__file__).with_name("nouns.txt").read_text("utf-8").split()


@pytest.fixture(scope="module")
def mentions() -> tuple[Passages, list[Questions]]:
    """Passages that name other subjects more often than their own, and questions: to learn from, and held out."""
    dice = Random(0)  # noqa: S311
    texts: list[str] = []
    for word in WORDS:
        others = dice.sample([other for other in WORDS if other != word], 3)
        mentioned = " ".join(f"see also {other}, {other}." for other in others)
        texts.append(f"This page is about the {word}. {mentioned}")
    passages = Passages(WORDS, WORDS, texts, [text_digest(text) for text in texts])
    parts = [WORDS[:40], WORDS[40:]]
    asked = [Questions(part, [f"the {word}" for word in part], [{word: 1} for word in part], []) for part in parts]
    return passages, asked


def sparse_of(encoder: HybridEncoder, corpus: RankedCorpus) -> list[np.ndarray]:
    vectors = encoder.encode(corpus.passages.contents, "passage", bm25=corpus.bm25).sparse
    assert [ids.tolist() for ids, _ in vectors] == [ids.tolist() for ids, _ in corpus.sparse]
    return [values for _, values in vectors]


def test_before_learning_a_passage_has_the_weights_of_bm25(base: Path, passages: Passages) -> None:
    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    corpus = RankedCorpus(passages, [NO_QUESTIONS])
    encoder.add_factors()
    for values, (_, wanted) in zip(sparse_of(encoder, corpus), corpus.sparse, strict=True):
        assert values == pytest.approx(wanted)


def test_factors_that_gain_for_certain_are_taken_and_travel_with_the_model(
    base: Path, mentions: tuple[Passages, list[Questions]], tmp_path: Path
) -> None:
    passages, (asked, held) = mentions
    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    dense = encoder.encode(passages.contents).dense
    learned = learn_factors(encoder, asked, passages, WANTED, validation=held)
    assert learned.taken and learned.gain and learned.gain.low > 0
    assert learned.sentence.startswith("BM25 serves with its factors; nDCG@10 +")
    corpus = RankedCorpus(passages, [asked, held])
    found = sparse_of(encoder, corpus)
    # the page's own subject gains weight over what it mentions
    own, others = zip(*(_own_and_others(corpus, row, values) for row, values in enumerate(found)), strict=True)
    assert np.mean(own) > np.mean(others) + 0.05
    assert all(0 <= factor <= 2 for factor in (*own, *others))
    np.testing.assert_array_equal(encoder.encode(passages.contents).dense, dense)
    contract = encoder.save(tmp_path)
    again = HybridEncoder.load(tmp_path, EXACT)
    assert again.contract == contract and contract.factors_sha256
    for values, wanted in zip(sparse_of(again, corpus), found, strict=True):
        assert values == pytest.approx(wanted)


def _own_and_others(corpus: RankedCorpus, row: int, values: np.ndarray) -> tuple[float, float]:
    """Return the factor of the subject of a page, and the mean one of those it mentions."""
    ids, before = corpus.sparse[row]
    factors = dict(zip(ids.tolist(), (values / before).tolist(), strict=True))
    subjects = {word: corpus.bm25.terms.numbers(corpus.bm25.terms.of(word))[0] for word in WORDS}
    mentioned = [factors[number] for word, number in subjects.items() if number in factors and word != WORDS[row]]
    return factors[subjects[WORDS[row]]], float(np.mean(mentioned))


def test_factors_without_a_certain_gain_are_refused_and_nothing_of_them_is_saved(
    base: Path, mentions: tuple[Passages, list[Questions]], tmp_path: Path
) -> None:
    passages, (asked, held) = mentions
    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    few = Questions(held.ids[:1], held.texts[:1], held.qrels[:1], [])
    wrong = Questions(held.ids, held.texts, [held.qrels[(n + 1) % len(held.ids)] for n in range(len(held.ids))], [])
    for validation, words in ((NO_QUESTIONS, "too few"), (few, "too few"), (wrong, "nothing certain")):
        refused = learn_factors(encoder, asked, passages, WANTED, validation=validation)
        assert not refused.taken and encoder.factors is None
        assert refused.sentence.startswith("BM25 serves as it is") and words in refused.sentence
    assert encoder.save(tmp_path).factors_sha256 is msgspec.UNSET
    assert not (tmp_path / FACTORS_FILE).exists()
    assert "factors_sha256" not in (tmp_path / "contract.json").read_text("utf-8")


def test_a_larger_penalty_holds_the_factors_nearer_to_1(base: Path, mentions: tuple[Passages, list[Questions]]) -> None:
    passages, (asked, _) = mentions
    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    corpus = RankedCorpus(passages, [asked])
    penalties = (0.0, 1.0, 100.0)
    spreads = [
        fit_factors(encoder, corpus, asked, WANTED.model_copy(update={"factor_penalty": penalty}))
        for penalty in penalties
    ]
    assert spreads[0] > spreads[1] > spreads[2] > 0
    assert spreads[2] < 0.5 * spreads[1]


@pytest.mark.parametrize("prompt", ["", "passage: "])
def test_a_term_that_the_encoder_does_not_read_keeps_its_weight(base: Path, prompt: str) -> None:
    text = "pump " * 3 + "valve " * 300 + "库存 inventory"
    passages = Passages(["a", "b"], ["a", "b"], [text, "pump 库存"], ["1", "2"])
    encoder = HybridEncoder.from_base(base, settings(passage_prompt=prompt, passage_max_tokens=32), "1", EXACT)
    corpus = RankedCorpus(passages, [NO_QUESTIONS])
    torch.nn.init.constant_(encoder.add_factors().linear.bias, 1.0)
    factors = dict(zip(corpus.sparse[0][0].tolist(), sparse_of(encoder, corpus)[0] / corpus.sparse[0][1], strict=True))
    read, unread = (
        corpus.bm25.terms.numbers(corpus.bm25.terms.of(words)) for words in ("pump valve", "库存 inventory")
    )
    assert [factors[number] for number in read] == pytest.approx([1 + np.tanh(1)] * 2)
    assert [factors[number] for number in unread] == pytest.approx([1.0] * 2)


def test_a_tokenizer_without_places_is_refused(base: Path, passages: Passages, questions: Questions) -> None:
    class Slow:
        is_fast = False

    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    encoder.tokenizer = Slow()
    with pytest.raises(Refused, match="FT-EMB-023"):
        learn_factors(encoder, questions, passages, WANTED, validation=questions)


def test_without_a_training_question_nothing_is_learned(base: Path, passages: Passages, questions: Questions) -> None:
    encoder = HybridEncoder.from_base(base, WANTED, "1", EXACT)
    with pytest.raises(Refused, match=r"FT-EMB-010.*no training question names a passage.*bm25_factors: false"):
        learn_factors(encoder, NO_QUESTIONS, passages, WANTED, validation=questions)


def test_factors_are_a_part_of_the_recipe_only_where_they_are_learned() -> None:
    assert "bm25_factors" not in settings().model_dump() and "factor_penalty" in _unused(settings(), judged=True)
    assert WANTED.model_dump()["bm25_factors"] and "factor_penalty" not in _unused(WANTED, judged=True)
