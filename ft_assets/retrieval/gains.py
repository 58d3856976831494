"""The figures of the two evaluations of retrieval, from the scores of each question.

The workers write them into their manifests, and the gates compute them again from the sealed scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from expectations.rules.bootstrap import Interval, paired_bootstrap
from ft_assets.embedding.scores import Scores, gain, gain_over_bm25, means, read_scores
from resources.artifacts import Artifact, ArtifactStore

BEFORE_RERANK = "before_rerank"
"""The arm with the fused ranking of a system with a rerank model, whose `fused` ranking is the final one."""
EXACT_FILE = "exact_search.json"


class ExactSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Content of exact_search.json, by question of a sample: the best passages by the engine's own exact search of
    dense vectors, and those of them that the served search finds."""

    exact: Sequence[int]
    found: Sequence[int]

    @property
    def share(self) -> float:
        """The share that is found."""
        return round(sum(self.found) / max(sum(self.exact), 1), 4)


def gains_of_candidate(scores: Scores) -> dict[str, Interval | None]:
    """Return the gains of `retrieval_evaluation` in pairs, by the names of its summary; None where nothing is compared
    with."""
    live, before = ("live", "fused") in scores, ("candidate", BEFORE_RERANK)
    fused = scores["candidate", "fused"]
    arms = [scores["candidate", arm]["ndcg_at_10"] for arm in ("dense", "sparse")]
    served = scores.get(before, fused)
    return {
        "gain_ndcg_at_10": gain(scores, "candidate", "live", "ndcg_at_10") if live else None,
        "gain_recall_at_10": gain(scores, "candidate", "live", "recall_at_10") if live else None,
        # before any rerank model, as the exact ranking is
        "gain_over_exact": paired_bootstrap(served["ndcg_at_10"], scores["exact", "fused"]["ndcg_at_10"]),
        "gain_over_arm": paired_bootstrap(fused["ndcg_at_10"], max(arms, key=sum)),
        "gain_over_bm25": gain_over_bm25(scores, "candidate"),
        "gain_over_bm25_by_document": gain_over_bm25(scores, "candidate", "document_ndcg_at_10"),
        "gain_by_rerank": _gain_by_rerank(scores, "ndcg_at_10"),
        "gain_by_rerank_by_document": _gain_by_rerank(scores, "document_ndcg_at_10"),
    }


def _gain_by_rerank(scores: Scores, metric: str) -> Interval | None:
    if ("candidate", BEFORE_RERANK) not in scores:
        return None
    return paired_bootstrap(scores["candidate", "fused"][metric], scores["candidate", BEFORE_RERANK][metric])


def gains_of_model(scores: Scores) -> dict[str, Interval]:
    """Return the gains of `embedding_evaluation` in pairs, by the names of its summary."""
    return {
        "gain": gain(scores, "trained", "base", "ndcg_at_10"),
        "gain_over_bm25": gain_over_bm25(scores, "trained"),
        "gain_over_bm25_by_document": gain_over_bm25(scores, "trained", "document_ndcg_at_10"),
    }


def figures_of_evaluation(store: ArtifactStore, evaluation: Artifact) -> dict[str, object]:
    """Return the figures of a `retrieval_evaluation` from its files."""
    del store
    scores = read_scores(evaluation)
    questions = len(scores["candidate", "fused"]["ndcg_at_10"])
    exact = msgspec.convert(evaluation.json(EXACT_FILE), ExactSearch)
    recall = {"recall_of_exact": exact.share}
    return {"questions": questions, **recall, **gains_of_candidate(scores), **means(scores)}


def figures_of_comparison(store: ArtifactStore, evaluation: Artifact) -> dict[str, object]:
    """Return the figures of an `embedding_evaluation` from its scores."""
    del store
    scores = read_scores(evaluation)
    return {"questions": len(scores["trained", "fused"]["ndcg_at_10"]), **gains_of_model(scores), **means(scores)}
