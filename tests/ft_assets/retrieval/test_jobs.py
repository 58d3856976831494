"""The jobs and summaries of the embedding and retrieval workers: what is refused, and what older files may lack."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.jobs import Bm25Settings, EmbeddingJob
from ft_assets.retrieval.jobs import (
    Baseline,
    CandidateScores,
    RetrievalEvaluationJob,
    RetrievalEvaluationSummary,
    VectorsSummary,
)
from resources.artifacts import Recipe
from resources.launcher import ComputeParams, Job
from resources.qdrant import EngineParams

COMPUTE = ComputeParams(state_dir="/state", device="cpu", dtype="float32")
FUSION = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)
JOB = RetrievalEvaluationJob(
    collection="passages__a",
    fusion=FUSION,
    evaluate_on="test",
    live=Baseline(version="1", collection="passages__b", fusion=FUSION, model="recipe"),
    must_compare=True,
    bm25=Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75),
    engine=EngineParams(kind="local", path="/state/qdrant", url=None, alias="passages", lock_timeout=1.0),
    compute=COMPUTE,
)


def job(params: Any) -> Job:
    written = msgspec.json.encode(Job(recipe=Recipe("a", "1"), store="", run_dir="", params=params))
    return msgspec.json.decode(written, type=Job)


@pytest.mark.parametrize("params", [JOB, EmbeddingJob(settings={"base_model": "m"}, compute=COMPUTE)])
def test_a_job_survives_its_file_and_a_mistyped_parameter_is_named(params: msgspec.Struct) -> None:
    values = msgspec.to_builtins(params)
    assert job(values).params_as(type(params)) == params
    with pytest.raises(msgspec.ValidationError, match="mistyped"):
        job({**values, "mistyped": 1}).params_as(type(params))


def test_a_baseline_goes_through_a_recipe_unchanged() -> None:
    recorded = {
        "version": "1",
        "collection": "passages__b",
        "fusion": {"fusion": "weighted_sum", "dense_weight": 1.0, "sparse_weight": 0.3, "prefetch_limit": 100},
        "model": "recipe",
    }
    assert msgspec.to_builtins(msgspec.convert(recorded, Baseline)) == recorded == msgspec.to_builtins(JOB.live)


def test_a_summary_without_a_comparison_has_no_gain() -> None:
    summary = RetrievalEvaluationSummary(questions=3, unresolved=0, collection="c", live="nothing is live yet")
    assert set(msgspec.to_builtins(summary)) == {"questions", "unresolved", "collection", "live"}


def test_summaries_ignore_figures_that_they_do_not_name() -> None:
    scores = {f"candidate_{arm}_ndcg_at_10": 0.5 for arm in ("dense", "sparse", "fused")}
    recorded = {**scores, "candidate_fused_recall_at_10": 0.7, "candidate_fused_mrr_at_10": 0.4, "questions": 3}
    assert msgspec.convert(recorded, CandidateScores).candidate_fused_recall_at_10 == 0.7
    assert msgspec.convert({"passages": 5, "dimension": 8}, VectorsSummary).passages == 5
