"""The parameters of the embedding workers and the summaries of their artifacts. Loads neither torch nor Dagster."""

from __future__ import annotations

from typing import Any

import msgspec

from ft_assets.config.model import EmbeddingSettings
from resources.launcher import ComputeParams


class EmbeddingJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of `train`. `settings` is the `embedding` section as JSON."""

    settings: dict[str, Any]
    compute: ComputeParams

    def embedding_settings(self) -> EmbeddingSettings:
        """Return the settings, validated."""
        return EmbeddingSettings.model_validate(self.settings)


class Bm25Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of BM25, as `retrieval` has them."""

    language: str
    stop_words: list[str] | None
    k1: float
    b: float


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `embedding_model`. The losses are means over the first and the last tenth of the steps."""

    questions: int
    unresolved: int
    judged_negatives: int = 0
    """Passages judged not to answer a training question."""
    steps: int
    loss_first: float | None
    loss_last: float | None
    non_finite_losses: int
    parameters_changed: float
    """Share of the parameter tensors that training changed."""
    dimension: int
    device: str
    dtype: str
