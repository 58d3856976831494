"""The parameters of the embedding workers and the summaries of their artifacts. Loads neither torch nor Dagster."""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.rules.bootstrap import Interval
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


class EpochFigures(msgspec.Struct, frozen=True, kw_only=True):
    """nDCG@10 of the validation questions after an epoch; epoch 0 is the base model."""

    epoch: int
    fused_ndcg_at_10: float
    """Fused with the lexical arm, with the weights that are its default."""
    dense_ndcg_at_10: float


class FactorsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The learning of factors of BM25's weights (`bm25_factors`)."""

    taken: bool
    """They are a part of the model: they gain for certain."""
    gain: Interval | None = None
    """nDCG@10 of the validation questions by dense + BM25, with the factors minus without, paired by question."""
    spread: float
    """Standard deviation of the factors, which are 1 before they are learned."""

    @property
    def sentence(self) -> str:
        """The arm that serves, and the reason."""
        if self.gain is None:
            return "BM25 serves as it is: too few validation questions to judge its factors by (at least 20)"
        difference = f"{self.gain.mean:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        reason = f"nDCG@10 {difference} on {self.gain.n} validation questions"
        kept = (
            "BM25 serves with its factors" if self.taken else "BM25 serves as it is: its factors gain nothing certain"
        )
        return f"{kept}; {reason}"


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `embedding_model`. The losses are means over the first and the last tenth of the steps.

    Without validation questions nothing is chosen: the last epoch is kept, and the fields on epochs are empty.
    """

    questions: int
    best_epoch: int | None = None
    """The epoch that was kept, the best one on the validation questions; 0 is the base model."""
    best_ndcg_at_10: float | None = None
    """Fused nDCG@10 of the validation questions, by the kept epoch."""
    base_ndcg_at_10: float | None = None
    """The same by the base model."""
    gain: Interval | None = None
    """The best epoch minus the base model, paired by question. Where it is certainly below 0, the base model is
    kept."""
    epochs: list[EpochFigures] = []
    factors: FactorsSummary | msgspec.UnsetType = msgspec.UNSET
    """The factors of BM25's weights, where `bm25_factors` is set."""
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

    @property
    def choice(self) -> str:
        """The kept epoch and its gain in a sentence."""
        if self.gain is None:
            return "no validation questions: the last epoch is kept"
        kept = f"epoch {self.best_epoch} of {len(self.epochs) - 1}" if self.best_epoch else "the base model"
        if self.gain.low > 0:
            judged = "certainly better than the base model"
        elif self.gain.mean > 0:
            judged = "better than the base model, maybe by chance"
        else:
            judged = "no epoch is better than the base model"
        difference = f"{self.gain.mean:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        return f"{kept} is kept; {judged}: nDCG@10 {difference} on {self.gain.n} validation questions"
