"""Measures a candidate collection through the engine, as it would serve, and compares it with what is live now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np

from expectations.contracts.embedding import EmbeddingContract, Fusion, Serving
from expectations.lexical.bm25 import FREQUENCIES_KEY
from expectations.violations import Refused, Violation, violation
from ft_assets.embedding.lexical import query_side, with_lexical_arm
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import Questions, read_passages, require_questions
from ft_assets.embedding.scores import BM25, SCORES_FILE, Scores, score_arms, summarise, write_scores
from ft_assets.retrieval.collection import stored_contract
from ft_assets.retrieval.exact import bm25_rankings, exact_rankings, is_bm25
from ft_assets.retrieval.gains import BEFORE_RERANK, EXACT_FILE, ExactSearch, gains_of_candidate
from ft_assets.retrieval.jobs import Baseline, RetrievalEvaluationJob, RetrievalEvaluationSummary, read_collection_file
from ft_assets.retrieval.query import Reranking, candidates, count_equal, rank_again
from ft_assets.retrieval.rerank import load_reranker
from ft_assets.retrieval.vectors import contract_of
from resources import accelerator
from resources.artifacts import Artifact, ArtifactStore
from resources.cross_encoder import CrossScorer
from resources.engines.protocol import Arm, Scored, VectorClient
from resources.files import write_json
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics

_DEPTH = 100
_SAMPLE, _BEST = 200, 10
"""Questions on which the search is compared with the engine's exact one, and the answers that are compared."""
_PAYLOAD = ("passage_id", "document_id")
_ARMS: tuple[Arm, ...] = ("dense", "sparse", "fused")


@dataclass(frozen=True)
class _System:
    """One collection to measure, with the model of its queries, and the one that ranks again."""

    name: str
    collection: str
    model: Artifact
    fusion: Fusion
    reranker: CrossScorer | None


@dataclass
class _Found:
    """The points that each arm of a collection finds for each question."""

    arms: dict[str, list[list[Scored]]]

    def rankings(self) -> dict[str, list[list[str]]]:
        """Return the passage ids of each arm."""
        return {
            arm: [[str(point.payload["passage_id"]) for point in points] for points in answers]
            for arm, answers in self.arms.items()
        }

    def documents(self) -> dict[str, str]:
        """Return the document of each passage that was found."""
        points = chain.from_iterable(chain.from_iterable(self.arms.values()))
        return {str(point.payload["passage_id"]): str(point.payload["document_id"]) for point in points}


def main(job: Job) -> Artifact:
    """Publish `retrieval_evaluation`: scores of `candidate`, its `exact` ranking, `bm25` and `live` on the same
    questions.

    Raises Refused: FT-EMB-016 there is no question, FT-RET-008 the collection or a model of what is live is gone
    (unless any loss is accepted, or the candidate itself is live), FT-RET-015 the candidate's rerank model is.
    """
    params = job.params_as(RetrievalEvaluationJob)
    store = job.artifacts()
    vectors = job.input("passage_vectors")
    passages = read_passages(job.input("passages"), contents=not is_bm25(vectors))
    questions = require_questions(job.input("retrieval_splits"), params.evaluate_on, passages, "retrieval_evaluation")
    collection = read_collection_file(job.input("qdrant_collection")).collection
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    state = Path(params.compute.state_dir)
    candidate = _System(
        "candidate",
        collection,
        job.input("embedding_model"),
        params.fusion,
        load_reranker(params.fusion.rerank, state, compute) if params.fusion.rerank else None,
    )
    live, missing = params.live, ""
    systems = [candidate]
    if live:
        baseline, missing = _live_system(live, store, state, compute)
        systems += [baseline] if baseline else []
    # encoded before the engine is opened, so that its lock is held only while searching
    queries = _encode_questions(questions, systems, compute)
    own = queries[systems[0].model.recipe_id][0]
    exact = exact_rankings(
        own, questions.texts, vectors, job.input("qdrant_collection"), params.fusion.without_rerank()
    )
    documents = passages.document_of
    scores: Scores = {}
    seconds: dict[str, float] = {}
    metrics = Metrics(job.folder())
    with params.engine.engine().open() as client:
        if len(systems) > 1 and systems[1].collection not in client.names():
            del systems[1]
            missing = "its collection is no longer in the engine"
        if live and missing and params.must_compare:
            raise Refused("evaluating retrieval", [_incomparable(live, missing)])
        found = [_find(client, system, queries[system.model.recipe_id], questions.texts) for system in systems]
        exact_search = _search_exactly(client, candidate, queries[candidate.model.recipe_id], found[0])
    # and ranked again after it is closed, for the same reason
    for step, (system, arms) in enumerate(zip(systems, found, strict=True), 1):
        if system.fusion.rerank and system.reranker:
            reranking = Reranking(system.reranker, questions.texts, params.rerank_batch_size)
            started = time.perf_counter()
            again = rank_again(arms.arms["fused"], system.fusion.rerank.top_n, reranking)
            arms.arms[BEFORE_RERANK] = [points[:_DEPTH] for points in arms.arms["fused"]]
            arms.arms["fused"] = [points[:_DEPTH] for points in again]
            seconds[system.name] = round((time.perf_counter() - started) / len(questions.ids), 4)
        # what is live may hold passages that the corpus no longer has
        scores |= score_arms(system.name, arms.rankings(), questions.qrels, arms.documents() | documents)
        values = scores[system.name, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system.name}", step, len(systems), ndcg_at_10=sum(values) / len(values))
    metrics.close()
    scores |= score_arms("exact", exact, questions.qrels, documents)
    bm25 = bm25_rankings(vectors, exact["sparse"], passages, questions.texts, params.bm25)
    scores |= score_arms(BM25, {"sparse": bm25}, questions.qrels, documents)
    summary = RetrievalEvaluationSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        collection=collection,
        live=_describe_baseline(live, missing),
        recall_of_exact=exact_search.share,
        judged_on_documents=len(questions.on_documents),
        rerank_seconds=seconds.get("candidate"),
        **gains_of_candidate(scores),
    )
    with store.stage(job.recipe) as staging:
        write_scores(staging.path / SCORES_FILE, questions.ids, scores)
        write_json(staging.path / EXACT_FILE, msgspec.to_builtins(exact_search))
        return staging.publish({**msgspec.to_builtins(summary), **summarise(scores)})


