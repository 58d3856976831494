"""The gates on vectors, collection and ranking. Each one reads from the store or the engine and calls one rule."""

from __future__ import annotations

from itertools import islice

import msgspec

from expectations.contracts.consumer import broken_formats, broken_retrieval_needs, load_consumers
from expectations.contracts.embedding import EmbeddingContract, Fusion, Storage
from expectations.formats.schemas import FORMATS
from expectations.lexical.bm25 import FREQUENCIES_KEY, frequencies_are_of_contract
from expectations.rules import retrieval as rules
from expectations.rules.bootstrap import Interval
from expectations.rules.lineage import made_from_current
from expectations.violations import Violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.embedding.checks import contract_of_model
from ft_assets.graph.figures_gate import figures_gate
from ft_assets.graph.gates import Evidence, Gate, Verdict, lineage_gate, whole_gate
from ft_assets.retrieval.audit import Audit, audit, point_violations
from ft_assets.retrieval.choose_fusion import SWEEP, choice_of, label, served_fusion_of, sweep_settings
from ft_assets.retrieval.collection import inspect, passage_versions, serving_of, storage_of, stored_contract
from ft_assets.retrieval.gains import figures_of_comparison, figures_of_evaluation
from ft_assets.retrieval.jobs import (
    CandidateScores,
    ModelComparisonSummary,
    RetrievalEvaluationSummary,
    read_collection_file,
)
from ft_assets.retrieval.release_baseline import baseline
from ft_assets.retrieval.table_facts import TextFacts, number_facts, text_facts
from ft_assets.retrieval.vectors import VECTORS_FILE, contract_of, read_cut
from resources.parquet import row_count

_VECTORS, _COLLECTION, _EVALUATION = "passage_vectors", "qdrant_collection", "retrieval_evaluation"
_COMPARISON = "embedding_evaluation"


def one_row(evidence: Evidence) -> Verdict:
    """Every passage has exactly one row of vectors, and every row has its passage."""
    facts = _texts(evidence)
    return Verdict(facts.one_row, {"passages": facts.passages, "rows": facts.rows})


def one_dimension(evidence: Evidence) -> Verdict:
    """Every dense vector has the dimension of the model's contract."""
    dimension = contract_of_model(evidence).dense.dimensions[0]
    widths = number_facts(evidence.store.require(_VECTORS)).widths
    return Verdict(rules.one_dimension(_VECTORS, widths, dimension), {"dimension": dimension})


def finite(evidence: Evidence) -> Verdict:
    """No vector holds NaN or an infinity."""
    return Verdict(rules.vectors_are_finite(_VECTORS, number_facts(evidence.store.require(_VECTORS)).non_finite))


def same_texts(evidence: Evidence) -> Verdict:
    """Every vector was made from the content that its passage has now."""
    return Verdict(_texts(evidence).same_texts)


def _texts(evidence: Evidence) -> TextFacts:
    return text_facts(evidence.store.require(_VECTORS), evidence.store.require("passages"))


def lexical_vectors(evidence: Evidence) -> Verdict:
    """Hardly any passage has an empty lexical vector (retrieval.max_empty_sparse_share)."""
    facts = number_facts(evidence.store.require(_VECTORS))
    limit = settings_of(evidence.store, "retrieval").max_empty_sparse_share
    violations = rules.lexical_head_is_alive(_VECTORS, facts.empty, facts.rows, limit, "FT-VEC-005")
    return Verdict(violations, {"empty": facts.empty, "passages": facts.rows})


def nothing_is_cut(evidence: Evidence) -> Verdict:
    """Hardly any passage has more tokens than the encoder reads (retrieval.max_cut_share)."""
    artifact = evidence.store.require(_VECTORS)
    lengths = {passage.passage_id: passage.tokens for passage in read_cut(artifact)}
    total = row_count(artifact.table(VECTORS_FILE))
    limit = contract_of(artifact).texts.passage_max_tokens
    most = settings_of(evidence.store, "retrieval").max_cut_share
    violations = rules.nothing_is_cut(_VECTORS, lengths, total, limit, most)
    longest = dict(islice(lengths.items(), 20))
    return Verdict(violations, {"cut": len(lengths), "passages": total, "tokens_read": limit, "longest": longest})


def same_model(evidence: Evidence) -> Verdict:
    """The vectors were made by the current embedding model. An equal dimension is not enough."""
    stored = contract_of(evidence.store.require(_VECTORS))
    wanted = contract_of_model(evidence)
    figures = {"vectors_encode_fp": stored.encode_fp[:12], "model_encode_fp": wanted.encode_fp[:12]}
    return Verdict(rules.vectors_are_of_model(_VECTORS, stored, wanted), figures)


