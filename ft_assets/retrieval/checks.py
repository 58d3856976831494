"""The gates on vectors, collection and ranking. Each reads from the store or the engine and calls one rule."""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.contracts.consumer import broken_formats, broken_retrieval_needs, load_consumers
from expectations.contracts.embedding import EmbeddingContract, Fusion
from expectations.formats.schemas import FORMATS
from expectations.rules import retrieval as rules
from expectations.rules.bootstrap import Interval
from expectations.violations import Violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.checks import contract_of_model
from ft_assets.graph.gates import Evidence, Gate, Verdict, lineage_gate, whole_gate
from ft_assets.retrieval.collection import (
    fusion_of,
    inspect,
    passage_versions,
    sample_cosines,
    serving_of,
    stored_contract,
)
from ft_assets.retrieval.release_baseline import baseline
from ft_assets.retrieval.vectors import FILE, broken_rows, contract_of, empty_rows, widths
from resources.parquet import read_columns

VECTORS, COLLECTION, EVALUATION = "passage_vectors", "qdrant_collection", "retrieval_evaluation"


def one_row(evidence: Evidence) -> Verdict:
    """Every passage has exactly one row of vectors, and every row has its passage."""
    (found, _), (passages, _) = _texts(evidence, VECTORS, FILE), _texts(evidence, "passages", PASSAGES)
    return Verdict(
        rules.one_vector_a_passage(VECTORS, passages, found), {"passages": len(passages), "rows": len(found)}
    )


def one_dimension(evidence: Evidence) -> Verdict:
    """Every dense vector has the dimension of the model's contract."""
    dimension = contract_of_model(evidence).dense.dimensions[0]
    found = widths(evidence.store.require(VECTORS))
    return Verdict(rules.one_dimension(VECTORS, found, dimension), {"dimension": dimension})


def finite(evidence: Evidence) -> Verdict:
    """No vector holds NaN or an infinity."""
    return Verdict(rules.vectors_are_finite(VECTORS, broken_rows(evidence.store.require(VECTORS))))


def same_texts(evidence: Evidence) -> Verdict:
    """Every vector was made from the content that its passage has now."""
    made_from = dict(zip(*_texts(evidence, VECTORS, FILE), strict=True))
    now = dict(zip(*_texts(evidence, "passages", PASSAGES), strict=True))
    return Verdict(rules.vectors_match_texts(VECTORS, now, made_from))


def _texts(evidence: Evidence, asset: str, file: str) -> tuple[list[str], list[str]]:
    """Passage ids and content hashes of a table, in its order."""
    columns = read_columns(evidence.store.require(asset).file(file), ["passage_id", "content_sha256"])
    return columns["passage_id"], columns["content_sha256"]


def lexical_vectors(evidence: Evidence) -> Verdict:
    """Hardly any passage has an empty lexical vector (retrieval.max_empty_sparse_share)."""
    empty, total = empty_rows(evidence.store.require(VECTORS))
    limit = settings_of(evidence.store, "retrieval").max_empty_sparse_share
    rule = rules.lexical_head_is_alive(VECTORS, empty, total, limit, "FT-VEC-005")
    return Verdict(rule, {"empty": empty, "passages": total})


def same_model(evidence: Evidence) -> Verdict:
    """The vectors were made by the current embedding model: the same dimension is not enough."""
    stored = contract_of(evidence.store.require(VECTORS))
    wanted = contract_of_model(evidence)
    figures = {"vectors_encode_fp": stored.encode_fp[:12], "model_encode_fp": wanted.encode_fp[:12]}
    return Verdict(rules.vectors_are_of_model(VECTORS, stored, wanted), figures)


def complete(evidence: Evidence) -> Verdict:
    """The collection holds exactly as many points as there are passages, each with both vectors."""
    expected = int(evidence.store.require(VECTORS).summary["passages"])
    name = candidate_name(evidence)
    with evidence.collections() as client:
        found = inspect(client, name)
    figures = {"points": found.points, "dense": found.dense, "sparse": found.sparse, "passages": expected}
    return Verdict(rules.collection_is_complete(name, expected, found.points, found.dense, found.sparse), figures)


def contract(evidence: Evidence) -> Verdict:
    """The collection's own contract is the one that model and settings want now, and the engine is configured by it."""
    wanted = wanted_contract(evidence)
    name = candidate_name(evidence)
    with evidence.collections() as client:
        stored, config = stored_contract(client, name), client.serving(name)
    figures = {"stored_index_fp": stored.index_fp[:12], "wanted_index_fp": wanted.index_fp[:12]}
    return Verdict(rules.collection_matches_contract(name, stored, wanted, config), figures)


def current_points(evidence: Evidence) -> Verdict:
    """Every point is the one of its passage as it is now: a copied one that should have been replaced is found."""
    name = candidate_name(evidence)
    wanted = passage_versions(evidence.store.require(VECTORS))
    with evidence.collections() as client:
        found = client.field(name, "version") if name in client.names() else {}
    return Verdict(rules.points_are_current(name, wanted, found), {"points": len(found), "passages": len(wanted)})


def engine_is_enough(evidence: Evidence) -> Verdict:
    """The engine suits the size: `local` answers slowly beyond 20,000 points."""
    points = int(evidence.store.require(VECTORS).summary["passages"])
    violations = rules.local_engine_is_enough(COLLECTION, evidence.qdrant.kind, points)
    return Verdict(violations, {"engine": evidence.qdrant.kind, "points": points})


