"""The adapters: SFT, DPO that continues from it, their evaluation, and the released one."""

from collections.abc import Mapping, Sequence

import dagster as dg
import msgspec

from expectations.violations import Refused, violation
from ft_assets.adapters import release
from ft_assets.adapters.checks import GATES
from ft_assets.adapters.jobs import (
    RELEASED,
    TRAINED,
    AnswerLimits,
    AnswerSummary,
    EvaluateParams,
    ModelParams,
    TrainedRef,
    TrainParams,
)
from ft_assets.adapters.prompt import prompt_of
from ft_assets.adapters.score_answers import ANSWERS_FILE, show_samples, show_scores
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import AnswerSettings, DpoSettings, SftSettings, TrainSettings
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.datasets.summaries import SplitsSummary
from ft_assets.generation.checks import GATES as GENERATION_GATES
from ft_assets.generation.jobs import PAIRS, VERIFIED
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import as_metadata, evidence_of
from ft_assets.graph.produce import compute_params, produce, report_to
from resources import models, telemetry
from resources.artifacts import Artifact, ArtifactStore
from resources.charts import Line, line_image, small_line_image
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.trained_model import given_adapter

QUESTIONS = ("instruction_splits", "preference_splits", "unpaired_preference_splits")
"""The splits whose held-out questions may be answered; those of the first that has some are."""
SFT_ADAPTER = AssetSpec(
    name="sft_adapter",
    group="adapters",
    kinds={"huggingface", "pytorch"},
    code_version="2",
    description="The base model after SFT on the instruction rows: an adapter, or a whole model (`method: full`).",
    inputs=("instruction_splits", VERIFIED),
    reads=("sft_settings", "answer_settings"),
    enforces=("instruction_splits", VERIFIED),
    gates=(DATASET_GATES, GENERATION_GATES),
    worker="ft_assets.adapters.train",
)
DPO_ADAPTER = AssetSpec(
    name="dpo_adapter",
    group="adapters",
    kinds={"huggingface", "pytorch"},
    code_version="2",
    description="The SFT model (or the base, or a given adapter: `dpo.start`) after DPO on the preference pairs, or "
    "KTO on answers with a verdict. The model that it continues is the reference.",
    inputs=("preference_splits", "unpaired_preference_splits", PAIRS, "sft_adapter"),
    reads=("dpo_settings", "answer_settings"),
    enforces=("preference_splits", "unpaired_preference_splits", PAIRS, "sft_adapter"),
    gates=(DATASET_GATES, GENERATION_GATES, GATES),
    worker="ft_assets.adapters.train",
)
ADAPTER_EVALUATION = AssetSpec(
    name="adapter_evaluation",
    group="adapters",
    kinds={"huggingface", "parquet"},
    code_version="3",
    description="Answers of the base, SFT, DPO and released models to held-out questions with their evidence; scores "
    "are compared in pairs. The validation questions choose the candidate, the test questions judge it.",
    inputs=("sft_adapter", "dpo_adapter", *QUESTIONS, "passages"),
    reads=("answer_settings",),
    any_of=("sft_adapter", "dpo_adapter"),
    enforces=("passages",),
    gates=(CORPUS_GATES, DATASET_GATES, GATES),
    worker="ft_assets.adapters.evaluate",
)
RELEASED_ADAPTER = AssetSpec(
    name="released_adapter",
    group="adapters",
    kinds={"huggingface"},
    code_version="1",
    description="The adapter that serves. It changes only after every blocking check on the candidate has passed.",
    reads=("sft_adapter", "dpo_adapter", "adapter_evaluation", "release_settings"),
    any_of=("sft_adapter", "dpo_adapter"),
    gates=(GATES,),
)
SPECS = [SFT_ADAPTER, DPO_ADAPTER, ADAPTER_EVALUATION, RELEASED_ADAPTER]

# Settings that do not decide the weights: how the training runs on this machine, what it reports, and the name of the
# base model, whose content is in the recipe.
_IMMATERIAL = {"base_model", "revision", "micro_batch_size", "gradient_checkpointing", "activation_offloading",
               "precompute_reference", "sharding", "eval_steps", "eval_answers", "save_steps",
               "logging_steps"}  # fmt: skip
