"""Exact rankings of the test questions by the base and by the trained model: the gain from training."""

from __future__ import annotations

from pathlib import Path

import msgspec

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused, Violation, violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.exact_search import rank_arms
from ft_assets.embedding.jobs import EmbeddingEvaluationSummary, EmbeddingJob
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import Passages, Questions, read_passages, read_questions
from ft_assets.embedding.scores import SCORES_FILE, Scores, gain, score_arms, summarise, write_scores
from ft_assets.embedding.train import FUSED_SPARSE_WEIGHT
from resources import accelerator, models
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics

_SPLIT = "test"
# the weights of the training: the configured ones would make every change of a weight encode the corpus again
_FUSION = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=FUSED_SPARSE_WEIGHT, prefetch_limit=100)


def main(job: Job) -> Artifact:
    """Publish `embedding_evaluation`: dense, sparse and fused scores of both models on the test questions.

    Raises Refused (FT-EMB-016) if there is no question.
    """
    params = job.params_as(EmbeddingJob)
    settings = params.embedding_settings()
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), _SPLIT, passages)
    if not questions.ids:
        raise Refused("evaluating the embedding model", [no_questions("embedding_evaluation", _SPLIT)])
    trained = job.input("embedding_model")
    scores: Scores = {}
    metrics = Metrics(job.folder())
    for step, system in enumerate(("base", "trained"), 1):
        if system == "base":
            encoder = _base_encoder(settings, Path(params.compute.state_dir), compute)
        else:
            encoder = HybridEncoder.load(trained.folder(), compute)
        scores |= _score(system, encoder, questions, passages)
        fused = scores[system, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system}", step, 2, ndcg_at_10=sum(fused) / len(fused))
    metrics.close()
    summary = EmbeddingEvaluationSummary(
        questions=len(questions.ids),
        unresolved=len(questions.unresolved),
        gain=gain(scores, "trained", "base", "ndcg_at_10"),
    )
    with job.artifacts().stage(job.recipe) as staging:
        write_scores(staging.path / SCORES_FILE, questions.ids, scores)
        return staging.publish({**msgspec.to_builtins(summary), **summarise(scores)})


def _base_encoder(settings: EmbeddingSettings, state: Path, compute: accelerator.Compute) -> HybridEncoder:
    folder = models.locate(settings.base_model, state, settings.revision)
    return HybridEncoder.from_base(folder, settings, "", compute)


def _score(system: str, encoder: HybridEncoder, questions: Questions, passages: Passages) -> Scores:
    queries = encoder.encode(questions.texts, "query")
    corpus = encoder.encode(passages.contents, "passage")
    return score_arms(system, rank_arms(queries, corpus, passages.ids, _FUSION), questions.qrels)


def no_questions(where: str, split: str) -> Violation:
    """Return FT-EMB-016: an evaluation without questions."""
    message = f"no question of the {split} split names a passage of this corpus."
    return violation("FT-EMB-016", where=where, message=message, field="questions", found=0, expected="at least 1")


if __name__ == "__main__":
    run_worker(main)
