"""The figures of trainings and evaluations, from their artifacts' files: gates compare them with the manifests."""

from __future__ import annotations

from itertools import takewhile

import msgspec
from msgspec import UNSET

from ft_assets.adapters.jobs import TrainSummary
from ft_assets.adapters.preflight import read_result
from ft_assets.adapters.score_answers import ANSWERS_FILE, read_values, summarise, summarise_parts
from ft_assets.config.model import AnswerSettings
from ft_assets.datasets.split import split_file
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_columns
from resources.telemetry import METRICS_FILE, read_points

CHANGE = "max_abs_adapter_delta"
"""The largest change of a trained weight, as metrics.jsonl and the summary name it."""
REPORTED = {
    "eval_loss": "eval_loss",
    "reward_accuracy": "eval_rewards/accuracies",
    "reward_margin": "eval_rewards/margins",
    "exact_match": "eval_exact_match",
    "f1": "eval_f1",
}
"""Figure of an evaluation as the summary names it, with `_before` or `_after` -> its name in metrics.jsonl."""


def figures_of_training(store: ArtifactStore, adapter: Artifact) -> dict[str, object]:
    """Return the losses, the figures on validation rows, the change of the weights and the origins of the rows."""
    del store
    points = {name: dict(values) for name, values in read_points(adapter.file(METRICS_FILE)).items()}
    losses, evaluated = points["loss"], points["eval_loss"]
    best = adapter.summary_as(TrainSummary).best_step
    after = max(evaluated) if best is UNSET else best
    figures: dict[str, object] = {"train_loss_first": losses[min(losses)], "train_loss_last": losses[max(losses)]}
    for name, logged in REPORTED.items():
        values = points.get(logged, {})
        figures |= {f"{name}_before": values.get(0), f"{name}_after": values.get(after)}
    if CHANGE in points:  # trainings of earlier versions did not log it
        figures |= {CHANGE: points[CHANGE][max(points[CHANGE])]}
    if "origins" in adapter.summary:
        figures |= {"origins": read_result(adapter, "rows_are_trainable").figures["origins"]}
    return figures


def figures_of_adapters(store: ArtifactStore, evaluation: Artifact) -> dict[str, object]:
    """Return the scores of an `adapter_evaluation` and the adapter that it proposes."""
    (splits,) = (name for name in evaluation.manifest.recipe.inputs if name.endswith("_splits"))
    source = store.find_version(splits, evaluation.manifest.recipe.inputs[splits]) or store.require(splits)
    held = read_columns(source.file(split_file("validation")), ["record_id"])["record_id"]
    asked = read_columns(evaluation.file(ANSWERS_FILE), ["record_id"])["record_id"]
    first = len(list(takewhile(set(held).__contains__, asked)))
    settings = AnswerSettings.model_validate(evaluation.manifest.recipe.settings["answers"])
    return dict(summarise_parts(read_values(evaluation), first, settings.seed).as_manifest())


def figures_of_answers(store: ArtifactStore, evaluation: Artifact) -> dict[str, object]:
    """Return the scores of an `answer_evaluation` with retrieved passages."""
    del store
    seed = msgspec.convert(evaluation.manifest.recipe.settings["seed"], int)
    return dict(summarise(read_values(evaluation), seed).as_manifest())