# the curves on the page of a training: name -> figure of metrics.jsonl, and a second figure in the same plot
_CURVES = {
    "loss": ("loss", {"loss": "training", "eval_loss": "validation"}),
    "answers": ("share", {"eval_exact_match": "exact match", "eval_f1": "F1"}),
    "reward": ("reward", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    "reward_margin": ("reward", {"rewards/margins": "chosen minus rejected"}),
    "reward_accuracy": ("share of pairs", {"rewards/accuracies": "chosen above rejected"}),
    "logp": ("log-probability", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    "kl": ("KL to the reference", {"kl": "KL"}),
    "learning_rate": ("learning rate", {"learning_rate": "learning rate"}),
    "grad_norm": ("norm", {"grad_norm": "gradient"}),
    "update_ratio": ("update / weights", {"update_ratio": "update ratio"}),
    "speed": ("tokens/s", {"tokens_per_second": "tokens/s"}),
}
"""Plot -> name and unit of its values, and figure -> name of its line."""


@SFT_ADAPTER.asset
def sft_adapter(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    store = artifacts.store()
    settings = settings_of(store, "sft")
    generated = (VERIFIED,) if settings.generated else ()
    inputs = (*_configured(store, "instruction"), *generated)
    SFT_ADAPTER.enforce(evidence_of(artifacts, qdrant), inputs)
    return train_model(context, artifacts, launcher, SFT_ADAPTER, settings=settings, inputs=inputs)


@DPO_ADAPTER.asset
def dpo_adapter(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    store = artifacts.store()
    settings = settings_of(store, "dpo")
    datasets = ("unpaired_preference", "preference") if settings.is_kto else ("preference",)
    generated = (PAIRS,) if settings.generated else ()
    continued = ("sft_adapter",) if settings.start == "sft" else ()
    inputs = (*_configured(store, *datasets, generated=generated), *generated, *continued)
    DPO_ADAPTER.enforce(evidence_of(artifacts, qdrant), inputs)
    return train_model(context, artifacts, launcher, DPO_ADAPTER, settings=settings, inputs=inputs)


@ADAPTER_EVALUATION.asset
def adapter_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    store = artifacts.store()
    inputs = [*ADAPTER_EVALUATION.configured(context), questions_of(store), "passages"]
    ADAPTER_EVALUATION.enforce(evidence_of(artifacts, qdrant), inputs)
    answers = settings_of(store, "answers")
    trained = {
        name: TrainedRef(asset=asset, recipe_id=store.require(asset).recipe_id)
        for name, asset in TRAINED.items()
        if asset in inputs
    }
    baseline = release.baseline(artifacts.releases(), {candidate.recipe_id for candidate in trained.values()})
    released = None
    if baseline is not None:
        asset = release.released_asset(baseline)
        released = baseline.artifacts[asset]
        trained[RELEASED] = TrainedRef(asset=asset, recipe_id=released)
    params = EvaluateParams(
        models=model_params(store, trained),
        answers=answers.model_dump(mode="json"),
        compute=compute_params(artifacts),
    )
    settings = {"answers": generation_settings(answers), "released": released}
    recipe = ADAPTER_EVALUATION.recipe(artifacts, settings, inputs)
    launch = ADAPTER_EVALUATION.launch(context, launcher, params)
    return produce(artifacts, recipe, launch=launch, metadata=show_answers)


@RELEASED_ADAPTER.asset
def released_adapter(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[object]:
    releases = artifacts.releases()
    with releases.exclusive("adapter"):
        store = artifacts.store()
        RELEASED_ADAPTER.enforce(evidence_of(artifacts, qdrant), release.assets_of(store))
        outcome = release.release_adapter(store, releases)
    version = outcome.release.version
    text = f"version {version}" + ("; candidate not released: it was rolled back earlier" if outcome.withheld else "")
    kind = "reused" if outcome.reused else "made"
    telemetry.emit(telemetry.Progress(asset="released_adapter", kind=kind, text=text))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata=as_metadata(
            {
                "version": version,
                "adapter": release.released_asset(outcome.release),
                "reused": outcome.reused,
                "artifacts": outcome.release.artifacts,
                **outcome.metrics,
            }
        ),
    )


ASSETS = [sft_adapter, dpo_adapter, adapter_evaluation, released_adapter]


def questions_of(store: ArtifactStore) -> str:
    """Return the splits that have held-out questions: the instructions, or the pairs where there are no others."""
    for name in QUESTIONS:
        summary = store.require(name).summary_as(SplitsSummary)
        if summary.configured and summary.validation + summary.test:
            return name
    return QUESTIONS[0]


def model_params(store: ArtifactStore, trained: dict[str, TrainedRef]) -> ModelParams:
    """Return the models that were trained, and the base model that the first of them names, as a worker loads them."""
    first = next(iter(trained.values()))
    artifact = store.find(first.asset, first.recipe_id) or store.require(first.asset)
    base = release.contract_of(artifact).base
    return ModelParams(base_model=base.name, revision=base.revision, trained=trained)


def generation_settings(answers: AnswerSettings) -> dict[str, object]:
    """Return the fields of `answers` that decide an answer from given passages."""
    return answers.model_dump(mode="json", exclude={"top_k", "batch_size", "tolerance", "max_open_thoughts"})


def show_answers(artifact: Artifact) -> dict[str, str]:
    """Return the entries of an evaluation's page: scores with intervals, and the models' answers in one table."""
    summary = artifact.summary_as(AnswerSummary)
    return {"scores": show_scores(summary), "samples": show_samples(artifact.file(ANSWERS_FILE))}


def _configured(store: ArtifactStore, *datasets: str, generated: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the splits of the data sets for which config.yaml names files. Refuse (FT-TRAIN-015) if there is none, and
    no generated row either."""
    splits = {name: store.require(f"{name}_splits") for name in datasets}
    configured = tuple(each.asset for each in splits.values() if each.summary_as(SplitsSummary).configured)
    if configured or generated:
        return configured
    field = " or ".join(f"datasets.{name}.files" for name in datasets)
    unconfigured = violation("FT-TRAIN-015", where="config.yaml", field=field, found=[], expected="at least one file")
    raise Refused(f"training on {splits[datasets[0]].asset}", [unconfigured])


def train_model(
    context: dg.AssetExecutionContext,
    artifacts: ArtifactsResource,
    launcher: LauncherResource,
    spec: AssetSpec,
    *,
    settings: SftSettings | DpoSettings,
    inputs: Sequence[str],
    thinking: str = "",
) -> dg.MaterializeResult[object]:
    """Train with these settings on the splits among `inputs`, or reuse what was trained. `thinking` replaces the policy
    of the instruction data."""
    store = artifacts.store()
    answers = settings_of(store, "answers")
    prompt = prompt_of(answers)
    limits = AnswerLimits(max_new_tokens=answers.max_new_tokens, batch_size=answers.batch_size)
    thinking = thinking or settings_of(store, "datasets").instruction.thinking
    material: dict[str, object] = {
        "training": material_of(settings),
        **_start_of(settings),
        "prompt": msgspec.to_builtins(prompt),
        "thinking": thinking,
        "base": models.version(settings.base_model, artifacts.state(), settings.revision),
    }
    if settings.best_by != "loss":
        material["answers"] = {"max_new_tokens": limits.max_new_tokens}
    params = TrainParams(
        method="dpo" if isinstance(settings, DpoSettings) else "sft",
        settings=settings.model_dump(mode="json"),
        prompt=prompt,
        thinking=thinking,
        compute=compute_params(artifacts),
        report_to=report_to(artifacts),
        answers=limits,
    )
    launch = spec.launch(context, launcher, params, distributed=True)
    return produce(artifacts, spec.recipe(artifacts, material, inputs), launch=launch, metadata=_show_training)


def _start_of(settings: TrainSettings) -> dict[str, object]:
    """Return the content of the adapter that DPO continues, where it is in a folder."""
    if not isinstance(settings, DpoSettings) or settings.start in {"sft", "base"}:
        return {}
    return {"start": given_adapter(settings.start).version}


def material_of(settings: TrainSettings) -> dict[str, object]:
    """Return the fields of `sft` or `dpo` that decide the trained weights."""
    # generated rows are an input of the recipe: without them, no recipe changes
    without_effect = {"generated"} if settings.generated else {"generated", "generated_share"}
    without_effect |= {"lora"} if settings.method == "full" else set[str]()
    if isinstance(settings, DpoSettings):
        # a folder's content is in the recipe, whatever its name
        without_effect |= set[str]() if settings.start == "base" else {"start", "lora"}
    if not settings.is_kto:
        without_effect |= {"desirable_weight", "undesirable_weight"}
    # these two sort the answers of a micro-batch, so that its size belongs to the result
    material = {"micro_batch_size"} if settings.sorts_answers else set[str]()
    # the best step is one of those that are evaluated, and perhaps by its answers
    material |= {"eval_steps"} if settings.checkpoint == "best" else set[str]()
    material |= {"eval_answers"} if settings.best_by != "loss" else set[str]()
    without_effect |= _IMMATERIAL - material
    return settings.model_dump(mode="json", exclude=without_effect)


def _show_training(artifact: Artifact) -> Mapping[str, str]:
    """Return the curves of a training's page, by step and of this training alone."""
    points = telemetry.read_points(artifact.file(telemetry.METRICS_FILE))
    shown: dict[str, str] = {}
    for name, (unit, names) in _CURVES.items():
        if lines := [Line(title, points[figure]) for figure, title in names.items() if figure in points]:
            if name == "loss":
                shown["loss_line"] = small_line_image(lines, name)
            shown[f"{name}_curve"] = line_image(lines, name.replace("_", " "), y=unit)
    return shown
