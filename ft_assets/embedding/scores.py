"""Metrics of each question (scores.parquet), so that two systems can be compared in pairs, and their summary."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from expectations.markdown import markdown_table
from expectations.rules.bootstrap import Interval, bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import DOCUMENT_METRICS, METRICS, measure, measure_documents
from resources.artifacts import Artifact
from resources.parquet import read_rows, write_table

SCORES_FILE = "scores.parquet"
BM25 = "bm25"
"""The system that users compare with; its only arm is `sparse`."""

_SHOWN = {
    "ndcg_at_10": "nDCG@10",
    "ndcg_at_10_gain": "minus BM25",
    "recall_at_10": "Recall@10",
    "recall_at_100": "Recall@100",
    "mrr_at_10": "MRR@10",
    "document_ndcg_at_10": "nDCG@10 by document",
    "document_ndcg_at_10_gain": "minus BM25, by document",
}
_ALL_METRICS = (*METRICS, *DOCUMENT_METRICS)
Scores = dict[tuple[str, str], dict[str, list[float]]]
"""(system, arm) -> metric -> one value for each question, always in the same order of questions."""


def score_arms(
    system: str,
    rankings: Mapping[str, Sequence[Sequence[str]]],
    qrels: Sequence[Mapping[str, int]],
    documents: Mapping[str, str],
) -> Scores:
    """Return every metric of every arm of one system, by passage and by document (passage id -> its document)."""
    return {
        (system, arm): measure(qrels, ranked) | measure_documents(qrels, ranked, documents)
        for arm, ranked in rankings.items()
    }


def write_scores(path: Path, questions: Sequence[str], scores: Scores) -> None:
    """Write one row for each question, system and arm."""
    import pyarrow as pa

    fields = [(name, pa.string()) for name in ("query_id", "system", "arm")]
    schema = pa.schema([*fields, *((name, pa.float64()) for name in _ALL_METRICS)])
    write_table(path, schema, _score_rows(questions, scores))


def _score_rows(questions: Sequence[str], scores: Scores) -> Iterator[dict[str, str | float]]:
    for (system, arm), metrics in scores.items():
        for n, query in enumerate(questions):
            yield {"query_id": query, "system": system, "arm": arm} | {name: metrics[name][n] for name in _ALL_METRICS}


def read_scores(artifact: Artifact) -> Scores:
    """Return the scores that `write_scores` wrote."""
    scores: Scores = {}
    for row in read_rows(artifact.file(SCORES_FILE)):
        values = scores.setdefault((row["system"], row["arm"]), {name: [] for name in _ALL_METRICS})
        for name in _ALL_METRICS:
            values[name].append(row[name])
    return scores


def gain(scores: Scores, candidate: str, baseline: str, metric: str, arm: str = "fused") -> Interval:
    """Return the interval of candidate - baseline, paired by question."""
    return paired_bootstrap(scores[candidate, arm][metric], scores[baseline, arm][metric])


def gain_over_bm25(scores: Scores, system: str, metric: str = "ndcg_at_10") -> Interval:
    """Return the interval of a metric, the system's fused ranking minus BM25's, paired by question."""
    return paired_bootstrap(scores[system, "fused"][metric], scores[BM25, "sparse"][metric])


def means(scores: Scores) -> dict[str, float]:
    """Return the mean of each `<system>_<arm>_<metric>`."""
    return {name: round(sum(values) / len(values), 6) for name, values in _by_name(scores)}


def summarise(scores: Scores) -> dict[str, object]:
    """Return `means`, and `intervals` with the 95 % interval of each."""
    intervals = {name: bootstrap(values) for name, values in _by_name(scores)}
    return {**means(scores), "intervals": msgspec.to_builtins(intervals)}


def _by_name(scores: Scores) -> Iterator[tuple[str, list[float]]]:
    for (system, arm), metrics in scores.items():
        for name, values in metrics.items():
            yield f"{system}_{arm}_{name}", values


def as_table(scores: Scores) -> str:
    """Return the scores as a Markdown table, in percent: nDCG@10 with its 95 % interval, and minus BM25's, in pairs."""
    rows: list[list[str]] = []
    bm25 = scores.get((BM25, "sparse"))
    for (system, arm), metrics in scores.items():
        cells: dict[str, str] = {}
        for name, values in metrics.items():
            cells[name] = f"{100 * sum(values) / len(values):.1f}"
        for name in ("ndcg_at_10", "document_ndcg_at_10"):
            cells[name] += _in_percent(bootstrap(metrics[name]), ".1f")
            gained = paired_bootstrap(metrics[name], bm25[name]) if bm25 and system != BM25 else None
            cells[f"{name}_gain"] = f"{100 * gained.mean:+.1f}{_in_percent(gained, '+.1f')}" if gained else "-"
        rows.append([system, arm, *(cells[name] for name in _SHOWN)])
    return markdown_table(["system", "arm", *_SHOWN.values()], rows)


def _in_percent(interval: Interval, form: str) -> str:
    return f" [{100 * interval.low:{form}}, {100 * interval.high:{form}}]"
