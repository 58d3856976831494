"""What must hold of vectors, collections and rankings, and how a ranking is measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from expectations.contracts.compare import Difference
from expectations.contracts.embedding import EmbeddingContract, Serving, compare, dimension_violations
from expectations.rules.bootstrap import Interval
from expectations.violations import Violation

METRICS = ("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10")
SAMPLE_COSINE = 0.999
MAX_EMPTY_PROBE_SHARE = 0.5
MAX_LOCAL_POINTS = 20_000
_SHOWN = 20  # violations of one rule that are spelt out
_REINDEX = "ft run --group retrieval"
_RETRAIN = "ft run --group embedding"


# -- measuring ------------------------------------------------------------------------------------------------------
def measure(qrels: Sequence[Mapping[str, int]], rankings: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Each metric for each query, by trec_eval. `rankings` are passage ids, best first; their order alone counts.

    Graded relevance counts for nDCG. MRR is cut at rank 10, which trec_eval's own recip_rank is not.
    """
    import pytrec_eval  # pyright: ignore[reportMissingTypeStubs]

    def run(depth: int) -> dict[str, dict[str, float]]:
        # strictly falling scores: trec_eval would break ties by passage id
        return {
            str(n): {passage: float(depth - rank) for rank, passage in enumerate(ranking[:depth])}
            for n, ranking in enumerate(rankings)
        }

    judged = {str(n): dict(relevant) for n, relevant in enumerate(qrels)}
    pytrec: Any = pytrec_eval
    deep = pytrec.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.10,100"}).evaluate(run(100))
    shallow = pytrec.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(run(10))
    names = {"ndcg_at_10": "ndcg_cut_10", "recall_at_10": "recall_10", "recall_at_100": "recall_100"}
    made = {ours: [float(deep.get(n, {}).get(theirs, 0.0)) for n in judged] for ours, theirs in names.items()}
    return {**made, "mrr_at_10": [float(shallow.get(n, {}).get("recip_rank", 0.0)) for n in judged]}


