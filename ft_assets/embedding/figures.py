"""The figures of a training of the encoder, from what it logged: a gate compares them with the manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ft_assets.embedding.jobs import EpochFigures, ModelSummary
from resources.artifacts import Artifact, ArtifactStore
from resources.telemetry import METRICS_FILE, read_metrics

CHANGE = "parameters_changed"
"""The share of the parameter tensors that training changed, as metrics.jsonl and the summary name it."""
_MEASURES = ("fused_ndcg_at_10", "dense_ndcg_at_10")


def figures_of_losses(losses: Sequence[float]) -> dict[str, float | None]:
    """Return the means of the losses over the first and the last tenth of the steps."""
    tenth = max(len(losses) // 10, 1)
    return {"loss_first": _mean(losses[:tenth]), "loss_last": _mean(losses[-tenth:])}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def figures_of_model(store: ArtifactStore, model: Artifact) -> dict[str, object]:
    """Return the losses, the figures of each epoch on the validation questions, and the change of the parameters."""
    del store
    records = list(read_metrics(model.file(METRICS_FILE)))
    losses = [float(record["loss"]) for record in records if record["phase"] == "train"]
    figures: dict[str, object] = {"steps": len(losses), **figures_of_losses(losses)}
    figures["non_finite_losses"] = sum(not math.isfinite(loss) for loss in losses)
    looks = [record for record in records if record["phase"] == "validate"]
    epochs = [EpochFigures(epoch=n, **{name: look[name] for name in _MEASURES}) for n, look in enumerate(looks)]
    figures["epochs"] = epochs
    best = model.summary_as(ModelSummary).best_epoch
    if best is not None:
        figures["base_ndcg_at_10"] = epochs[0].fused_ndcg_at_10
        figures["best_ndcg_at_10"] = epochs[best].fused_ndcg_at_10 if best < len(epochs) else None
    if changed := [record[CHANGE] for record in records if CHANGE in record]:  # earlier versions did not log it
        figures[CHANGE] = changed[-1]
    return figures
