"""Exact rankings of the test questions by BM25, the base and the trained model: the gain from training."""

from __future__ import annotations

from pathlib import Path

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Fusion
from expectations.lexical.bm25 import Bm25Queries
from expectations.rules.retrieval import vectors_match_texts
from expectations.violations import Refused, Violation, violation
from ft_assets.embedding.exact_search import best, lexical_scores, rank_arms
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions, read_passages, read_questions
from ft_assets.embedding.scores import BM25, SCORES_FILE, Scores, gain, over_bm25, score_arms, summarise, write_scores
from ft_assets.retrieval.encode import base_encoder
from ft_assets.retrieval.jobs import ModelComparisonJob, ModelComparisonSummary
from ft_assets.retrieval.vectors import contract_of, frequencies_of, read_encoded
from resources import accelerator
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics

_SPLIT = "test"


def main(job: Job) -> Artifact:
    """Publish `embedding_evaluation`: dense, sparse and fused scores of both models on the test questions, and BM25's.

    Raises Refused: FT-EMB-016 there is no question, FT-VEC-004 and FT-VEC-006 the vectors are not of these texts or of
    this model.
    """
    params = job.params_as(ModelComparisonJob)
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), _SPLIT, passages)
    if not questions.ids:
        raise Refused("evaluating the embedding model", [no_questions("embedding_evaluation", _SPLIT)])
    trained = job.input("passage_vectors")
    lexical = _lexical(trained)
    scores = rank_bm25(passages, questions, params, trained)
    metrics = Metrics(job.folder())
    for step, system in enumerate(("base", "trained"), 1):
        if system == "base":
            encoder = base_encoder(params.base, Path(params.compute.state_dir), compute)
            vectors = job.input("base_vectors")
        else:
            encoder, vectors = HybridEncoder.load(job.input("embedding_model").folder(), compute), trained
        corpus = _corpus(vectors, passages, encoder.contract)
        queries = encoder.encode(questions.texts, "query")
        if lexical:
            corpus = corpus._replace(sparse=read_encoded(trained)[1].sparse)
            queries = queries._replace(sparse=sparse_queries(lexical, questions.texts))
        scores |= score_arms(system, rank_arms(queries, corpus, passages.ids, params.fusion), questions.qrels)
        fused = scores[system, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system}", step, 2, ndcg_at_10=sum(fused) / len(fused))
    metrics.close()
    summary = ModelComparisonSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        gain=gain(scores, "trained", "base", "ndcg_at_10"),
        gain_over_bm25=over_bm25(scores, "trained"),
    )
    with job.artifacts().stage(job.recipe) as staging:
        write_scores(staging.path / SCORES_FILE, questions.ids, scores)
        return staging.publish({**msgspec.to_builtins(summary), **summarise(scores)})
