"""The adapters: SFT, DPO on from it, their evaluation, and the one that serves."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import msgspec

from expectations.violations import Refused, Violation
from ft_assets.adapters.checks import GATES, contract_of
from ft_assets.adapters.prompt import prompt_of
from ft_assets.adapters.score_answers import ANSWERS_FILE, show_samples, show_scores
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import AnswerSettings, TrainSettings
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.graph.gates import as_metadata, enforce, evidence_of
from ft_assets.graph.produce import compute_params, produce, recipe_for
from resources import models, telemetry
from resources.artifacts import Artifact, ArtifactStore
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.plots import sparkline
from resources.releases import Release, Releases

_TRAIN_VERSION = "1"
_EVALUATE_VERSION = "2"
# They say how a training runs on this machine and what it tells meanwhile, or are covered by the base model's content.
_IMMATERIAL = {"base_model", "revision", "micro_batch_size", "gradient_checkpointing", "activation_offloading",
               "precompute_reference", "eval_steps", "save_steps", "logging_steps"}  # fmt: skip
# the curves of a training's page: name -> figure of metrics.jsonl, and the one to draw over it
_CURVES = {
    "loss": ("loss", ""), "eval_loss": ("eval_loss", ""), "grad_norm": ("grad_norm", ""),
    "learning_rate": ("learning_rate", ""), "tokens_per_second": ("tokens_per_second", ""),
    "update_ratio": ("update_ratio", ""), "reward": ("rewards/chosen", "rewards/rejected"),
    "reward_margin": ("rewards/margins", ""), "reward_accuracy": ("rewards/accuracies", ""),
    "logp": ("logps/chosen", "logps/rejected"),
}  # fmt: skip
_TRAIN = "ft_assets.adapters.train"
_EVALUATE = "ft_assets.adapters.evaluate"


@dg.asset(
    deps=["instruction_splits", "sft_settings", "answer_settings"],
    group_name="adapters",
    kinds={"huggingface", "pytorch"},
    owners=["team:ft-assets"],
    code_version=_TRAIN_VERSION,
    description="The base trained on the instruction rows (an adapter, or every weight), with the prompt that serves.",
)
def sft_adapter(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _refuse_unconfigured(store, "instruction")
    enforce("sft_adapter", evidence_of(artifacts, qdrant), DATASET_GATES, assets=["instruction_splits"])
    settings = settings_of(store, "sft")
    return _train(context, artifacts, launcher, method="sft", settings=settings, inputs=["instruction_splits"])


@dg.asset(
    deps=["preference_splits", "sft_adapter", "dpo_settings", "answer_settings"],
    group_name="adapters",
    kinds={"huggingface", "pytorch"},
    owners=["team:ft-assets"],
    code_version=_TRAIN_VERSION,
    description="What SFT left, trained on with DPO, whose reference it is.",
)
def dpo_adapter(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _refuse_unconfigured(store, "preference")
    assets = ["preference_splits", "sft_adapter"]
    enforce("dpo_adapter", evidence_of(artifacts, qdrant), DATASET_GATES, GATES, assets=assets)
    return _train(context, artifacts, launcher, method="dpo", settings=settings_of(store, "dpo"), inputs=assets)


@dg.asset(
    deps=["sft_adapter", "dpo_adapter", "instruction_splits", "passages", "answer_settings"],
    group_name="adapters",
    kinds={"huggingface", "parquet"},
    owners=["team:ft-assets"],
    code_version=_EVALUATE_VERSION,
    description="Base, SFT, DPO and what is released answer held-out questions from their evidence; compared in pairs.",
)
def adapter_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    inputs = ["sft_adapter", "dpo_adapter", "instruction_splits", "passages"]
    enforce("adapter_evaluation", evidence_of(artifacts, qdrant), CORPUS_GATES, DATASET_GATES, GATES, assets=inputs)
    answers = settings_of(store, "answers")
    adapters = {name: [asset, store.require(asset).recipe_id] for name, asset in _CANDIDATES.items()}
    released = _baseline(artifacts.releases(), adapters["dpo"][1])
    if released is not None:
        adapters["released"] = ["dpo_adapter", released.artifacts["dpo_adapter"]]
    recipe = recipe_for(
        artifacts, "adapter_evaluation", _EVALUATE_VERSION,
        {"answers": generation_settings(answers), "released": adapters.get("released", [None])[-1]}, inputs,
    )  # fmt: skip
    params = {**base_params(artifacts, store), "adapters": adapters, "answers": answers.model_dump(mode="json")}
    return produce(
        artifacts, recipe, launch=lambda recipe: launcher.run(context, _EVALUATE, recipe, params), metadata=show_answers
    )


@dg.asset(
    deps=["dpo_adapter", "adapter_evaluation"],
    group_name="adapters",
    kinds={"huggingface"},
    owners=["team:ft-assets"],
    code_version="1",
    description="The adapter that serves. Moves only after every blocking gate on its way holds.",
)
def released_adapter(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    judged = ["sft_adapter", "dpo_adapter", "adapter_evaluation"]
    enforce("released_adapter", evidence_of(artifacts, qdrant), GATES, assets=judged)
    store = artifacts.store()
    made = {name: store.require(name) for name in judged}
    _refuse_other_candidates(made)
    evaluation = made["adapter_evaluation"].summary
    details = {
        "contract": msgspec.to_builtins(contract_of(made["dpo_adapter"])),
        "metrics": {name: value for name, value in evaluation.items() if isinstance(value, int | float)},
    }
    releases, recipes = artifacts.releases(), {name: item.recipe_id for name, item in made.items()}
    before = releases.current("adapter")
    withheld = before is not None and releases.is_withheld("adapter", recipes, details)
    release = before if before and withheld else releases.move("adapter", recipes, details)
    text = f"version {release.version}" + (", the candidate was rolled back from" if withheld else "")
    reused = before is not None and before.version == release.version
    telemetry.emit(telemetry.Progress(asset="released_adapter", kind="reused" if reused else "made", text=text))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(release.version),
        metadata=as_metadata(
            {"version": release.version, "reused": reused, "artifacts": release.artifacts, **details["metrics"]}
        ),
    )


ASSETS = [sft_adapter, dpo_adapter, adapter_evaluation, released_adapter]

_CANDIDATES = {"sft": "sft_adapter", "dpo": "dpo_adapter"}


def base_params(artifacts: ArtifactsResource, store: ArtifactStore) -> dict[str, Any]:
    """What a worker needs to load the base model on this machine."""
    settings = settings_of(store, "sft")
    return {
        "base_model": settings.base_model,
        "revision": settings.revision,
        **msgspec.to_builtins(compute_params(artifacts)),
    }


def generation_settings(answers: AnswerSettings) -> dict[str, Any]:
    """The fields of `answers` that decide an answer from given passages."""
    return answers.model_dump(mode="json", exclude={"top_k", "batch_size", "tolerance", "max_open_thoughts"})


def show_answers(artifact: Artifact) -> dict[str, Any]:
    """The asset page of an evaluation: scores with intervals, answers side by side."""
    return {"scores": show_scores(artifact.summary), "samples": show_samples(artifact.file(ANSWERS_FILE))}


def _refuse_unconfigured(store: ArtifactStore, dataset: str) -> None:
    """Refuse (FT-TRAIN-015) to train on a data set that config.yaml names no files for."""
    if store.require(f"{dataset}_splits").summary["configured"]:
        return
    violation = Violation(
        code="FT-TRAIN-015", where="config.yaml", message="there is nothing to train on.",
        field=f"datasets.{dataset}.files", found=[], expected="at least one file",
        fix="name files there, or leave the adapters out of the run",
    )  # fmt: skip
    raise Refused(f"training on {dataset}_splits", [violation])


def _train(
    context: dg.AssetExecutionContext,
    artifacts: ArtifactsResource,
    launcher: LauncherResource,
    *,
    method: str,
    settings: TrainSettings,
    inputs: list[str],
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    prompt = msgspec.to_builtins(prompt_of(settings_of(store, "answers")))
    thinking = settings_of(store, "datasets").instruction.thinking
    material: dict[str, Any] = {
        "training": material_of(settings),
        "prompt": prompt,
        "thinking": thinking,
        "base": models.version(settings.base_model, artifacts.state(), settings.revision),
    }
    recipe = recipe_for(artifacts, f"{method}_adapter", _TRAIN_VERSION, material, inputs)
    params = {
        **base_params(artifacts, store),
        "method": method,
        "settings": settings.model_dump(mode="json"),
        "prompt": prompt,
        "thinking": thinking,
    }
    return produce(
        artifacts,
        recipe,
        launch=lambda recipe: launcher.run(context, _TRAIN, recipe, params, distributed=True),
        metadata=_show_training,
    )


def material_of(settings: TrainSettings) -> dict[str, Any]:
    """The fields of `sft` or `dpo` that decide what is learnt."""
    without_effect = {"lora"} if settings.method == "full" else set[str]()
    return settings.model_dump(mode="json", exclude=_IMMATERIAL | without_effect)


def _show_training(artifact: Artifact) -> Mapping[str, Any]:
    """The asset page of a training: its curves. A second line is that of the rejected answers."""
    curves = telemetry.read_curves(artifact.file(telemetry.METRICS_FILE))
    return {
        f"{name}_curve": sparkline(curves[first], curves.get(second, []), title=name)
        for name, (first, second) in _CURVES.items() if first in curves
    }  # fmt: skip


def _baseline(releases: Releases, candidate: str) -> Release | None:
    """The release that the candidate would replace, or did replace: the same before and after it was released."""
    book = releases.book("adapter")
    current = releases.current("adapter")
    if book is None or current is None or current.artifacts["dpo_adapter"] != candidate:
        return current
    others = [release for release in book.history if release.artifacts["dpo_adapter"] != candidate]
    before = [release for release in others if release.released_at < current.released_at]
    return before[-1] if before else None


def _refuse_other_candidates(made: Mapping[str, Artifact]) -> None:
    """The evaluation must have judged these adapters, and DPO must have gone on from this SFT adapter."""
    needed = {"dpo_adapter": ("sft_adapter",), "adapter_evaluation": ("sft_adapter", "dpo_adapter")}
    broken = [
        Violation(
            code="FT-ADP-005", where=asset, message="it was made from another version than the one to release.",
            field=name, found=made[asset].manifest.recipe.inputs[name], expected=made[name].data_version,
            fix=f"ft run --asset {asset}",
        )
        for asset, names in needed.items() for name in names
        if made[asset].manifest.recipe.inputs[name] != made[name].data_version
    ]  # fmt: skip
    if broken:
        raise Refused("released_adapter", broken)
