"""The ranking of the validation questions under many weights and fusion methods. Recommends one, changes nothing."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from expectations.contracts.embedding import Fusion
from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import measure
from ft_assets.embedding.exact_search import best, score_blocks
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import read_passages, require_questions
from ft_assets.retrieval.exact import served_vectors, serving_in
from ft_assets.retrieval.jobs import SweepJob, SweepSummary
from resources import accelerator
from resources.artifacts import Artifact
from resources.engines.fusion import fuse
from resources.launcher import Job, run_worker
from resources.parquet import write_table
from resources.telemetry import Metrics

SWEEP_FILE = "sweep.parquet"
SPARSE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_SPLIT = "validation"
_Z = 1.96  # standard errors in half of a 95 % interval


def main(job: Job) -> Artifact:
    """Publish `fusion_sweep`: nDCG@10 of each fusion with its interval, and the recommended setting."""
    params = job.params_as(SweepJob)
    passages = read_passages(job.input("passages"))
    questions = require_questions(job.input("retrieval_splits"), _SPLIT, passages, "fusion_sweep")
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    encoder = HybridEncoder.load(job.input("embedding_model").folder(), compute)
    vectors, collection = job.input("passage_vectors"), job.input("qdrant_collection")
    queries = encoder.encode(questions.texts, "query")
    queries, corpus, ids = served_vectors(queries, questions.texts, vectors, collection)
    distance = serving_in(collection).distance
    results = sweep(queries, corpus, ids, questions.qrels, compared_fusions(params.fusion, distance))
    metrics = Metrics(job.folder())
    for step, (name, values) in enumerate(results.items(), 1):
        metrics.log(f"sweep {name}", step, len(results), ndcg_at_10=_mean(values))
    metrics.close()
    configured = label(params.fusion)
    with job.artifacts().stage(job.recipe) as staging:
        _write(staging.path / SWEEP_FILE, results, configured)
        return staging.publish(summarise(results, configured, len(questions.unresolved)))


def compared_fusions(configured: Fusion, distance: str) -> list[Fusion]:
    """Return the fusions to compare: each sparse weight with a dense weight of 1, dbsf, rrf, the configured one."""
    change = partial(msgspec.structs.replace, configured)
    fusions = [change(fusion="weighted_sum", dense_weight=1.0, sparse_weight=weight) for weight in SPARSE_WEIGHTS]
    # the configuration refuses dbsf with distances, of which the smaller is the better one
    fusions += [change(fusion=method) for method in ("dbsf", "rrf") if (method, distance) != ("dbsf", "euclid")]
    return [*fusions, configured]


def sweep(
    queries: Encoded, passages: Encoded, ids: Sequence[str], qrels: Sequence[dict[str, int]], fusions: Sequence[Fusion]
) -> dict[str, list[float]]:
    """Return nDCG@10 of every query for each fusion, by its label."""
    methods = {label(fusion): fusion for fusion in fusions}
    ranked: dict[str, list[list[str]]] = {name: [] for name in methods}
    for _, dense, lexical in score_blocks(queries, passages):
        for name, fusion in methods.items():
            ranked[name] += best(fuse(fusion, dense, lexical), ids, 10)
    return {name: measure(qrels, rankings)["ndcg_at_10"] for name, rankings in ranked.items()}


def label(fusion: Fusion) -> str:
    """Return the name of a fusion in the sweep: its method, or the weights of a weighted sum."""
    if fusion.fusion != "weighted_sum":
        return fusion.fusion
    return f"{fusion.dense_weight} / {fusion.sparse_weight:g}"


def summarise(results: dict[str, list[float]], configured: str, unresolved: int) -> SweepSummary:
    """Return the means, and the best fusion as a recommendation where its gain is certain."""
    means = {name: round(_mean(values), 6) for name, values in results.items()}
    # of equal means the configured one, else the first, which is the smallest change to the dense ranking
    found = max(means, key=lambda name: (means[name], name == configured))
    gain = paired_bootstrap(results[found], results[configured])
    weights = [name for name in results if name.startswith("1.0 / ")]
    edges = {min(weights, key=_sparse_weight), max(weights, key=_sparse_weight)}
    summary = SweepSummary(
        questions=gain.n,
        unresolved=unresolved,
        configured=configured,
        best=found,
        recommended=found if gain.low > 0 else configured,
        gain_over_configured=gain,
        gain_is_certain=gain.low > 0,
        questions_needed=_questions_needed(results[found], results[configured]),
        best_is_at_edge=found in edges,
        advice="",
        ndcg_at_10=means,
    )
    return msgspec.structs.replace(summary, advice=_advice(summary))


def _questions_needed(candidate: Sequence[float], baseline: Sequence[float]) -> int | None:
    """Return the number of questions on which the 95 % interval of such a gain would begin at 0."""
    differences = np.asarray(candidate) - np.asarray(baseline)
    if len(differences) < 2 or differences.mean() <= 0:
        return None
    return math.ceil((_Z * differences.std(ddof=1) / differences.mean()) ** 2)


def _advice(summary: SweepSummary) -> str:
    """Return the summary in one or two sentences."""
    gain = summary.gain_over_configured
    gained = f"nDCG@10 {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.n} questions"
    if summary.best == summary.configured:
        text = f"Keep {summary.configured}: no other fusion ranks better."
    elif summary.gain_is_certain:
        text = f"Take {summary.best} in place of {summary.configured}: {gained}."
    else:
        text = f"Keep {summary.configured}. {summary.best} ranks best, but its gain may be chance: {gained}"
        text += f"; about {summary.questions_needed} questions would decide." if summary.questions_needed else "."
    if summary.best_is_at_edge and _sparse_weight(summary.best) == 0:
        text += " The best sparse weight is 0: the lexical arm adds nothing here."
    elif summary.best_is_at_edge:
        text += f" {summary.best} has the largest sparse weight of the sweep: a larger one may be better."
    return text


def _sparse_weight(name: str) -> float:
    return float(name.partition(" / ")[2])


def _write(path: Path, results: dict[str, list[float]], configured: str) -> None:
    import pyarrow as pa

    names = ("ndcg_at_10", "low", "high", "gain", "gain_low", "gain_high")
    rows: list[dict[str, str | float]] = []
    for fusion, values in results.items():
        own, over = bootstrap(values), paired_bootstrap(values, results[configured])
        figures = (own.mean, own.low, own.high, over.mean, over.low, over.high)
        rows.append({"fusion": fusion, **dict(zip(names, figures, strict=True))})
    write_table(path, pa.schema([("fusion", pa.string()), *((name, pa.float64()) for name in names)]), rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run_worker(main)
