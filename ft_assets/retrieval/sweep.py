"""How the ranking depends on weights and methods of fusion, on the validation questions. Changes nothing."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import measure
from expectations.violations import Refused
from ft_assets.embedding.evaluate import no_questions
from ft_assets.embedding.exact_search import best, score_blocks
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import read_passages, read_questions
from ft_assets.embedding.truncate import truncate
from ft_assets.retrieval.vectors import read_vectors
from resources import accelerator
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.parquet import write_table
from resources.telemetry import Metrics

SPLIT = "validation"
SPARSE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
USUAL = 0.3
FILE = "sweep.parquet"
_PREFETCH = 100
_RRF_K = 2  # the engine's default

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main(job: Job) -> Artifact:
    """Publish `fusion_sweep`: nDCG@10 of each fusion with its interval, and what to set."""
    store = job.artifacts()
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), SPLIT, passages)
    if not questions.ids:
        raise Refused("sweeping the fusion", [no_questions("fusion_sweep", SPLIT)])
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    dimension = job.input("qdrant_collection").json("collection.json")["contract"]["serving"]["dimension"]
    rows = list(read_vectors(job.input("passage_vectors")))
    queries = HybridEncoder.load(job.input("embedding_model").folder(), compute).encode(questions.texts, "query")
    queries = queries._replace(dense=truncate(queries.dense, dimension))
    corpus = Encoded(truncate(np.stack([r.dense for r in rows]), dimension), [(r.indices, r.values) for r in rows], 0)
    metrics = Metrics(job.folder())
    results = sweep(queries, corpus, [row.passage_id for row in rows], questions.qrels)
    for step, (name, values) in enumerate(results.items(), 1):
        metrics.log(f"sweep {name}", step, len(results), ndcg_at_10=sum(values) / len(values))
    metrics.close()
    with store.stage(job.recipe) as staging:
        summary = _summarise(results)
        _write(staging.path / FILE, results)
        return staging.publish({"questions": len(questions.ids), "unresolved": len(questions.unresolved), **summary})


def sweep(
    queries: Encoded, passages: Encoded, ids: Sequence[str], qrels: Sequence[dict[str, int]]
) -> dict[str, list[float]]:
    """nDCG@10 of every query for `1.0 / w` of each sparse weight w, for dbsf and for rrf."""
    methods: dict[str, Fuse] = {label(weight): _weighted(weight) for weight in SPARSE_WEIGHTS}
    methods |= {"dbsf": dbsf, "rrf": rrf}
    ranked: dict[str, list[list[str]]] = {name: [] for name in methods}
    for _, dense, lexical in score_blocks(queries, passages):
        for name, fuse in methods.items():
            ranked[name] += best(fuse(dense, lexical), ids, 10)
    return {name: measure(qrels, rankings)["ndcg_at_10"] for name, rankings in ranked.items()}


def label(sparse_weight: float) -> str:
    """Name of a weighted sum in the sweep."""
    return f"1.0 / {sparse_weight:g}"


def dbsf(dense: np.ndarray, lexical: np.ndarray) -> np.ndarray:
    """Distribution-based fusion as the engine does it: each arm's best 100 scaled by mean ± 3 deviations, summed."""
    return _scaled(dense) + _scaled(lexical)


def rrf(dense: np.ndarray, lexical: np.ndarray) -> np.ndarray:
    """Reciprocal rank fusion as the engine does it: 1 / (k + rank), rank from 0, over each arm's best 100."""
    return _reciprocal(dense) + _reciprocal(lexical)


def _weighted(weight: float) -> Fuse:
    return lambda dense, lexical: dense + weight * lexical


def _scaled(scores: np.ndarray) -> np.ndarray:
    made = np.zeros_like(scores)
    for row, columns in enumerate(_prefetched(scores)):
        picked = scores[row, columns]
        deviation = picked.std(ddof=1) if len(picked) > 1 else 0.0
        low = picked.mean() - 3 * deviation
        made[row, columns] = (picked - low) / (6 * deviation) if deviation > 0 else 0.5
    return made


def _reciprocal(scores: np.ndarray) -> np.ndarray:
    made = np.zeros_like(scores)
    for row, columns in enumerate(_prefetched(scores)):
        made[row, columns] = 1.0 / (_RRF_K + np.arange(len(columns)))
    return made


def _prefetched(scores: np.ndarray) -> list[np.ndarray]:
    """Columns of each row's best, best first. A score of 0 means that no token matched: no answer of that arm."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_PREFETCH]
    return [columns[scores[row, columns] != 0] for row, columns in enumerate(order)]


def _summarise(results: dict[str, list[float]]) -> dict[str, Any]:
    means = {name: sum(values) / len(values) for name, values in results.items()}
    # of equal ones the first: the smallest change to the dense ranking
    recommended = max(means, key=lambda name: round(means[name], 6))
    over_usual = paired_bootstrap(results[recommended], results[label(USUAL)])
    return {
        "recommended": recommended,
        "recommended_ndcg_at_10": round(means[recommended], 6),
        "gain_over_usual": msgspec.to_builtins(over_usual),
        "gain_is_certain": over_usual.low > 0,
        "ndcg_at_10": {name: round(mean, 6) for name, mean in means.items()},
    }


def _write(path: Path, results: dict[str, list[float]]) -> None:
    import pyarrow as pa

    numbers = [(name, pa.float64()) for name in ("ndcg_at_10", "low", "high", "gain", "gain_low", "gain_high")]
    rows = []
    for name, values in results.items():
        interval, over = bootstrap(values), paired_bootstrap(values, results[label(USUAL)])
        spans = (interval.mean, interval.low, interval.high, over.mean, over.low, over.high)
        rows.append({"fusion": name, **dict(zip((n for n, _ in numbers), spans, strict=True))})
    write_table(path, pa.schema([("fusion", pa.string()), *numbers]), rows)


if __name__ == "__main__":
    run_worker(main)