def stored_vectors(evidence: Evidence) -> Verdict:
    """Sampled points hold the vectors that were encoded."""
    vectors = evidence.store.require(VECTORS)
    name = candidate_name(evidence)
    with evidence.collections() as client:
        cosines = sample_cosines(client, name, vectors, wanted_contract(evidence))
    figures = {"sampled": len(cosines), "least": min(cosines.values(), default=1.0)}
    return Verdict(rules.stored_vectors_match(name, cosines), figures)


def fusion_is_worth_it(evidence: Evidence) -> Verdict:
    """The fused ranking is not below its better arm by more than retrieval.fused_epsilon (nDCG@10)."""
    summary = evidence.store.require(EVALUATION).summary
    fused, dense, sparse = (float(summary[f"candidate_{arm}_ndcg_at_10"]) for arm in ("fused", "dense", "sparse"))
    epsilon = settings_of(evidence.store, "retrieval").fused_epsilon
    return Verdict(
        rules.fused_not_below_arms(EVALUATION, fused, dense, sparse, epsilon),
        {"fused": fused, "dense": dense, "sparse": sparse},
    )


def recall(evidence: Evidence) -> Verdict:
    """Recall@10 of the fused ranking reaches retrieval.min_recall_at_10."""
    found = float(evidence.store.require(EVALUATION).summary["candidate_fused_recall_at_10"])
    least = settings_of(evidence.store, "retrieval").min_recall_at_10
    return Verdict(rules.recall_is_enough(EVALUATION, found, least), {"recall_at_10": found})


def live(evidence: Evidence) -> Verdict:
    """Paired on the same queries, the candidate does not lose more than retrieval.tolerance against what is live."""
    summary = evidence.store.require(EVALUATION).summary
    tolerance = settings_of(evidence.store, "retrieval").tolerance
    violations: list[Violation] = []
    figures: dict[str, Any] = {"live": summary["live"]}
    for metric in ("ndcg_at_10", "recall_at_10"):
        if (found := summary.get(f"gain_{metric}")) is not None:
            gain = msgspec.convert(found, Interval)
            violations += rules.not_worse_than_live(EVALUATION, gain, tolerance, metric)
            figures |= {f"{metric}_gain": gain.mean, f"{metric}_gain_low": gain.low, f"{metric}_gain_high": gain.high}
    return Verdict(violations, figures)


def current(evidence: Evidence) -> Verdict:
    """What was evaluated is what would be released now: collection, fusion, and what it is compared to."""
    judged = evidence.store.require(EVALUATION).manifest.recipe.settings
    name = candidate_name(evidence)
    fusion = msgspec.to_builtins(fusion_of(settings_of(evidence.store, "retrieval")))
    now = {
        "collection": name,
        "fusion": fusion,
        "live": baseline(evidence.store, evidence.releases, name, fusion),
    }
    return Verdict(rules.evaluation_is_current(EVALUATION, judged, now), {"collection": name})


def consumers(evidence: Evidence) -> Verdict:
    """Every module around us accepts this candidate (expectations/contracts/consumers)."""
    evaluation = evidence.store.require(EVALUATION)
    found = float(evaluation.summary["candidate_fused_recall_at_10"])
    fusion = msgspec.convert(evaluation.manifest.recipe.settings["fusion"], Fusion)
    served = msgspec.structs.replace(wanted_contract(evidence), fusion=fusion)
    offered = {name: version for name, (_, version) in FORMATS.items()}
    known = load_consumers()
    violations = [v for c in known for v in (*broken_retrieval_needs(c, served, found), *broken_formats(c, offered))]
    return Verdict(violations, {"consumers": ", ".join(consumer.name for consumer in known)})


def candidate_name(evidence: Evidence) -> str:
    """Name of the collection that the current candidate artifact describes."""
    return str(evidence.store.require(COLLECTION).json("collection.json")["collection"])


def wanted_contract(evidence: Evidence) -> EmbeddingContract:
    """The contract that the current model and the current settings ask of a collection, before its release."""
    model = contract_of_model(evidence)
    return model.served(serving_of(settings_of(evidence.store, "retrieval"), model), None)


GATES = [
    whole_gate(VECTORS),
    Gate(VECTORS, "one_row_a_passage", one_row),
    Gate(VECTORS, "one_dimension", one_dimension),
    Gate(VECTORS, "vectors_are_finite", finite),
    Gate(VECTORS, "vectors_match_passages", same_texts),
    Gate(VECTORS, "vectors_are_of_this_model", same_model),
    Gate(VECTORS, "lexical_vectors_are_not_empty", lexical_vectors, needs=("retrieval_settings",)),
    whole_gate(COLLECTION),
    Gate(COLLECTION, "collection_is_complete", complete),
    Gate(COLLECTION, "collection_matches_contract", contract),
    Gate(COLLECTION, "points_are_current", current_points),
    Gate(COLLECTION, "stored_vectors_match", stored_vectors),
    Gate(COLLECTION, "engine_is_enough", engine_is_enough, blocking=False),
    whole_gate(EVALUATION),
    lineage_gate(EVALUATION),
    whole_gate("fusion_sweep"),
    Gate(EVALUATION, "evaluation_is_current", current),
    Gate(EVALUATION, "fused_not_below_arms", fusion_is_worth_it),
    Gate(EVALUATION, "recall_is_enough", recall),
    Gate(EVALUATION, "not_worse_than_live", live),
    Gate(EVALUATION, "consumers_are_satisfied", consumers),
]
