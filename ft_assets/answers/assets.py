"""The asset with the answers of the whole released system, compared with those of the base and the SFT model."""

from typing import Any

import dagster as dg

from ft_assets.adapters.assets import QUESTIONS, generation_settings, model_params, questions_of, show_answers
from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.adapters.jobs import TRAINED, TrainedRef
from ft_assets.answers.jobs import AnswerParams
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.produce import compute_params, produce
from ft_assets.retrieval.served_checks import GATES as SERVED_GATES
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.releases import ReleaseKind

_KINDS: tuple[ReleaseKind, ...] = ("adapter", "collection")
ANSWER_EVALUATION = AssetSpec(
    name="answer_evaluation",
    group="answers",
    kinds={"huggingface", "qdrant", "parquet"},
    code_version="3",
    description="Answers of the base, SFT and DPO models to held-out questions, with passages from the released "
    "retriever, without passages, and with the right ones.",
    inputs=("released_collection", "released_adapter", *QUESTIONS, "passages"),
    reads=("answer_settings",),
    enforces=("released_adapter", "released_collection"),
    gates=(CORPUS_GATES, DATASET_GATES, ADAPTER_GATES, SERVED_GATES),
    worker="ft_assets.answers.answer",
)
SPECS = [ANSWER_EVALUATION]


@ANSWER_EVALUATION.asset
def answer_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store, evidence = artifacts.store(), evidence_of(artifacts, qdrant)
    questions = questions_of(store)
    ANSWER_EVALUATION.enforce(evidence, [questions, "passages", *ANSWER_EVALUATION.enforces])
    answers = settings_of(store, "answers")
    adapter, collection = (artifacts.releases().require(kind, "answer_evaluation", "FT-ANS-004") for kind in _KINDS)
    recipe = ANSWER_EVALUATION.recipe_from(
        {**generation_settings(answers), "top_k": answers.top_k},
        {
            "released_adapter": adapter.version,
            "released_collection": collection.version,
            **{name: store.require(name).data_version for name in (questions, "passages")},
        },
    )
    trained = {
        name: TrainedRef(asset=asset, recipe_id=adapter.artifacts[asset])
        for name, asset in TRAINED.items()
        if asset in adapter.artifacts
    }
    params = AnswerParams(
        models=model_params(store, trained),
        answers=answers.model_dump(mode="json"),
        compute=compute_params(artifacts),
        engine=evidence.qdrant.params,
    )
    launch = ANSWER_EVALUATION.launch(context, launcher, params)
    return produce(artifacts, recipe, launch=launch, metadata=show_answers)


ASSETS = [answer_evaluation]
