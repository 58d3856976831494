"""The parameters of the retrieval workers and the summaries of their artifacts. Loads neither torch nor Dagster."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from expectations.contracts.embedding import Fusion, Serving
from expectations.rules.bootstrap import Interval
from ft_assets.embedding.jobs import Bm25Settings
from resources.artifacts import Artifact
from resources.launcher import ComputeParams
from resources.qdrant import EngineParams

COLLECTION_FILE = "collection.json"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The release that a candidate is compared with. `model` is the recipe id of its embedding model."""

    version: str
    collection: str
    fusion: Fusion
    model: str


class EncodeJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `encode`. Without `bm25` the lexical arm is the learned head; with `factors` its weights are
    multiplied by those of the model, if it has some. `base`: the settings of the base model to encode with, as JSON;
    None takes the trained model."""

    compute: ComputeParams
    bm25: Bm25Settings | None = None
    factors: bool = False
    base: dict[str, Any] | None = None


class ModelComparisonJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `compare_models`. `base` as in `EncodeJob`; `bm25` are the settings of the rival."""

    compute: ComputeParams
    base: dict[str, Any]
    bm25: Bm25Settings
    fusion: Fusion


class RetrievalEvaluationJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `evaluate`. With `must_compare`, a baseline that is gone is an error."""

    collection: str
    fusion: Fusion
    evaluate_on: Literal["validation", "test"]
    live: Baseline | None
    must_compare: bool
    bm25: Bm25Settings
    """Settings of the BM25 that the candidate is compared with."""
    rerank_batch_size: int = 32
    engine: EngineParams
    compute: ComputeParams


class ModelComparisonSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `embedding_evaluation`, next to the means and intervals of `scores.summarise`."""

    questions: int
    unresolved: int
    gain: Interval
    """nDCG@10 of the trained model's fused ranking minus that of the base."""
    gain_over_bm25: Interval | None = None
    """nDCG@10 of the trained model's fused ranking minus that of BM25."""
    gain_over_bm25_by_document: Interval | None = None
    judged_on_documents: int = 0
    """Questions with a judgement on a document of several passages: look at the figures by document."""


class VectorsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `passage_vectors`. Of `cut` passages the encoder reads only a part; `empty_sparse` have no lexical
    weight."""

    passages: int
    encoded: int = 0
    reused: int = 0
    empty_sparse: int = 0
    cut: int = 0
    dimension: int


class CollectionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `qdrant_collection`: what its first build wrote."""

    points: int
    upserted: int
    copied: int
    deleted: int
    relabelled: int = 0
    """Points of which only the payload was written."""
    collection: str


class CollectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """Content of collection.json: the collection in the engine that a `qdrant_collection` artifact describes."""

    collection: str
    contract: dict[str, Any]
    """The embedding contract as JSON, for `read_contract`."""
    points: int


class RetrievalEvaluationSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Summary of `retrieval_evaluation`, next to the means and intervals of `scores.summarise`."""

    questions: int
    unresolved: int
    collection: str
    live: str
    """The release it was compared with, or the reason why with none."""
    gain_ndcg_at_10: Interval | None = None
    gain_recall_at_10: Interval | None = None
    gain_over_exact: Interval | None = None
    """nDCG@10 of the served fused ranking minus that of the exact one; evaluations before version 3 have none."""
    recall_of_exact: float | None = None
    """Share of the ten best of the engine's own exact search that the served search by dense vectors finds, on a sample
    of the questions; evaluations before version 5 have none."""
    gain_over_arm: Interval | None = None
    """nDCG@10 of the fused ranking minus that of the better arm; evaluations before version 3 have none."""
    gain_over_bm25: Interval | None = None
    """nDCG@10 of the served fused ranking minus that of BM25; evaluations before version 3 have none."""
    gain_over_bm25_by_document: Interval | None = None
    """As above, where a document counts by its best passage; evaluations before version 4 have none."""
    judged_on_documents: int = 0
    """Questions with a judgement on a document of several passages: look at the figures by document."""
    gain_by_rerank: Interval | None = None
    """nDCG@10 of the served ranking minus that of the same fusion before the rerank model; None without one."""
    gain_by_rerank_by_document: Interval | None = None
    rerank_seconds: float | None = None
    """Time that the rerank model took for a question of the candidate, on the machine of the evaluation."""


class CandidateScores(msgspec.Struct, frozen=True, kw_only=True):
    """Means of the candidate that gates read from the summary of `retrieval_evaluation`."""

    candidate_dense_ndcg_at_10: float
    candidate_sparse_ndcg_at_10: float
    candidate_fused_ndcg_at_10: float
    candidate_fused_recall_at_10: float


class ScoreFloor(msgspec.Struct, frozen=True, kw_only=True):
    """A fused score, and the shares of `questions` whose best passage scores less."""

    score: float
    questions: int
    lost: float
    """Of the questions with an answer in the corpus."""
    caught: float
    """Of the same questions after the documents that answer them were taken away."""


class SweepJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `sweep`. `fusion` is the configured one; with `auto` the questions choose its weights."""

    fusion: Fusion
    auto: bool
    serving: Serving
    nothing_found_share: float
    """Of the questions with an answer, for the floor; 0 for none."""
    compute: ComputeParams


class SweepSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `fusion_sweep`. `ndcg_at_10` holds the mean of each fusion."""

    questions: int
    unresolved: int
    configured: str
    chosen: str
    """The fusion that serves next."""
    chosen_by: Literal["config", "auto"]
    best: str
    recommended: str
    """The chosen fusion; where it is configured, the best one if its gain is certain."""
    gain_over_configured: Interval | None
    """nDCG@10 of the best fusion minus that of the configured one; None without a question."""
    gain_is_certain: bool
    questions_needed: int | None
    """About the number of questions on which the observed gain would be certain; None where there is none."""
    advice: str
    floor: str
    """The score below which a search says that nothing was found, in words."""
    ndcg_at_10: dict[str, float]


def read_collection_file(artifact: Artifact) -> CollectionFile:
    """Return the collection that a `qdrant_collection` artifact describes."""
    return msgspec.convert(artifact.json(COLLECTION_FILE), CollectionFile)
