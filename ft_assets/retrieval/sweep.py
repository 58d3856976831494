"""The ranking of the validation questions under many weights and fusion methods. Recommends one, changes nothing."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from expectations.contracts.embedding import Fusion, read_contract
from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import measure
from expectations.violations import Refused
from ft_assets.embedding.evaluate import no_questions
from ft_assets.embedding.exact_search import best, score_blocks
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import Questions, read_passages, read_questions
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.jobs import SweepSummary, read_collection_file
from ft_assets.retrieval.vectors import read_vectors
from resources import accelerator
from resources.artifacts import Artifact
from resources.engines.fusion import fuse
from resources.launcher import ComputeParams, Job, run_worker
from resources.parquet import write_table
from resources.telemetry import Metrics

SWEEP_FILE = "sweep.parquet"
SPARSE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
_USUAL_WEIGHT = 0.3
_SPLIT = "validation"
_PREFETCH = 100


def main(job: Job) -> Artifact:
    """Publish `fusion_sweep`: nDCG@10 of each fusion with its interval, and the recommended setting."""
    params = job.params_as(ComputeParams)
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), _SPLIT, passages)
    if not questions.ids:
        raise Refused("sweeping the fusion", [no_questions("fusion_sweep", _SPLIT)])
    dimension = _served_dimension(job.input("qdrant_collection"))
    rows = list(read_vectors(job.input("passage_vectors")))
    dense = truncate(np.stack([row.dense for row in rows]), dimension)
    corpus = Encoded(dense, [(row.indices, row.values) for row in rows], 0)
    compute = accelerator.choose(params.device, params.dtype)
    queries = HybridEncoder.load(job.input("embedding_model").folder(), compute).encode(questions.texts, "query")
    queries = queries._replace(dense=truncate(queries.dense, dimension))
    results = sweep(queries, corpus, [row.passage_id for row in rows], questions.qrels)
    metrics = Metrics(job.folder())
    for step, (name, values) in enumerate(results.items(), 1):
        metrics.log(f"sweep {name}", step, len(results), ndcg_at_10=_mean(values))
    metrics.close()
    with job.artifacts().stage(job.recipe) as staging:
        _write(staging.path / SWEEP_FILE, results)
        return staging.publish(_summarise(questions, results))


def _served_dimension(collection: Artifact) -> int:
    serving = read_contract(read_collection_file(collection).contract, collection.asset).serving
    if serving is None:
        raise ValueError("the contract of qdrant_collection does not say how it is served")
    return serving.dimension


def sweep(
    queries: Encoded, passages: Encoded, ids: Sequence[str], qrels: Sequence[dict[str, int]]
) -> dict[str, list[float]]:
    """Return nDCG@10 of every query for `1.0 / w` of each sparse weight w, for dbsf and for rrf."""
    methods = {label(weight): _fusion("weighted_sum", weight) for weight in SPARSE_WEIGHTS}
    methods |= {"dbsf": _fusion("dbsf"), "rrf": _fusion("rrf")}
    ranked: dict[str, list[list[str]]] = {name: [] for name in methods}
    for _, dense, lexical in score_blocks(queries, passages):
        for name, fusion in methods.items():
            ranked[name] += best(fuse(fusion, dense, lexical), ids, 10)
    return {name: measure(qrels, rankings)["ndcg_at_10"] for name, rankings in ranked.items()}


def label(sparse_weight: float) -> str:
    """Return the name of a weighted sum in the sweep."""
    return f"1.0 / {sparse_weight:g}"


def _fusion(method: Literal["weighted_sum", "dbsf", "rrf"], sparse_weight: float = 1.0) -> Fusion:
    return Fusion(fusion=method, dense_weight=1.0, sparse_weight=sparse_weight, prefetch_limit=_PREFETCH)


def _summarise(questions: Questions, results: dict[str, list[float]]) -> SweepSummary:
    means = {name: round(_mean(values), 6) for name, values in results.items()}
    # of equal means the first, which is the smallest change to the dense ranking
    recommended = max(means, key=lambda name: means[name])
    over_usual = paired_bootstrap(results[recommended], results[label(_USUAL_WEIGHT)])
    return SweepSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        recommended=recommended,
        recommended_ndcg_at_10=means[recommended],
        gain_over_usual=over_usual,
        gain_is_certain=over_usual.low > 0,
        ndcg_at_10=means,
    )


def _write(path: Path, results: dict[str, list[float]]) -> None:
    import pyarrow as pa

    names = ("ndcg_at_10", "low", "high", "gain", "gain_low", "gain_high")
    rows: list[dict[str, str | float]] = []
    for fusion, values in results.items():
        own, over = bootstrap(values), paired_bootstrap(values, results[label(_USUAL_WEIGHT)])
        figures = (own.mean, own.low, own.high, over.mean, over.low, over.high)
        rows.append({"fusion": fusion, **dict(zip(names, figures, strict=True))})
    write_table(path, pa.schema([("fusion", pa.string()), *((name, pa.float64()) for name in names)]), rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run_worker(main)