def lexical_arm(evidence: Evidence) -> Verdict:
    """The lexical vectors are of the arm that the settings ask for, with its language, stop words, k1 and b."""
    contract, settings = contract_of(evidence.store.require(_VECTORS)), settings_of(evidence.store, "retrieval")
    lexical = contract.lexical
    stored: dict[str, object] = {"lexical": "learned"}
    wanted: dict[str, object] = {"lexical": settings.lexical}
    if lexical:
        stored |= {"lexical": lexical.kind, "bm25_k1": lexical.k1, "bm25_b": lexical.b}
        stored |= {"language": lexical.language, "stop_words": lexical.stop_words}
    if settings.lexical == "bm25_learned":
        factors = contract_of_model(evidence).factors_sha256 or None
        stored |= {"factors": (lexical and lexical.kind == "bm25_learned" and contract.factors_sha256) or None}
        wanted |= {"lexical": "bm25_learned" if factors else "bm25", "factors": factors}
    if settings.lexical != "learned":
        wanted |= {"bm25_k1": settings.bm25_k1, "bm25_b": settings.bm25_b}
        wanted |= {} if settings.language == "auto" else {"language": settings.language}
        wanted |= {} if settings.stop_words is None else {"stop_words": sorted(set(settings.stop_words))}
    return Verdict(rules.lexical_is_configured(_VECTORS, stored, wanted), stored)


def complete(evidence: Evidence) -> Verdict:
    """The collection holds exactly as many points as there are passages, each with both vectors."""
    expected = row_count(evidence.store.require(_VECTORS).table(VECTORS_FILE))
    name = candidate_name(evidence)
    with evidence.collections() as client:
        stored = inspect(client, name)
    figures = {"points": stored.points, "dense": stored.dense, "sparse": stored.sparse, "passages": expected}
    return Verdict(rules.collection_is_complete(name, expected, stored.points, stored.dense, stored.sparse), figures)


def contract(evidence: Evidence) -> Verdict:
    """The collection has the contract that model and settings require now, and the engine is configured by it."""
    wanted = wanted_contract(evidence, storage_of(settings_of(evidence.store, "qdrant")))
    name = candidate_name(evidence)
    with evidence.collections() as client:
        stored, config = stored_contract(client, name), client.serving(name)
        frequencies = client.metadata(name).get(FREQUENCIES_KEY)
    figures = {"stored_index_fp": stored.index_fp[:12], "wanted_index_fp": wanted.index_fp[:12]}
    violations = rules.collection_matches_contract(name, stored, wanted, config)
    return Verdict([*violations, *frequencies_are_of_contract(name, stored.lexical, frequencies)], figures)


def current_points(evidence: Evidence) -> Verdict:
    """Every point holds the text that its passage has now, also a point copied from an earlier collection. The texts of
    all points are hashed; stored vectors are the ones that were encoded: all of them up to 20,000 passages, beyond that
    a sample that changes every hour."""
    vectors = evidence.store.require(_VECTORS)
    name = candidate_name(evidence)
    passages = evidence.store.require("passages")
    with evidence.collections() as client:
        if name not in client.names():
            audited = Audit(passage_versions(vectors, passages), {}, {})
        else:
            audited = audit(client, name, vectors, passages, wanted_contract(evidence))
    figures = {"points": len(audited.versions), "vectors_compared": len(audited.deviations)}
    return Verdict(point_violations(name, audited), figures)


def engine_is_enough(evidence: Evidence) -> Verdict:
    """The engine suits the size: `local` is refused beyond 20,000 points."""
    points = row_count(evidence.store.require(_VECTORS).table(VECTORS_FILE))
    violations = rules.local_engine_is_enough(_COLLECTION, evidence.qdrant.kind, points)
    return Verdict(violations, {"engine": evidence.qdrant.kind, "points": points})


def choice(evidence: Evidence) -> Verdict:
    """The fusion that `auto` serves was chosen with the current settings, on the current vectors and questions."""
    store = evidence.store
    settings, sweep = settings_of(store, "retrieval"), store.require(SWEEP)
    if settings.fusion != "auto":
        return Verdict([], {"fusion": settings.fusion})
    chosen = choice_of(sweep)
    recipe = sweep.manifest.recipe
    wanted = sweep_settings(settings, serving_of(settings, contract_of(store.require(_VECTORS))))
    # a passage that counts is in the vectors: a new payload alone asks for no other choice
    used = {name: version for name, version in recipe.inputs.items() if name != "passages"}
    current = {name: found.data_version for name in used if (found := store.current(name))}
    violations = rules.choice_is_current(SWEEP, recipe.settings, wanted)
    figures = {"fusion": label(chosen.fusion), "questions": chosen.questions, "reason": chosen.reason}
    return Verdict([*violations, *made_from_current(SWEEP, used, current)], figures)