# -- the model ------------------------------------------------------------------------------------------------------
def losses_are_finite(where: str, losses: Sequence[float]) -> list[Violation]:
    """FT-EMB-011: every loss is a number."""
    bad = [step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    if not bad:
        return []
    return [_violation("FT-EMB-011", where, "the loss is not finite.", f"steps {bad[:_SHOWN]}", losses[bad[0] - 1],
                       "a number", "lower embedding.learning_rate, then " + _RETRAIN)]  # fmt: skip


def model_changed(where: str, share: float, epochs: float) -> list[Violation]:
    """FT-EMB-012: training changed parameters (epochs 0 asks for none)."""
    if share > 0 or epochs == 0:
        return []
    return [_violation("FT-EMB-012", where, "training left every parameter as it was.", "parameters_changed", share,
                       "above 0", "check embedding.learning_rate and retrieval_splits, then " + _RETRAIN)]  # fmt: skip


def lexical_head_is_alive(
    where: str, empty: int, total: int, limit: float, code: str = "FT-EMB-013"
) -> list[Violation]:
    """FT-EMB-013 (probes), FT-VEC-005 (passages): few texts have an empty lexical vector (FlagEmbedding #982)."""
    share = empty / total if total else 1.0
    if share <= limit:
        return []
    return [_violation(code, where, "the lexical head has collapsed: too many texts have no token with a weight.",
                       "empty sparse share", round(share, 4), f"at most {limit:g}",
                       "lower embedding.head_learning_rate or raise sparse_temperature, then " + _RETRAIN)]  # fmt: skip


def probes_reproduce(where: str, drifted: Sequence[Difference]) -> list[Violation]:
    """FT-EMB-014: the model still gives the probe texts the vectors its contract records."""
    fix = "install the library versions that the contract names, or " + _RETRAIN
    return [
        _violation("FT-EMB-014", where, "the model no longer gives this probe the vector its contract records.",
                   difference.field, difference.stored, difference.expected, fix)
        for difference in drifted[:_SHOWN]
    ]  # fmt: skip


def not_below_base(where: str, gain: Interval) -> list[Violation]:
    """FT-EMB-015: the fused ranking after training is not below that before (paired 95 % interval of nDCG@10)."""
    if gain.high >= 0:
        return []
    return [_violation("FT-EMB-015", where, "training made the fused ranking worse.", "nDCG@10 gained",
                       _shown(gain), "an interval that reaches 0",
                       "train more gently (learning_rate, epochs), or set embedding.epochs: 0")]  # fmt: skip


# -- vectors --------------------------------------------------------------------------------------------------------
def one_vector_a_passage(where: str, passages: Sequence[str], vectors: Sequence[str]) -> list[Violation]:
    """FT-VEC-001: every passage has exactly one row of vectors, and there is no row without a passage."""
    wanted, found = set(passages), Counter(vectors)
    odd = [(name, 0) for name in passages if name not in found]
    odd += [(name, count) for name, count in found.items() if count != 1 or name not in wanted]
    return [
        _violation("FT-VEC-001", where, f"passage {name!r} has {count} rows" + ("." if name in wanted else
                   " and is not in the corpus."), "rows", count, int(name in wanted), "ft run --asset passage_vectors")
        for name, count in odd[:_SHOWN]
    ]  # fmt: skip


def one_dimension(where: str, widths: Sequence[tuple[str, int]], dimension: int) -> list[Violation]:
    """FT-VEC-002: every dense vector has the model's dimension. `widths`: (passage id, values in its vector)."""
    return [
        _violation("FT-VEC-002", where, f"the dense vector of passage {name!r} has another dimension.",
                   "dimension", width, dimension, "ft run --asset passage_vectors")
        for name, width in widths if width != dimension
    ][:_SHOWN]  # fmt: skip


def vectors_are_finite(where: str, broken: Sequence[str]) -> list[Violation]:
    """FT-VEC-003: no NaN and no infinity in any vector. `broken`: ids of the passages that have one."""
    return [
        _violation("FT-VEC-003", where, f"a vector of passage {name!r} holds NaN or an infinity.", "value",
                   "not finite", "finite", "check accelerator.dtype, then ft run --asset passage_vectors")
        for name in broken[:_SHOWN]
    ]  # fmt: skip


def vectors_match_texts(where: str, passages: Mapping[str, str], vectors: Mapping[str, str]) -> list[Violation]:
    """FT-VEC-004: a vector was made from the content that the passage has now. Both: passage id -> content sha256."""
    return [
        _violation("FT-VEC-004", where, f"the vectors of passage {name!r} were made from another text.",
                   "content_sha256", sha, passages[name], "ft run --asset passage_vectors")
        for name, sha in vectors.items() if name in passages and passages[name] != sha
    ][:_SHOWN]  # fmt: skip


def vectors_are_of_model(where: str, stored: EmbeddingContract, wanted: EmbeddingContract) -> list[Violation]:
    """FT-VEC-006: the vectors were made by this very model: the same dimension is not enough."""
    return compare(stored, wanted).violations(where, "FT-VEC-006") if stored.encode_fp != wanted.encode_fp else []


# -- the collection -------------------------------------------------------------------------------------------------
def collection_is_complete(where: str, expected: int, points: int, dense: int, sparse: int) -> list[Violation]:
    """FT-COL-001: as many points as passages, each with both vectors (Qdrant takes a point without one silently)."""
    found = {"points": points, "points with a dense vector": dense, "points with a sparse vector": sparse}
    return [
        _violation("FT-COL-001", where, "the collection is not whole.", name, count, expected,
                   "ft run --asset qdrant_collection (continues a half-built one)")
        for name, count in found.items() if count != expected
    ]  # fmt: skip


def collection_matches_contract(
    where: str, stored: EmbeddingContract, wanted: EmbeddingContract, config: Serving | None
) -> list[Violation]:
    """FT-COL-002 stale index, FT-COL-003 the collection is not built as its own metadata says, FT-EMB-003 dimension.

    Fusion is no part of it: that is decided at the release. `config` is what the engine says (None: no dense vector).
    """
    comparison = compare(without_fusion(stored), without_fusion(wanted))
    violations = comparison.violations(where, "FT-COL-002")
    if config != stored.serving:
        violations.append(
            _violation("FT-COL-003", where, "BROKEN: the engine's configuration is not what the contract says.",
                       "dimension, distance", _plain(config), _plain(stored.serving),
                       "delete this collection in Qdrant, then " + _REINDEX)
        )  # fmt: skip
    dimension = wanted.serving.dimension if wanted.serving else wanted.dense.dimensions[0]
    return violations + dimension_violations(wanted, dimension, where)


def stored_vectors_match(where: str, cosines: Mapping[str, float]) -> list[Violation]:
    """FT-COL-004: sampled points hold the vectors of passage_vectors. `cosines`: passage id and arm -> cosine."""
    return [
        _violation("FT-COL-004", where, f"the stored vector of {name} is not the one that was encoded.",
                   "cosine", round(cosine, 6), SAMPLE_COSINE, "delete this collection in Qdrant, then " + _REINDEX)
        for name, cosine in cosines.items() if not cosine >= SAMPLE_COSINE
    ][:_SHOWN]  # fmt: skip


def points_are_current(where: str, wanted: Mapping[str, str], found: Mapping[str, Any]) -> list[Violation]:
    """FT-COL-007: every point was made from the passage as it is now. Both: point id -> version of its passage."""
    odd = {
        "points of another text than their passage's": sum(found[key] != version for key, version in wanted.items()
                                                           if key in found),
        "passages without a point": len(wanted.keys() - found.keys()),
        "points without a passage": len(found.keys() - wanted.keys()),
    }  # fmt: skip
    return [
        _violation("FT-COL-007", where, "the collection is not of this corpus.", name, count, 0,
                   "ft run --asset qdrant_collection (writes what differs)")
        for name, count in odd.items() if count
    ]  # fmt: skip


def local_engine_is_enough(where: str, engine: str, points: int) -> list[Violation]:
    """FT-QDR-004: the `local` engine compares a query with every point in Python: fine up to 20,000 of them."""
    if engine != "local" or points <= MAX_LOCAL_POINTS:
        return []
    return [_violation("FT-QDR-004", where, "the local engine is slow at this size.", "points", points,
                       f"at most {MAX_LOCAL_POINTS}", "ft migrate --to edge, or --to server --url URL")]  # fmt: skip


# -- the ranking ----------------------------------------------------------------------------------------------------
def fused_not_below_arms(where: str, fused: float, dense: float, sparse: float, epsilon: float) -> list[Violation]:
    """FT-RET-001: fusing does not rank worse (nDCG@10) than its better arm alone, by more than `epsilon`."""
    arm, best = ("dense", dense) if dense >= sparse else ("sparse", sparse)
    if fused >= best - epsilon:
        return []
    return [_violation("FT-RET-001", where, f"the fused ranking is worse than the {arm} arm alone.", "nDCG@10",
                       round(fused, 4), f"at least {best:.4f} - {epsilon:g}",
                       "set retrieval.dense_weight and sparse_weight as fusion_sweep recommends")]  # fmt: skip


def recall_is_enough(where: str, recall: float, least: float) -> list[Violation]:
    """FT-RET-002: Recall@10 of the fused ranking reaches what the settings ask for."""
    if recall >= least:
        return []
    return [_violation("FT-RET-002", where, "the fused ranking finds too little.", "Recall@10", round(recall, 4),
                       f"at least {least:g}", "train more, or lower retrieval.min_recall_at_10")]  # fmt: skip


def not_worse_than_live(where: str, gain: Interval, tolerance: float, metric: str) -> list[Violation]:
    """FT-RET-003: paired on the same queries, a release does not lose more than is tolerated, unless by chance.

    Worse is a mean loss beyond the tolerance whose interval excludes 0. To ask that the whole interval lies within the
    tolerance would hold nearly every change on some hundred questions; to ask that it lies beyond, hardly any.
    """
    if gain.mean >= -tolerance or gain.high >= 0:
        return []
    return [_violation("FT-RET-003", where, "the candidate is worse than what is live by more than is tolerated.",
                       f"{metric} gained", _shown(gain), f"at least {-tolerance:g}, or an interval that reaches 0",
                       "fix the candidate, or raise retrieval.tolerance")]  # fmt: skip


def evaluation_is_current(where: str, judged: Mapping[str, Any], now: Mapping[str, Any]) -> list[Violation]:
    """FT-RET-004: what was evaluated is what would be released: the collection, the fusion, the comparison."""
    return [
        _violation("FT-RET-004", where, "the evaluation judged something else.", name, judged.get(name), value,
                   "ft run --asset retrieval_evaluation")
        for name, value in now.items() if judged.get(name) != value
    ]  # fmt: skip


def without_fusion(contract: EmbeddingContract) -> EmbeddingContract:
    """The contract of a collection that is not released yet."""
    return contract if contract.serving is None else contract.served(contract.serving, None)


def _plain(serving: Serving | None) -> str:
    return f"{serving.dimension}, {serving.distance}" if serving else "none"


def _shown(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] on {interval.n} queries"


def _violation(  # noqa: PLR0917 - a row of a table
    code: str, where: str, message: str, field: str, found: Any, expected: Any, fix: str
) -> Violation:
    return Violation(code=code, where=where, message=message, field=field, found=found, expected=expected, fix=fix)
