"""Exact rankings of the test questions by BM25, the base and the trained model: the gain from training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from expectations.rules.retrieval import vectors_are_of_model
from expectations.violations import Refused, Violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.exact_search import rank_arms
from ft_assets.embedding.lexical import with_lexical_arm
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import read_passages, require_questions
from ft_assets.embedding.scores import BM25, SCORES_FILE, Scores, score_arms, summarise, write_scores
from ft_assets.retrieval.encode import base_encoder
from ft_assets.retrieval.exact import StoredVectors, bm25_rankings, is_bm25
from ft_assets.retrieval.gains import gains_of_model
from ft_assets.retrieval.jobs import ModelComparisonJob, ModelComparisonSummary
from ft_assets.retrieval.table_facts import text_facts
from ft_assets.retrieval.vectors import contract_of, query_side_of
from resources import accelerator
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics

_SPLIT = "test"
_WORK = "comparing the models"


def main(job: Job) -> Artifact:
    """Publish `embedding_evaluation`: dense, sparse and fused scores of both models on the test questions, and BM25's.

    Raises Refused: FT-EMB-016 there is no question, FT-VEC-001, FT-VEC-004 and FT-VEC-006 the vectors are not of these
    passages, texts or models.
    """
    params = job.params_as(ModelComparisonJob)
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    before, after = job.input("base_vectors"), job.input("passage_vectors")
    bm25 = query_side_of(after)
    passages = read_passages(job.input("passages"), contents=not is_bm25(after))
    questions = require_questions(job.input("retrieval_splits"), _SPLIT, passages, "embedding_evaluation")
    _require_texts([before, after], job.input("passages"))
    base = EmbeddingSettings.model_validate(params.base)
    systems = {
        "base": (before, partial(base_encoder, base, Path(params.compute.state_dir), compute)),
        "trained": (after, partial(HybridEncoder.load, job.input("embedding_model").folder(), compute)),
    }
    documents = passages.document_of
    scores: Scores = {}
    rankings: dict[str, list[list[str]]] = {}
    metrics = Metrics(job.folder())
    for step, (system, (vectors, load)) in enumerate(systems.items(), 1):
        encoder = load()
        if others := vectors_are_of_model(vectors.asset, contract_of(vectors), encoder.contract):
            raise Refused(_WORK, others)
        corpus = StoredVectors(
            vectors, lexical_of=after if bm25 else None
        )  # one arm for both models, with the factors of the trained one if it has some
        queries = with_lexical_arm(encoder.encode(questions.texts, "query"), questions.texts, bm25)
        rankings = rank_arms(queries, corpus, passages.ids, params.fusion)
        scores |= score_arms(system, rankings, questions.qrels, documents)
        fused = scores[system, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system}", step, len(systems), ndcg_at_10=sum(fused) / len(fused))
    metrics.close()
    rival = bm25_rankings(after, rankings["sparse"], passages, questions.texts, params.bm25)
    scores |= score_arms(BM25, {"sparse": rival}, questions.qrels, documents)
    summary = ModelComparisonSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        judged_on_documents=len(questions.on_documents),
        **gains_of_model(scores),
    )
    with job.artifacts().stage(job.recipe) as staging:
        write_scores(staging.path / SCORES_FILE, questions.ids, scores)
        return staging.publish({**msgspec.to_builtins(summary), **summarise(scores)})


def _require_texts(tables: Sequence[Artifact], passages: Artifact) -> None:
    """Raise Refused (FT-VEC-001, FT-VEC-004) unless each table has vectors of these passages and of their texts."""
    violations: list[Violation] = []
    for vectors in tables:
        facts = text_facts(vectors, passages)
        violations += [*facts.same_texts, *facts.one_row]
    if violations:
        raise Refused(_WORK, violations)


if __name__ == "__main__":
    run_worker(main)
