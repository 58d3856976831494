"""Answers: what a user of the released system would read, beside what the base and the SFT model would have said."""

from dataclasses import asdict
from typing import Any

import dagster as dg

from expectations.violations import Refused, Violation
from ft_assets.adapters.assets import base_params, generation_settings, show_answers
from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.graph.gates import enforce, evidence_of
from ft_assets.graph.produce import produce
from resources.artifacts import Recipe
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.releases import Release, ReleaseKind, Releases

_VERSION = "2"
_KINDS: tuple[ReleaseKind, ...] = ("adapter", "collection")


@dg.asset(
    deps=["released_collection", "released_adapter", "sft_adapter", "instruction_splits", "answer_settings"],
    group_name="answers",
    kinds={"huggingface", "qdrant", "parquet"},
    owners=["team:ft-assets"],
    code_version=_VERSION,
    description="Held-out questions through the released retriever; answers of base, SFT and DPO side by side.",
)
def answer_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store, evidence = artifacts.store(), evidence_of(artifacts, qdrant)
    inputs = ["instruction_splits", "released_adapter"]
    enforce("answer_evaluation", evidence, DATASET_GATES, ADAPTER_GATES, assets=inputs)
    answers = settings_of(store, "answers")
    adapter, collection = (_released(artifacts.releases(), kind) for kind in _KINDS)
    recipe = Recipe(
        asset="answer_evaluation",
        code_version=_VERSION,
        settings={**generation_settings(answers), "top_k": answers.top_k},
        inputs={
            "released_adapter": adapter.version,
            "released_collection": collection.version,
            "instruction_splits": store.require("instruction_splits").data_version,
        },
    )
    engine = asdict(evidence.qdrant)
    del engine["api_key"]  # the worker reads it from the environment
    params = {
        **base_params(artifacts, store),
        "adapters": {
            "sft": ["sft_adapter", adapter.artifacts["sft_adapter"]],
            "dpo": ["dpo_adapter", adapter.artifacts["dpo_adapter"]],
        },
        "answers": answers.model_dump(mode="json"),
        "engine": {**engine, "path": str(engine["path"])},
    }
    return produce(
        artifacts,
        recipe,
        launch=lambda recipe: launcher.run(context, "ft_assets.answers.answer", recipe, params),
        metadata=show_answers,
    )


ASSETS = [answer_evaluation]


def _released(releases: Releases, kind: ReleaseKind) -> Release:
    """What serves now. Raises Refused (FT-ANS-004) when nothing was released."""
    release = releases.current(kind)
    if release is None:
        violation = Violation(
            code="FT-ANS-004", where=f"released_{kind}", message="nothing is released.",
            fix=f"ft run --asset released_{kind}",
        )  # fmt: skip
        raise Refused("answer_evaluation", [violation])
    return release
