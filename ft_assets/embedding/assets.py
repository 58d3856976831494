"""The embedding model and what training it was worth. Declares; train.py and evaluate.py compute."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import msgspec

from expectations.contracts.embedding import read_contract
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.embedding.checks import GATES
from ft_assets.embedding.scores import as_table, read_scores
from ft_assets.graph.gates import enforce, evidence_of
from ft_assets.graph.produce import compute_params, produce, recipe_for
from resources import models
from resources.artifacts import Artifact
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.plots import bars, sparkline
from resources.telemetry import METRICS_FILE, read_metrics

_MODEL_VERSION = "1"
_EVALUATION_VERSION = "1"
_OWNERS = ["team:ft-assets"]


@dg.asset(
    deps=["retrieval_splits", "passages", "embedding_settings"],
    group_name="embedding",
    kinds={"pytorch", "huggingface"},
    owners=_OWNERS,
    code_version=_MODEL_VERSION,
    description="One backbone with a dense and a lexical head, fine-tuned on the training questions, and its contract.",
)
def embedding_model(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    enforce("embedding_model", evidence_of(artifacts, qdrant), DATASET_GATES, assets=["retrieval_splits"])
    settings = settings_of(store, "embedding").model_dump(mode="json")
    base = models.version(settings["base_model"], artifacts.state(), settings["revision"])
    recipe = recipe_for(
        artifacts,
        "embedding_model",
        _MODEL_VERSION,
        {**settings, "base_version": base},
        ["retrieval_splits", "passages"],
    )
    params = {"settings": settings, **msgspec.to_builtins(compute_params(artifacts))}
    return produce(
        artifacts,
        recipe,
        launch=lambda made: launcher.run(context, "ft_assets.embedding.train", made, params),
        metadata=_describe_model,
    )


@dg.asset(
    deps=["embedding_model", "retrieval_splits", "passages"],
    group_name="embedding",
    kinds={"parquet"},
    owners=_OWNERS,
    code_version=_EVALUATION_VERSION,
    description="nDCG@10, Recall and MRR of the base and the trained model on the test questions, by exact search.",
)
def embedding_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    evidence = evidence_of(artifacts, qdrant)
    enforce("embedding_evaluation", evidence, DATASET_GATES, GATES, assets=["retrieval_splits", "embedding_model"])
    model = artifacts.store().require("embedding_model")
    recipe = recipe_for(
        artifacts,
        "embedding_evaluation",
        _EVALUATION_VERSION,
        {"base_version": model.manifest.recipe.settings["base_version"]},
        ["embedding_model", "retrieval_splits", "passages"],
    )
    made_by = {k: v for k, v in model.manifest.recipe.settings.items() if k != "base_version"}
    params = {"settings": made_by, **msgspec.to_builtins(compute_params(artifacts))}
    return produce(
        artifacts,
        recipe,
        launch=lambda made: launcher.run(context, "ft_assets.embedding.evaluate", made, params),
        metadata=describe_scores,
    )


def describe_scores(artifact: Artifact) -> Mapping[str, Any]:
    """The table of metrics and a bar for each arm."""
    scores = read_scores(artifact)
    means = {f"{s} {arm}": sum(m["ndcg_at_10"]) / len(m["ndcg_at_10"]) for (s, arm), m in scores.items()}
    return {"metrics": as_table(scores), "ndcg_at_10": bars(means, "nDCG@10")}


def _describe_model(artifact: Artifact) -> Mapping[str, Any]:
    contract = artifact.json("contract.json")
    shown: dict[str, Any] = {"contract": {k: v for k, v in contract.items() if k != "probes"}}
    shown["encode_fp"] = read_contract(contract, artifact.asset).encode_fp
    if METRICS_FILE in artifact.manifest.files:
        losses = [float(r["loss"]) for r in read_metrics(artifact.file(METRICS_FILE)) if "loss" in r]
        shown["loss"] = sparkline(losses, title="loss")
    return shown


ASSETS = [embedding_model, embedding_evaluation]
