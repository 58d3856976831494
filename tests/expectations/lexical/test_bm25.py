"""BM25 as two sparse vectors: equal to a known implementation, and its query side from a collection's metadata."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from expectations.canonical import text_digest
from expectations.contracts.embedding import EmbeddingContract, Level, Lexical, compare
from expectations.lexical.bm25 import FREQUENCIES_KEY, Bm25, Bm25Queries, DocumentFrequencies
from expectations.lexical.terms import Terms
from expectations.violations import Refused
from tests.expectations.contracts.test_embedding import CONTRACT as LEARNED

CORPUS = [
    "The pump runs. The pump stops when the filter is dirty.",
    "A filter lasts six months.",
    "Invoices above 5,000 euros need two signatures; an invoice below needs one.",
    "年假没有休完可以折算成工资。",
    "工资每月十日发放。",
]
QUERIES = ["dirty filter of a pump", "invoice signatures", "年假 工资", "never seen words here", "euros euros filter"]
STOP_WORDS = ["a", "an", "of", "the", "when", "is"]


def lexical(**changes: object) -> Lexical:
    terms = Terms("english", STOP_WORDS)
    lengths = [len(terms.of(text)) for text in CORPUS]
    fields: dict[str, object] = {
        "language": "english", "stop_words": STOP_WORDS, "terms_sha256": terms.fingerprint, "k1": 1.2, "b": 0.75,
        "average_length": sum(lengths) / len(lengths), "passages": len(CORPUS),
        "frequencies_sha256": text_digest(frequencies().to_text()),
    }  # fmt: skip
    return msgspec.convert(fields | changes, Lexical)


def frequencies() -> DocumentFrequencies:
    terms = Terms("english", STOP_WORDS)
    counts = Counter(number for text in CORPUS for number in set(terms.numbers(terms.of(text))))
    return DocumentFrequencies(len(CORPUS), counts)


def contract(**changes: object) -> EmbeddingContract:
    return msgspec.structs.replace(LEARNED, lexical=lexical(**changes))


def queries() -> Bm25Queries:
    return Bm25Queries.from_metadata({"contract": contract().to_json(), FREQUENCIES_KEY: frequencies().to_text()}, "kb")


def score(query: str, text: str) -> float:
    weights, stored = queries().vector(query), Bm25(lexical()).passage(text)
    passage = dict(zip(*stored, strict=True))
    return sum(weight * passage.get(number, 0.0) for number, weight in zip(*weights, strict=True))


def test_scores_are_those_of_lucenes_bm25_up_to_one_factor_a_query() -> None:
    import bm25s

    terms = Terms("english", STOP_WORDS)
    rival = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    rival.index([terms.of(text) for text in CORPUS], show_progress=False)
    for query in QUERIES:
        known = [term for term in terms.of(query) if any(term in terms.of(text) for text in CORPUS)]
        if not known:
            assert all(score(query, text) == 0 for text in CORPUS)
            continue
        theirs = rival.get_scores(known).tolist()
        ours = [score(query, text) for text in CORPUS]
        factor = sum(ours) / sum(theirs)
        assert ours == pytest.approx([factor * value for value in theirs], abs=1e-6)


def test_vectors_are_sorted_and_scores_bounded() -> None:
    for text in (*CORPUS, "pump " * 1000):
        stored = Bm25(lexical()).passage(text)
        assert all(a < b for a, b in pairwise(stored.indices)) and all(0 < value < 2.2 for value in stored.values)
    for query in QUERIES:
        weights = queries().vector(query)
        assert math.fsum(weights.values) == pytest.approx(1) and all(a < b for a, b in pairwise(weights.indices))
    assert queries().vector("of the ?!") == ([], [])


def test_a_word_of_the_corpus_counts_by_its_rarity_and_an_unknown_one_most() -> None:
    weights = {found.term: found.weight for found in queries().weights("dirty filter zebra")}
    assert weights["zebra"] == weights["dirti"] > weights["filter"]


def test_the_table_of_frequencies_survives_as_text() -> None:
    table = DocumentFrequencies(10, {5: 3, 9: 1, 2**31 - 1: 10, 0: 2})
    assert DocumentFrequencies.from_text(table.to_text()) == (10, {0: 2, 5: 3, 2**31 - 1: 10})  # 1 is the default
    assert DocumentFrequencies.from_text(DocumentFrequencies(0, {}).to_text()) == (0, {})
    for damaged in ("", "nonsense", table.to_text()[:-6]):
        with pytest.raises(ValueError, match="no table"):
            DocumentFrequencies.from_text(damaged)


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"contract": contract().to_json()}, "FT-LEX-003"),
        ({"contract": contract().to_json(), FREQUENCIES_KEY: DocumentFrequencies(9, {}).to_text()}, "FT-LEX-003"),
        ({"contract": LEARNED.to_json()}, "FT-LEX-004"),
        ({}, "FT-EMB-001"),
        (
            {"contract": contract(terms_sha256="0" * 64).to_json(), FREQUENCIES_KEY: frequencies().to_text()},
            "FT-LEX-002",
        ),
    ],
    ids=["no table", "another table", "a learned head", "no contract", "another stemmer"],
)
def test_a_collection_that_does_not_fit_is_refused(metadata: dict[str, object], code: str) -> None:
    with pytest.raises(Refused, match=code):
        Bm25Queries.from_metadata(metadata, "kb")


@pytest.mark.parametrize("change", [{"k1": 0.9}, {"b": 0.1}, {"average_length": 9.0}, {"language": "german"}])
def test_a_change_on_the_passages_side_needs_another_index(change: dict[str, object]) -> None:
    assert compare(contract(), contract(**change)).level is Level.REINDEX
    assert compare(contract(), LEARNED).level is Level.REINDEX


def test_other_frequencies_need_no_other_index() -> None:
    comparison = compare(contract(), contract(passages=6, frequencies_sha256="1" * 64))
    assert comparison.level is Level.REWEIGHT
    assert contract().encode_fp == LEARNED.encode_fp
