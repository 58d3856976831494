"""The corpus as a training ranks it: the answer within a document, and the part of a large corpus that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from expectations.canonical import text_digest
from ft_assets.embedding import ranked
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions
from ft_assets.embedding.ranked import RankedCorpus
from resources.accelerator import Compute
from tests.ft_assets.embedding.conftest import settings

EXACT = Compute("cpu", "float32")


def corpus(texts: dict[str, str]) -> Passages:
    documents = [name.split("#")[0] for name in texts]
    return Passages(list(texts), documents, list(texts.values()), [text_digest(text) for text in texts.values()])


HANDBOOK = corpus(
    {
        "hr#1": "This handbook is for all employees of the company and was last revised in May.",
        "hr#2": "Holidays are requested in writing, two weeks ahead.",
        "hr#3": "The badge opens the north gate; a lost badge is reported at once.",
        "it#1": "Passwords have twelve characters.",
        "it#2": "Holidays of the support team are in the calendar.",
    }
)


def test_a_judged_document_is_trained_on_by_the_passage_that_answers() -> None:
    document = ["hr#1", "hr#2", "hr#3"]
    questions = Questions(
        ["a", "b", "c"],
        ["How many weeks ahead are holidays requested?", "Which gate does a badge open?", "How long is a password?"],
        [dict.fromkeys(document, 1), dict.fromkeys([*document, "it#2"], 1), {"it#1": 2}],
        [],
        named=[[document], [document, ["it#2"]], [["it#1"]]],
    )
    answers = RankedCorpus(HANDBOOK, [questions]).answers(questions)
    assert answers == [["hr#2"], ["hr#3", "it#2"], ["it#1"]]  # a judged passage is taken as it is


def test_judgements_of_passages_need_no_names() -> None:
    questions = Questions(["a"], ["Holidays?"], [{"hr#1": 1, "it#2": 1}], [])
    assert RankedCorpus(HANDBOOK, [questions]).answers(questions) == [["hr#1", "it#2"]]


def test_of_a_large_corpus_the_judged_and_the_near_passages_are_read(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    passages = corpus({f"d{n}#1": f"Device {n} has code {n * n} and a lamp." for n in range(300)})
    questions = Questions(["a"], ["What is code 49?"], [{"d3#1": 1}], [], {"a": ["d200#1"]})
    monkeypatch.setattr(ranked, "MOST", 40)
    large = RankedCorpus(passages, [questions])
    kept = large.passages.ids
    assert {"d3#1", "d200#1", "d7#1", "d0#1", "d299#1"} <= set(kept)  # judged, found by BM25, first and last
    assert 30 <= len(kept) <= 41
    assert [large.row_of[name] for name in kept] == list(range(len(kept)))
    large.encode(HybridEncoder.from_base(base, settings(), "1", EXACT))
    assert large.answers(questions) == [["d3#1"]]


def test_the_validation_score_is_fused_with_bm25_or_with_the_head(base: Path) -> None:
    questions = Questions(["a"], ["gate badge"], [{"hr#3": 1}], [])
    scores = {}
    for head in (True, False):
        encoder = HybridEncoder.from_base(base, settings(lexical_head=head), "1", EXACT)
        whole = RankedCorpus(HANDBOOK, [questions])
        whole.encode(encoder)
        scores[head] = whole.measure(encoder, questions)
    assert scores[True].dense == scores[False].dense
    assert scores[False].fused == [1.0]
