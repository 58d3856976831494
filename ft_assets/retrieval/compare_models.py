"""Exact rankings of the test questions by BM25, the base and the trained model: the gain from training."""

from __future__ import annotations

from pathlib import Path

import msgspec

from expectations.rules.retrieval import one_vector_a_passage, vectors_are_of_model, vectors_match_texts
from expectations.violations import Refused, Violation, violation
from ft_assets.embedding.exact_search import rank_arms, rank_bm25
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import Passages, read_passages, read_questions
from ft_assets.embedding.scores import (
    BM25,
    SCORES_FILE,
    Scores,
    gain,
    gain_over_bm25,
    score_arms,
    summarise,
    write_scores,
)
from ft_assets.retrieval.encode import base_encoder
from ft_assets.retrieval.exact import read_encoded, with_lexical_arm
from ft_assets.retrieval.jobs import ModelComparisonJob, ModelComparisonSummary
from ft_assets.retrieval.vectors import VECTORS_FILE, contract_of
from resources import accelerator
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.parquet import read_columns
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
    scores: Scores = {}
    rankings: dict[str, list[list[str]]] = {}
    metrics = Metrics(job.folder())
    for step, system in enumerate(("base", "trained"), 1):
        if system == "base":
            encoder, vectors = (
                base_encoder(params.base, Path(params.compute.state_dir), compute),
                job.input("base_vectors"),
            )
        else:
            encoder, vectors = HybridEncoder.load(job.input("embedding_model").folder(), compute), trained
        corpus = _corpus(vectors, passages, encoder)
        queries = encoder.encode(questions.texts, "query")
        if contract_of(trained).lexical:  # one arm for both models
            corpus = corpus._replace(sparse=_corpus(trained, passages).sparse)
            queries = with_lexical_arm(queries, questions.texts, trained)
        rankings = rank_arms(queries, corpus, passages.ids, params.fusion)
        scores |= score_arms(system, rankings, questions.qrels)
        fused = scores[system, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system}", step, 2, ndcg_at_10=sum(fused) / len(fused))
    metrics.close()
    if contract_of(trained).lexical:
        bm25 = rankings["sparse"]
    else:
        bm25 = rank_bm25(passages.contents, passages.ids, questions.texts, params.bm25)
    scores |= score_arms(BM25, {"sparse": bm25}, questions.qrels)
    summary = ModelComparisonSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        gain=gain(scores, "trained", "base", "ndcg_at_10"),
        gain_over_bm25=gain_over_bm25(scores, "trained"),
    )
    with job.artifacts().stage(job.recipe) as staging:
        write_scores(staging.path / SCORES_FILE, questions.ids, scores)
        return staging.publish({**msgspec.to_builtins(summary), **summarise(scores)})


def _corpus(vectors: Artifact, passages: Passages, encoder: HybridEncoder | None = None) -> Encoded:
    """Return the vectors of these passages. Raises Refused if they are of other texts, or of another model."""
    columns = read_columns(vectors.file(VECTORS_FILE), ["passage_id", "content_sha256"])
    made_from = dict(zip(*columns.values(), strict=True))
    wanted = dict(zip(passages.ids, passages.hashes, strict=True))
    violations = vectors_match_texts(vectors.asset, wanted, made_from)
    violations += one_vector_a_passage(vectors.asset, passages.ids, columns["passage_id"])
    if encoder:
        violations += vectors_are_of_model(vectors.asset, contract_of(vectors), encoder.contract)
    if violations:
        raise Refused("comparing the models", violations)
    return read_encoded(vectors)[0]


def no_questions(where: str, split: str) -> Violation:
    """Return FT-EMB-016: an evaluation without questions."""
    message = f"no question of the {split} split names a passage of this corpus."
    return violation("FT-EMB-016", where=where, message=message, field="questions", found=0, expected="at least 1")


if __name__ == "__main__":
    run_worker(main)
