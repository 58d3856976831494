"""The embedding model. Declares the asset; train.py computes it."""

from collections.abc import Mapping

import dagster as dg

from expectations.contracts.embedding import CONTRACT_FILE, read_contract
from expectations.markdown import bar_table
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import EmbeddingSettings
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.embedding.checks import GATES
from ft_assets.embedding.jobs import EmbeddingJob, ModelSummary
from ft_assets.embedding.pairs import has_negatives
from ft_assets.embedding.scores import as_table, read_scores
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.produce import compute_params, produce
from resources import models
from resources.artifacts import Artifact
from resources.charts import Line, line_image, small_line_image
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.telemetry import METRICS_FILE, read_points

EMBEDDING_MODEL = AssetSpec(
    name="embedding_model",
    group="embedding",
    kinds={"pytorch", "huggingface"},
    code_version="2",
    description="The encoder, fine-tuned on the training questions: its best epoch on the validation questions, and "
    "its contract.",
    inputs=("retrieval_splits", "passages"),
    reads=("embedding_settings",),
    enforces=("retrieval_splits",),
    gates=(DATASET_GATES, GATES),
    worker="ft_assets.embedding.train",
)
SPECS = [EMBEDDING_MODEL]


@EMBEDDING_MODEL.asset
def embedding_model(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    EMBEDDING_MODEL.enforce(evidence_of(artifacts, qdrant))
    settings = settings_of(artifacts.store(), "embedding")
    base = models.version(settings.base_model, artifacts.state(), settings.revision)
    values = settings.model_dump(mode="json")
    unused = _unused(settings, judged=has_negatives(artifacts.store().require("retrieval_splits"), "train"))
    recipe_values = {name: value for name, value in values.items() if name not in unused}
    versions = {"base_version": base}
    if settings.masks_prompts:  # an earlier release gave them weights
        versions["prompts"] = "masked"
    if teacher := settings.teacher:
        versions["teacher_version"] = models.version(teacher.model, artifacts.state(), teacher.revision)
    recipe = EMBEDDING_MODEL.recipe(artifacts, {**recipe_values, **versions})
    params = EmbeddingJob(settings=values, compute=compute_params(artifacts))
    return produce(
        artifacts, recipe, launch=EMBEDDING_MODEL.launch(context, launcher, params), metadata=_describe_model
    )


def _unused(settings: EmbeddingSettings, *, judged: bool) -> set[str]:
    """Return the settings that change nothing here, and so are no part of the recipe.

    `judged`: training questions have negatives of their own.
    """
    unused = {"max_unknown_share", "micro_batch_size"}  # the limit of a gate, and a question of memory
    if not settings.bm25_factors:
        unused.add("factor_penalty")
    if settings.pretrain == "none":
        unused.add("pretrain_steps")
    if not judged:
        unused.add("judged_negatives")
    if not settings.lexical_head:
        unused |= {"head_learning_rate", "sparse_temperature", "sparse_loss_weight", "self_distill"}
    return unused


def describe_scores(artifact: Artifact) -> Mapping[str, object]:
    """Return the table of metrics and a bar for each arm."""
    scores = read_scores(artifact)
    means = {f"{s} {arm}": sum(m["ndcg_at_10"]) / len(m["ndcg_at_10"]) for (s, arm), m in scores.items()}
    return {"metrics": as_table(scores), "ndcg_at_10": bar_table(means, "system and arm", "nDCG@10")}


def _describe_model(artifact: Artifact) -> Mapping[str, object]:
    contract = artifact.json(CONTRACT_FILE)
    shown: dict[str, object] = {"contract": {name: value for name, value in contract.items() if name != "probes"}}
    shown["encode_fp"] = read_contract(contract, artifact.asset).encode_fp
    summary = artifact.summary_as(ModelSummary)
    shown["choice"] = summary.choice
    shown |= {"bm25_factors": summary.factors.sentence} if summary.factors else {}
    if figures := summary.epochs:
        arms = [
            Line(arm, [(each.epoch, getattr(each, f"{arm}_ndcg_at_10")) for each in figures])
            for arm in ("fused", "dense")
        ]
        shown["validation_line"] = small_line_image(arms, "validation questions, nDCG@10")
        shown["validation"] = line_image(arms, "validation questions", x="epoch", y="nDCG@10")
    if METRICS_FILE in artifact.manifest.files:
        losses = read_points(artifact.file(METRICS_FILE)).get("loss", [])
        shown["loss_line"] = small_line_image([Line("training", losses)], "loss")
        shown["loss_curve"] = line_image([Line("training", losses)], "loss", y="loss")
    return shown


ASSETS = [embedding_model]
