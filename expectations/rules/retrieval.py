"""Rules on the embedding model, the vectors, the collection and the ranking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from expectations.contracts.collection import check_configuration
from expectations.contracts.compare import Difference
from expectations.contracts.embedding import EmbeddingContract, Serving, compare, dimension_violations
from expectations.rules.bootstrap import Interval
from expectations.violations import Violation, violation

VECTOR_DEVIATION = 1e-4
"""An engine that stores 32-bit numbers gives them back with a difference of about 1e-7."""
MAX_EMPTY_PROBE_SHARE = 0.5
MAX_LOCAL_POINTS = 20_000
MIN_SERVED_RECALL = 0.9
"""Share of the ten passages that an exact search finds."""
MAX_SERVED_LOSS = 0.005
_SHOWN = 20  # violations of one rule that are listed


# -- the model ------------------------------------------------------------------------------------------------------
def losses_are_finite(where: str, losses: Sequence[float]) -> list[Violation]:
    """FT-EMB-011: every loss is a number."""
    steps = [step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    if not steps:
        return []
    field, loss = f"steps {steps[:_SHOWN]}", losses[steps[0] - 1]
    return [violation("FT-EMB-011", where=where, field=field, found=loss, expected="a finite number")]


def model_changed(where: str, share: float, epochs: float) -> list[Violation]:
    """FT-EMB-012: training changed parameters (with epochs 0 none need to change)."""
    if share > 0 or epochs == 0:
        return []
    return [violation("FT-EMB-012", where=where, field="parameters_changed", found=share, expected="above 0")]


def base_is_beaten(where: str, gain: Interval | None) -> list[Violation]:
    """FT-EMB-021: the best epoch is not certainly worse than the base model on the validation questions (nDCG@10)."""
    if gain is None or not gain.is_loss(0.0):
        return []
    found = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], n={gain.n}"
    return [violation("FT-EMB-021", where=where, field="gain of nDCG@10", found=found, expected="not below 0")]


def lexical_head_is_there(where: str, lexical: str, trained: bool) -> list[Violation]:
    """FT-EMB-022: the model has a lexical head if that is what serves."""
    if trained or lexical != "learned":
        return []
    expected = "a lexical head, for `retrieval.lexical: learned`"
    return [violation("FT-EMB-022", where=where, field="contract.sparse.head_sha256", found=None, expected=expected)]


def factors_are_learned(where: str, lexical: str, learned: bool) -> list[Violation]:
    """FT-EMB-024: the training has learned factors of BM25, and judged them, if they are to serve."""
    if learned or lexical != "bm25_learned":
        return []
    expected = "factors that were learned and judged, for `retrieval.lexical: bm25_learned`"
    return [violation("FT-EMB-024", where=where, field="summary.factors", found=None, expected=expected)]


def lexical_head_is_alive(
    where: str, empty: int, total: int, limit: float, code: str = "FT-EMB-013"
) -> list[Violation]:
    """FT-EMB-013 (probes), FT-VEC-005 (passages): few texts have an empty lexical vector (FlagEmbedding #982)."""
    share = empty / total if total else 1.0
    if share <= limit:
        return []
    found, expected = round(share, 4), f"at most {limit:g}"
    return [violation(code, where=where, field="empty sparse share", found=found, expected=expected)]


def probes_reproduce(where: str, drifted: Sequence[Difference]) -> list[Violation]:
    """FT-EMB-014: the model still gives the probe texts the vectors that its contract records."""
    return [
        violation(
            "FT-EMB-014", where=where, field=difference.field, found=difference.stored, expected=difference.expected
        )
        for difference in drifted[:_SHOWN]
    ]


def not_below_base(where: str, gain: Interval) -> list[Violation]:
    """FT-EMB-015: the fused ranking after training is not below that before (paired 95 % interval of nDCG@10)."""
    if gain.high >= 0:
        return []
    found, expected = _in_words(gain), "an interval that reaches 0"
    return [violation("FT-EMB-015", where=where, field="nDCG@10 gained", found=found, expected=expected)]


def tokens_are_known(where: str, model: str, unknown: Mapping[str, tuple[int, int]], most: float) -> list[Violation]:
    """FT-EMB-020: the encoder's vocabulary has nearly all tokens. `unknown`: kind of text -> (unknown, all)."""
    return [
        violation(
            "FT-EMB-020",
            where=where,
            message=f"The vocabulary of {model} lacks {count} of {total} tokens of the {kind} (of a sample)",
            field="share of unknown tokens",
            found=round(count / total, 4),
            expected=f"at most {most:g}",
        )
        for kind, (count, total) in unknown.items()
        if count > most * total
    ]


# -- vectors --------------------------------------------------------------------------------------------------------
def one_vector_a_passage(where: str, passages: Sequence[str], vectors: Sequence[str]) -> list[Violation]:
    """FT-VEC-001: every passage has exactly one row of vectors, and there is no row without a passage."""
    wanted, rows = set(passages), Counter(vectors)
    wrong = [(name, 0) for name in passages if name not in rows]
    wrong += [(name, count) for name, count in rows.items() if count != 1 or name not in wanted]
    return [
        violation(
            "FT-VEC-001",
            where=where,
            message=f"Passage {name!r} has {count} rows{'' if name in wanted else ' and is not in the corpus'}",
            field="rows",
            found=count,
            expected=int(name in wanted),
        )
        for name, count in wrong[:_SHOWN]
    ]


def one_dimension(where: str, widths: Sequence[tuple[str, int]], dimension: int) -> list[Violation]:
    """FT-VEC-002: every dense vector has the model's dimension. `widths`: (passage id, values in its vector)."""
    return [
        violation(
            "FT-VEC-002",
            where=where,
            message=f"The dense vector of passage {name!r} has another dimension than the model",
            field="dimension",
            found=width,
            expected=dimension,
        )
        for name, width in widths
        if width != dimension
    ][:_SHOWN]


def vectors_are_finite(where: str, passages: Sequence[str]) -> list[Violation]:
    """FT-VEC-003: no NaN and no infinity in any vector. `passages`: ids of the passages that have one."""
    return [
        violation(
            "FT-VEC-003",
            where=where,
            message=f"A vector of passage {name!r} holds NaN or an infinity",
            field="value",
            found="not finite",
            expected="finite",
        )
        for name in passages[:_SHOWN]
    ]


def vectors_match_texts(where: str, passages: Mapping[str, str], vectors: Mapping[str, str]) -> list[Violation]:
    """FT-VEC-004: a vector was made from the passage's current content. Both: passage id -> content sha256."""
    return [
        violation(
            "FT-VEC-004",
            where=where,
            message=f"The vectors of passage {name!r} were made from another text",
            field="content_sha256",
            found=sha,
            expected=passages[name],
        )
        for name, sha in vectors.items()
        if name in passages and passages[name] != sha
    ][:_SHOWN]


def nothing_is_cut(where: str, lengths: Mapping[str, int], total: int, limit: int, most: float) -> list[Violation]:
    """FT-VEC-010: the encoder reads all of nearly every passage. `lengths`: passage id -> tokens, of those it cuts."""
    cut = len(lengths)
    if cut <= most * total:
        return []
    names = ", ".join(f"{name} ({tokens})" for name, tokens in list(lengths.items())[:5])
    return [
        violation(
            "FT-VEC-010",
            where=where,
            message=f"{cut} of {total} passages have more tokens than the encoder reads ({limit}). Longest: {names}",
            field="share of passages that are cut",
            found=round(cut / total, 4),
            expected=f"at most {most:g}",
        )
    ]


def vectors_are_of_model(where: str, stored: EmbeddingContract, wanted: EmbeddingContract) -> list[Violation]:
    """FT-VEC-006: the vectors were made by the current model: the same dimension is not enough."""
    return compare(stored, wanted).violations(where, "FT-VEC-006") if stored.encode_fp != wanted.encode_fp else []


def lexical_is_configured(where: str, stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[Violation]:
    """FT-VEC-008: the lexical vectors are of the configured arm. Both: setting -> value; `wanted` has those that are
    fixed in config.yaml."""
    return _differing("FT-VEC-008", where, stored, wanted, "retrieval.")


# -- the collection -------------------------------------------------------------------------------------------------
def collection_is_complete(where: str, expected: int, points: int, dense: int, sparse: int) -> list[Violation]:
    """FT-COL-001: as many points as passages, each with both vectors (Qdrant takes a point without one silently)."""
    counts = {"points": points, "points with a dense vector": dense, "points with a sparse vector": sparse}
    return [
        violation("FT-COL-001", where=where, field=name, found=count, expected=expected)
        for name, count in counts.items()
        if count != expected
    ]


def collection_matches_contract(
    where: str, stored: EmbeddingContract, wanted: EmbeddingContract, config: Serving | None
) -> list[Violation]:
    """FT-COL-002: the collection carries the wanted contract (its fusion is decided at the release).

    Also judged: the engine's configuration (FT-COL-003; `config` is None where it has no dense vector), and the
    dimension (FT-EMB-003).
    """
    comparison = compare(without_fusion(stored), without_fusion(wanted))
    dimension = wanted.serving.dimension if wanted.serving else wanted.dense.dimensions[0]
    return [
        *comparison.violations(where, "FT-COL-002"),
        *check_configuration(where, config, stored.serving),
        *dimension_violations(wanted, dimension, where),
    ]


def stored_vectors_match(where: str, deviations: Mapping[str, float]) -> list[Violation]:
    """FT-COL-004: points hold the vectors of passage_vectors. `deviations`: passage id and arm -> largest difference
    between a stored and an encoded number."""
    return [
        violation(
            "FT-COL-004",
            where=where,
            message=f"The stored vector of {name} is not the one that was encoded",
            field="difference",
            found=deviation,
            expected=f"at most {VECTOR_DEVIATION:g}",
        )
        for name, deviation in deviations.items()
        if not deviation <= VECTOR_DEVIATION  # a NaN must fail
    ][:_SHOWN]


def points_are_current(where: str, wanted: Mapping[str, str], stored: Mapping[str, object]) -> list[Violation]:
    """FT-COL-007: every point was made from the current passage. Both: point id -> version of its passage."""
    shared = wanted.keys() & stored.keys()
    counts = {
        "points of another text than their passage's": sum(stored[key] != wanted[key] for key in shared),
        "passages without a point": len(wanted.keys() - stored.keys()),
        "points without a passage": len(stored.keys() - wanted.keys()),
    }
    return [
        violation("FT-COL-007", where=where, field=name, found=count, expected=0)
        for name, count in counts.items()
        if count
    ]


def local_engine_is_enough(where: str, engine: str, points: int) -> list[Violation]:
    """FT-QDR-004: the `local` engine has at most 20,000 points: it compares a query with each of them in Python."""
    if engine != "local" or points <= MAX_LOCAL_POINTS:
        return []
    return [violation("FT-QDR-004", where=where, field="points", found=points, expected=f"at most {MAX_LOCAL_POINTS}")]


# -- the ranking ----------------------------------------------------------------------------------------------------
def fused_not_below_arms(where: str, gain: Interval, arm: str, epsilon: float) -> list[Violation]:
    """FT-RET-001: paired on the same queries, the fused ranking does not lose more than `epsilon` to its better arm,
    unless by chance (as in `not_worse_than_live`). `arm`: the better one."""
    message = f"The fused ranking is worse than the {arm} arm alone"
    return _certain_loss("FT-RET-001", where, gain, epsilon, message=message)


def served_is_exact(where: str, gain: Interval) -> list[Violation]:
    """FT-RET-010: paired on the same queries, the engine's fused ranking is not worse than the exact one.

    An index is approximate: a mean loss of up to 0.005 passes, although on many queries it is certain.
    """
    return _certain_loss("FT-RET-010", where, gain, MAX_SERVED_LOSS)


def served_finds_the_exact(where: str, recall: float) -> list[Violation]:
    """FT-RET-019: the engine's search by dense vectors finds at least 90 % of what its own exact search finds.

    It needs no judged question: it measures the index and the quantized vectors alone.
    """
    if recall >= MIN_SERVED_RECALL:
        return []
    expected = f"at least {MIN_SERVED_RECALL:g}"
    return [violation("FT-RET-019", where=where, field="recall of exact", found=round(recall, 4), expected=expected)]


def not_below_bm25(where: str, gain: Interval) -> list[Violation]:
    """FT-RET-011: paired on the same queries, the served ranking is not worse than BM25, which needs no model at all.

    A mean loss of up to 0.005 passes: on many questions a loss that nobody notices would be certain.
    """
    return _certain_loss("FT-RET-011", where, gain, MAX_SERVED_LOSS)


def rerank_is_worth_it(where: str, gain: Interval) -> list[Violation]:
    """FT-RET-016: paired on the same queries, the ranking with the rerank model is not worse than the one without it.

    As in `not_below_bm25`, a mean loss of up to 0.005 passes.
    """
    return _certain_loss("FT-RET-016", where, gain, MAX_SERVED_LOSS)


def recall_is_enough(where: str, recall: float, least: float) -> list[Violation]:
    """FT-RET-002: Recall@10 of the fused ranking is at least the configured one."""
    if recall >= least:
        return []
    found, expected = round(recall, 4), f"at least {least:g}"
    return [violation("FT-RET-002", where=where, field="Recall@10", found=found, expected=expected)]


def not_worse_than_live(where: str, gain: Interval, tolerance: float, metric: str) -> list[Violation]:
    """FT-RET-003: paired on the same queries, a candidate does not lose more than the tolerance, unless by chance.

    Worse is a mean loss beyond the tolerance whose interval excludes 0. A rule that the whole interval lies within the
    tolerance would stop nearly every change on some hundred questions; one that it lies beyond, hardly any.
    """
    return _certain_loss("FT-RET-003", where, gain, tolerance, metric=metric)


def evaluation_is_current(where: str, judged: Mapping[str, object], now: Mapping[str, object]) -> list[Violation]:
    """FT-RET-004: what was evaluated is what would be released: the collection, the fusion, the comparison."""
    return _differing("FT-RET-004", where, judged, now)


def choice_is_current(where: str, chosen_with: Mapping[str, object], now: Mapping[str, object]) -> list[Violation]:
    """FT-RET-014: the fusion was chosen with the settings that are current."""
    return _differing("FT-RET-014", where, chosen_with, now)


def without_fusion(contract: EmbeddingContract) -> EmbeddingContract:
    """Return the contract of a collection that is not released yet."""
    return contract if contract.serving is None else contract.served(contract.serving, None)


def _certain_loss(
    code: str, where: str, gain: Interval, tolerance: float, *, message: str = "", metric: str = "nDCG@10"
) -> list[Violation]:
    """Return a violation if the mean loss is beyond the tolerance and the interval excludes 0."""
    if not gain.is_loss(tolerance):
        return []
    expected = f"at least {-tolerance:g}, or an interval that reaches 0"
    found = _in_words(gain)
    return [violation(code, where=where, message=message, field=f"{metric} gained", found=found, expected=expected)]


def _differing(
    code: str, where: str, stored: Mapping[str, object], wanted: Mapping[str, object], prefix: str = ""
) -> list[Violation]:
    """Return a violation for each wanted value that is not the stored one."""
    return [
        violation(code, where=where, field=f"{prefix}{name}", found=stored.get(name), expected=value)
        for name, value in wanted.items()
        if stored.get(name) != value
    ]


def _in_words(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] on {interval.n} queries"
