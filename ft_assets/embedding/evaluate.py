"""What training was worth: exact rankings of the test questions by the base and by the trained model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from expectations.violations import Refused, Violation
from ft_assets.config.model import EmbeddingSettings
from ft_assets.embedding.exact_search import rank_arms
from ft_assets.embedding.model import HybridEncoder
from ft_assets.embedding.pairs import read_passages, read_questions
from ft_assets.embedding.scores import FILE, Scores, gain, score_arms, summarise, write_scores
from ft_assets.embedding.train import FUSED_SPARSE_WEIGHT
from resources import accelerator, models
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics

SPLIT = "test"


def main(job: Job) -> Artifact:
    """Publish `embedding_evaluation`: scores of base and trained on the test questions, dense, sparse and fused."""
    settings = EmbeddingSettings.model_validate(job.params["settings"])
    store = job.artifacts()
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    passages = read_passages(job.input("passages"))
    questions = read_questions(job.input("retrieval_splits"), SPLIT, passages)
    if not questions.ids:
        raise Refused("evaluating the embedding model", [no_questions("embedding_evaluation", SPLIT)])
    model = job.input("embedding_model")
    metrics = Metrics(job.folder())
    scores: Scores = {}
    for step, system in enumerate(("base", "trained"), 1):
        if system == "base":
            folder = models.locate(settings.base_model, Path(job.params["state_dir"]), settings.revision)
            encoder = HybridEncoder.from_base(folder, settings, "", compute)
        else:
            encoder = HybridEncoder.load(model.folder(), compute)
        queries = encoder.encode(questions.texts, "query")
        corpus = encoder.encode(passages.contents, "passage")
        rankings = rank_arms(queries, corpus, passages.ids, 1.0, FUSED_SPARSE_WEIGHT)
        scores |= score_arms(system, rankings, questions.qrels)
        fused = scores[system, "fused"]["ndcg_at_10"]
        metrics.log(f"evaluate {system}", step, 2, ndcg_at_10=sum(fused) / len(fused))
    metrics.close()
    with store.stage(job.recipe) as staging:
        write_scores(staging.path / FILE, questions.ids, scores)
        return staging.publish(
            {
                "questions": len(questions.ids),
                "unresolved": len(questions.unresolved),
                **summarise(scores),
                "gain": msgspec.to_builtins(gain(scores, "trained", "base", "ndcg_at_10")),
            }
        )


def no_questions(where: str, split: str) -> Violation:
    """FT-EMB-016: there is nothing to measure by."""
    return Violation(
        code="FT-EMB-016", where=where, message=f"no question of the {split} split names a passage of this corpus.",
        field="questions", found=0, expected="at least 1", fix="add retrieval data, then ft run --group datasets",
    )  # fmt: skip


if __name__ == "__main__":
    run_worker(main)
