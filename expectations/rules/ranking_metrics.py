"""Metrics of rankings (nDCG, recall, MRR) as trec_eval computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = ("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10")
DOCUMENT_METRICS = ("document_ndcg_at_10", "document_recall_at_10", "document_mrr_at_10")
"""By document. No recall at 100: a hundred passages are of fewer documents."""
_TREC_NAMES = {"ndcg_at_10": "ndcg_cut_10", "recall_at_10": "recall_10", "recall_at_100": "recall_100"}


def measure(qrels: Sequence[Mapping[str, int]], rankings: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Return each metric for each query. `rankings` are passage ids, best first; only their order counts.

    Graded relevance counts for nDCG. MRR is cut at rank 10, which trec_eval's own recip_rank is not.
    """
    import pytrec_eval  # pyright: ignore[reportMissingTypeStubs]

    pytrec: Any = pytrec_eval
    judged = {str(n): dict(relevant) for n, relevant in enumerate(qrels)}
    deep = pytrec.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.10,100"}).evaluate(_as_run(rankings, 100))
    shallow = pytrec.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(_as_run(rankings, 10))
    values = {name: [float(deep.get(n, {}).get(trec, 0.0)) for n in judged] for name, trec in _TREC_NAMES.items()}
    return {**values, "mrr_at_10": [float(shallow.get(n, {}).get("recip_rank", 0.0)) for n in judged]}


def measure_documents(
    qrels: Sequence[Mapping[str, int]], rankings: Sequence[Sequence[str]], documents: Mapping[str, str]
) -> dict[str, list[float]]:
    """Return each metric by document for each query. `documents`: passage id -> its document.

    A document counts by its best passage: in the ranking by the first one, in the judgements by the highest score. So a
    judgement on a long document is not worth more than one on a short document.
    """
    judged: list[dict[str, int]] = []
    for relevant in qrels:
        scores: dict[str, int] = {}
        for passage, score in relevant.items():
            scores[documents[passage]] = max(score, scores.get(documents[passage], score))
        judged.append(scores)
    ranked = [list(dict.fromkeys(documents[passage] for passage in ranking)) for ranking in rankings]
    values = measure(judged, ranked)
    return {name: values[name.removeprefix("document_")] for name in DOCUMENT_METRICS}


def _as_run(rankings: Sequence[Sequence[str]], depth: int) -> dict[str, dict[str, float]]:
    """Return the first `depth` passages of each ranking with strictly falling scores.

    With equal scores trec_eval would rank ties by passage id.
    """
    return {
        str(n): {passage: float(depth - rank) for rank, passage in enumerate(ranking[:depth])}
        for n, ranking in enumerate(rankings)
    }