def training_gain(evidence: Evidence) -> Verdict:
    """After training the fused ranking is not below that of the base (paired 95 % interval of nDCG@10)."""
    gain = evidence.store.require(_COMPARISON).summary_as(ModelComparisonSummary).gain
    return Verdict(rules.not_below_base(_COMPARISON, gain), _shown("gain", gain))


def bm25(evidence: Evidence) -> Verdict:
    """On the same questions, the served fused ranking is not below that of BM25 (nDCG@10)."""
    gain = evidence.store.require(_EVALUATION).summary_as(RetrievalEvaluationSummary).gain_over_bm25
    return Verdict(rules.not_below_bm25(_EVALUATION, gain) if gain else [], _shown("gain", gain))


def fusion_is_worth_it(evidence: Evidence) -> Verdict:
    """On the same queries, the fused ranking does not lose more than retrieval.fused_epsilon to its better arm."""
    evaluation = evidence.store.require(_EVALUATION)
    scores = evaluation.summary_as(CandidateScores)
    dense, sparse = scores.candidate_dense_ndcg_at_10, scores.candidate_sparse_ndcg_at_10
    gain = evaluation.summary_as(RetrievalEvaluationSummary).gain_over_arm
    epsilon = settings_of(evidence.store, "retrieval").fused_epsilon
    arm = "dense" if dense >= sparse else "sparse"
    violations = rules.fused_not_below_arms(_EVALUATION, gain, arm, epsilon) if gain else []
    figures = {"fused": scores.candidate_fused_ndcg_at_10, "dense": dense, "sparse": sparse}
    return Verdict(violations, {**figures, **_shown("gain", gain)})


def served_is_exact(evidence: Evidence) -> Verdict:
    """On the same queries, the engine's fused ranking is not worse than the exact one of the same vectors (nDCG@10),
    and its search by dense vectors finds what its own exact search finds (a sample of 200 queries)."""
    summary = evidence.store.require(_EVALUATION).summary_as(RetrievalEvaluationSummary)
    gain, share = summary.gain_over_exact, summary.recall_of_exact
    violations = rules.served_is_exact(_EVALUATION, gain) if gain else []
    if share is None:
        return Verdict(violations, _shown("gain", gain))
    violations += rules.served_finds_the_exact(_EVALUATION, share)
    return Verdict(violations, {**_shown("gain", gain), "recall_of_exact": share})


def rerank(evidence: Evidence) -> Verdict:
    """On the same queries, the ranking with the rerank model is not below the one without it (nDCG@10)."""
    gain = evidence.store.require(_EVALUATION).summary_as(RetrievalEvaluationSummary).gain_by_rerank
    return Verdict(rules.rerank_is_worth_it(_EVALUATION, gain) if gain else [], _shown("gain", gain))


def recall(evidence: Evidence) -> Verdict:
    """Recall@10 of the fused ranking reaches retrieval.min_recall_at_10."""
    recall_at_10 = evidence.store.require(_EVALUATION).summary_as(CandidateScores).candidate_fused_recall_at_10
    least = settings_of(evidence.store, "retrieval").min_recall_at_10
    return Verdict(rules.recall_is_enough(_EVALUATION, recall_at_10, least), {"recall_at_10": recall_at_10})


def live(evidence: Evidence) -> Verdict:
    """On the same queries, the candidate does not lose more than retrieval.tolerance compared with what is live."""
    summary = evidence.store.require(_EVALUATION).summary_as(RetrievalEvaluationSummary)
    tolerance = settings_of(evidence.store, "retrieval").tolerance
    violations: list[Violation] = []
    figures: dict[str, str | float] = {"live": summary.live}
    gains = {"ndcg_at_10": summary.gain_ndcg_at_10, "recall_at_10": summary.gain_recall_at_10}
    for metric, gain in gains.items():
        if gain is not None:
            violations += rules.not_worse_than_live(_EVALUATION, gain, tolerance, metric)
            figures |= _shown(f"{metric}_gain", gain)
    return Verdict(violations, figures)


def _shown(name: str, gain: Interval | None) -> dict[str, float]:
    return {name: gain.mean, f"{name}_low": gain.low, f"{name}_high": gain.high} if gain else {}


