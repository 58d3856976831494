"""Metrics of rankings, computed by hand."""

from __future__ import annotations

import math

import pytest

from expectations.rules.ranking_metrics import measure, measure_documents


def test_metrics_are_what_one_computes_by_hand() -> None:
    found = measure([{"a": 1, "b": 1}, {"c": 2}, {"z": 1}], [["x", "a", "y", "b"], ["c"], []])
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg_at_10"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1.0, 0.0])
    assert found["recall_at_10"] == [1.0, 1.0, 0.0]
    assert found["mrr_at_10"] == [0.5, 1.0, 0.0]


def test_mrr_is_cut_at_ten_and_recall_at_a_hundred_is_not() -> None:
    ranking = [f"p{n}" for n in range(150)]
    found = measure([{"p10": 1}, {"p9": 1}, {"p120": 1}], [ranking] * 3)
    assert found["mrr_at_10"] == pytest.approx([0.0, 0.1, 0.0])
    assert found["recall_at_100"] == [1.0, 1.0, 0.0]


def test_equal_scores_keep_the_order_they_were_given() -> None:
    # trec_eval alone would rank ties by passage id, descending
    assert measure([{"a": 1}], [["a", "z"]])["mrr_at_10"] == [1.0]


def test_a_document_counts_by_its_best_passage() -> None:
    documents = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "c1": "c"}
    qrels = [{"a1": 1, "a2": 1, "a3": 1, "c1": 2}, {"b1": 1}]
    ranking = ["b1", "a3", "a1", "c1"]
    found = measure_documents(qrels, [ranking, ranking], documents)
    # the documents are ranked b, a, c: all three passages of a are one document, which the passages alone do not show
    ideal = 2 + 1 / math.log2(3)
    assert found["document_ndcg_at_10"] == pytest.approx([(1 / math.log2(3) + 2 / math.log2(4)) / ideal, 1.0])
    assert found["document_recall_at_10"] == [1.0, 1.0]
    assert found["document_mrr_at_10"] == [0.5, 1.0]
    assert measure(qrels, [ranking, ranking])["recall_at_10"] == [0.75, 1.0]