def _encode_questions(
    questions: Questions, systems: list[_System], compute: accelerator.Compute
) -> dict[str, tuple[Encoded, EmbeddingContract]]:
    """Return the vectors of the questions and the contract, by the recipe id of each model; each is loaded once."""
    encodings: dict[str, tuple[Encoded, EmbeddingContract]] = {}
    for model in (system.model for system in systems):
        if model.recipe_id not in encodings:
            encoder = HybridEncoder.load(model.folder(), compute)
            encodings[model.recipe_id] = (encoder.encode(questions.texts, "query"), contract_of(model))
    return encodings


def _live_system(
    live: Baseline, store: ArtifactStore, state: Path, compute: accelerator.Compute
) -> tuple[_System | None, str]:
    """Return what is live, or the reason why it cannot be measured."""
    model, rerank = store.find("embedding_model", live.model), live.fusion.rerank
    if model is None:
        return None, "its model is no longer in the store"
    try:
        reranker = load_reranker(rerank, state, compute) if rerank else None
    except Refused:
        return None, "its rerank model is gone, or has another content now"
    return _System("live", live.collection, model, live.fusion, reranker), ""


def _find(
    client: VectorClient, system: _System, queries: tuple[Encoded, EmbeddingContract], texts: Sequence[str]
) -> _Found:
    """Return the points that each arm of a collection finds for each question, before any rerank model."""
    vectors, contract = queries
    stored = stored_contract(client, system.collection)
    frequencies = client.metadata(system.collection).get(FREQUENCIES_KEY)
    vectors = with_lexical_arm(vectors, texts, query_side(stored, frequencies, system.collection))
    served = _served(contract, stored, system)
    found: dict[str, list[list[Scored]]] = {}
    for arm in _ARMS:
        rerank = system.fusion.rerank if arm == "fused" else None
        payload = (*_PAYLOAD, "content") if rerank else _PAYLOAD
        depth = max(_DEPTH, rerank.top_n) if rerank else _DEPTH
        found[arm] = candidates(client, system.collection, served, vectors, arm, limit=depth, payload=payload)
    return _Found(found)


def _served(contract: EmbeddingContract, stored: EmbeddingContract, system: _System) -> EmbeddingContract:
    """Return the contract of a model as the collection serves its vectors."""
    return contract.served(stored.serving or Serving(dimension=0, distance="cosine"), system.fusion)


def _search_exactly(
    client: VectorClient, system: _System, queries: tuple[Encoded, EmbeddingContract], found: _Found
) -> ExactSearch:
    """Return how many of the best passages by dense vectors, compared with every point, the search found."""
    vectors, contract = queries
    dense = vectors.dense[:_SAMPLE]
    sample = Encoded(dense, [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(dense), 0)
    served = _served(contract, stored_contract(client, system.collection), system)
    exact = candidates(client, system.collection, served, sample, "dense", limit=_BEST, exact=True)
    answers = found.arms["dense"][: len(exact)]
    equal = [count_equal(best, points[:_BEST]) for best, points in zip(exact, answers, strict=True)]
    return ExactSearch(exact=list(map(len, exact)), found=equal)


def _incomparable(live: Baseline, missing: str) -> Violation:
    return violation(
        "FT-RET-008",
        where="retrieval_evaluation",
        message=f"the candidate cannot be compared with what is live: {missing}.",
        field="live",
        found=live.collection,
        expected="the collection and the model of what is live",
    )


def _describe_baseline(live: Baseline | None, missing: str) -> str:
    if live is None:
        return "none to compare with: nothing was live then"
    return f"{live.version}: {missing}, not compared" if missing else live.version


if __name__ == "__main__":
    run_worker(main)
