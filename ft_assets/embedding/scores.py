"""Metrics question by question (scores.parquet), so that two systems can be compared in pairs, and their summary."""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from expectations.markdown import markdown_table
from expectations.rules.bootstrap import Interval, bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import METRICS, measure
from resources.artifacts import Artifact
from resources.parquet import read_rows, write_table

FILE = "scores.parquet"
ARMS = ("dense", "sparse", "fused")

Scores = dict[tuple[str, str], dict[str, list[float]]]
"""(system, arm) -> metric -> one value a question, all in the same order of questions."""


def score_arms(
    system: str, rankings: Mapping[str, Sequence[Sequence[str]]], qrels: Sequence[Mapping[str, int]]
) -> Scores:
    """Every metric of every arm of one system."""
    return {(system, arm): measure(qrels, ranked) for arm, ranked in rankings.items()}


def write_scores(path: Path, questions: Sequence[str], scores: Scores) -> None:
    """One row a question, system and arm."""
    import pyarrow as pa

    fields = [(name, pa.string()) for name in ("query_id", "system", "arm")]
    schema = pa.schema([*fields, *((name, pa.float64()) for name in METRICS)])
    rows = (
        {"query_id": query, "system": system, "arm": arm, **{name: values[name][n] for name in METRICS}}
        for (system, arm), values in scores.items()
        for n, query in enumerate(questions)
    )
    write_table(path, schema, rows)


def read_scores(artifact: Artifact) -> Scores:
    """What `write_scores` wrote."""
    made: Scores = {}
    for row in read_rows(artifact.file(FILE)):
        values = made.setdefault((row["system"], row["arm"]), {name: [] for name in METRICS})
        for name in METRICS:
            values[name].append(row[name])
    return made


def gain(scores: Scores, candidate: str, baseline: str, metric: str, arm: str = "fused") -> Interval:
    """candidate - baseline, paired by question."""
    return paired_bootstrap(scores[candidate, arm][metric], scores[baseline, arm][metric])


def summarise(scores: Scores) -> dict[str, Any]:
    """`<system>_<arm>_<metric>` means, and `intervals` with the 95 % interval of each."""
    flat: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for (system, arm), metrics in scores.items():
        for name, values in metrics.items():
            interval = bootstrap(values)
            flat[f"{system}_{arm}_{name}"] = round(interval.mean, 6)
            intervals[f"{system}_{arm}_{name}"] = msgspec.to_builtins(interval)
    return {**flat, "intervals": intervals}


def as_table(scores: Scores) -> str:
    """The scores as a Markdown table, in percent with the 95 % interval of nDCG@10."""
    rows: list[list[str]] = []
    for (system, arm), metrics in scores.items():
        means = {name: sum(values) / len(values) for name, values in metrics.items()}
        spread = bootstrap(metrics["ndcg_at_10"])
        cells = [f"{100 * means[name]:.1f}" for name in METRICS]
        cells[0] += f" [{100 * spread.low:.1f}, {100 * spread.high:.1f}]"
        rows.append([system, arm, *cells])
    return markdown_table(["system", "arm", "nDCG@10", "Recall@10", "Recall@100", "MRR@10"], rows)