def current(evidence: Evidence) -> Verdict:
    """The evaluation is of the current candidate: same collection, same fusion, compared with the same release and with
    the exact ranking."""
    evaluation = evidence.store.require(_EVALUATION)
    exact = evaluation.summary_as(RetrievalEvaluationSummary).gain_over_exact
    judged = {**evaluation.manifest.recipe.settings, "compared with the exact ranking": exact is not None}
    name = candidate_name(evidence)
    fusion = served_fusion_of(evidence.store)
    live = baseline(evidence.store, evidence.releases, name, fusion)
    now = msgspec.to_builtins({"collection": name, "fusion": fusion, "live": live})
    now["compared with the exact ranking"] = True
    return Verdict(rules.evaluation_is_current(_EVALUATION, judged, now), {"collection": name})


def consumers(evidence: Evidence) -> Verdict:
    """Every consumer of the collection accepts this candidate (expectations/contracts/consumers)."""
    evaluation = evidence.store.require(_EVALUATION)
    recall_at_10 = evaluation.summary_as(CandidateScores).candidate_fused_recall_at_10
    fusion = msgspec.convert(evaluation.manifest.recipe.settings["fusion"], Fusion)
    served = msgspec.structs.replace(wanted_contract(evidence), fusion=fusion)
    return judge_consumers(served, recall_at_10)


def judge_consumers(contract: EmbeddingContract, recall_at_10: float) -> Verdict:
    """Return the verdict of every consumer on a collection with this contract, and on our record formats."""
    offered = {name: version for name, (_, version) in FORMATS.items()}
    known = load_consumers()
    violations: list[Violation] = []
    for consumer in known:
        violations += broken_retrieval_needs(consumer, contract, recall_at_10)
        violations += broken_formats(consumer, offered)
    return Verdict(violations, {"consumers": ", ".join(consumer.name for consumer in known)})


def candidate_name(evidence: Evidence) -> str:
    """Return the name of the collection that the current candidate artifact describes."""
    return read_collection_file(evidence.store.require(_COLLECTION)).collection


def wanted_contract(evidence: Evidence, storage: Storage | None = None) -> EmbeddingContract:
    """Return the contract that the current model, vectors and settings require of a collection, before its release."""
    lexical = contract_of(evidence.store.require(_VECTORS)).lexical
    model = msgspec.structs.replace(contract_of_model(evidence), lexical=lexical)
    return model.served(serving_of(settings_of(evidence.store, "retrieval"), model, storage), None)


GATES = [
    whole_gate(_VECTORS),
    Gate(_VECTORS, "one_row_a_passage", one_row),
    Gate(_VECTORS, "one_dimension", one_dimension),
    Gate(_VECTORS, "vectors_are_finite", finite),
    Gate(_VECTORS, "vectors_match_passages", same_texts),
    Gate(_VECTORS, "vectors_are_of_this_model", same_model),
    Gate(_VECTORS, "lexical_vectors_are_not_empty", lexical_vectors, needs=("retrieval_settings",)),
    Gate(_VECTORS, "lexical_arm_is_configured", lexical_arm),
    Gate(_VECTORS, "nothing_is_cut", nothing_is_cut, needs=("retrieval_settings",)),
    whole_gate("base_vectors"),
    whole_gate(_COMPARISON),
    figures_gate(_COMPARISON, figures_of_comparison),
    Gate(_COMPARISON, "not_below_base", training_gain),
    whole_gate(_COLLECTION),
    Gate(_COLLECTION, "collection_is_complete", complete),
    Gate(_COLLECTION, "collection_matches_contract", contract),
    Gate(_COLLECTION, "points_are_current", current_points),
    Gate(_COLLECTION, "engine_is_enough", engine_is_enough),
    whole_gate(_EVALUATION),
    figures_gate(_EVALUATION, figures_of_evaluation),
    lineage_gate(_EVALUATION),
    whole_gate(SWEEP),
    Gate(SWEEP, "choice_is_current", choice),
    Gate(_EVALUATION, "evaluation_is_current", current),
    Gate(_EVALUATION, "served_is_exact", served_is_exact),
    Gate(_EVALUATION, "fused_not_below_arms", fusion_is_worth_it),
    Gate(_EVALUATION, "not_below_bm25", bm25),
    Gate(_EVALUATION, "rerank_is_worth_it", rerank),
    Gate(_EVALUATION, "recall_is_enough", recall),
    Gate(_EVALUATION, "not_worse_than_live", live),
    Gate(_EVALUATION, "consumers_are_satisfied", consumers),
]
