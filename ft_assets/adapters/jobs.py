"""Parameters and summaries of the adapter workers. Light to import: assets build and read them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from expectations.contracts.adapter import RagPrompt
from expectations.rules.bootstrap import Interval
from ft_assets.config.model import AnswerSettings, DpoSettings, SftSettings
from resources.launcher import ComputeParams

Method = Literal["sft", "dpo"]
TRAINED = {"sft": "sft_adapter", "dpo": "dpo_adapter"}
"""The name of a trained adapter among the models that are compared -> its asset, in the order of training: of two in
one release the later one is released, because it continues the other."""
RELEASED = "released"
"""The name of the released adapter among the models that are compared."""


class AnswerLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of the section `answers` by which a model in training answers validation questions."""

    max_new_tokens: int = 32
    batch_size: int = 8


class TrainParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.adapters.train`."""

    method: Method
    settings: dict[str, object]
    """All of the section `sft` or `dpo` of config.yaml."""
    prompt: RagPrompt
    thinking: str
    """The policy `datasets.instruction.thinking`."""
    compute: ComputeParams
    report_to: tuple[str, ...] = ("tensorboard",)
    """The key `telemetry.report_to` of config.yaml."""
    answers: AnswerLimits = AnswerLimits()

    def typed_settings(self) -> SftSettings | DpoSettings:
        """Return the settings of the method."""
        return (DpoSettings if self.method == "dpo" else SftSettings).model_validate(self.settings)


class TrainedRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An artifact that a training published, by asset and recipe id."""

    asset: str
    recipe_id: str


class ModelParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A base model and what was trained on it, by the names under which their answers are shown."""

    base_model: str
    revision: str | None
    trained: dict[str, TrainedRef]


class EvaluateParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.adapters.evaluate`."""

    models: ModelParams
    answers: dict[str, object]
    """All of the section `answers` of config.yaml."""
    compute: ComputeParams

    def answer_settings(self) -> AnswerSettings:
        """Return the section `answers`, typed."""
        return AnswerSettings.model_validate(self.answers)


class TrainSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a finished training. Only DPO and KTO report rewards, and only DPO their accuracy; exact match and
    F1 are there only where `eval_answers` has questions answered."""

    steps: int
    eval_loss_before: float
    eval_loss_after: float
    train_loss_first: float
    train_loss_last: float
    reward_accuracy_before: float | UnsetType = UNSET
    reward_accuracy_after: float | UnsetType = UNSET
    reward_margin_before: float | UnsetType = UNSET
    reward_margin_after: float | UnsetType = UNSET
    exact_match_before: float | UnsetType = UNSET
    exact_match_after: float | UnsetType = UNSET
    f1_before: float | UnsetType = UNSET
    f1_after: float | UnsetType = UNSET
    answered_questions: int | UnsetType = UNSET
    answer_seconds: float | UnsetType = UNSET
    """Seconds of all evaluations together in which questions were answered."""
    verdicts: dict[str, int] | UnsetType = UNSET
    """KTO: the number of desirable and of undesirable answers."""
    origins: dict[str, int] | UnsetType = UNSET
    """Trained rows by origin, `hand-made` or the asset that made them; only where a setting adds generated rows."""
    max_abs_adapter_delta: float
    trainable_parameters: int
    rows: int
    validation_rows: int
    supervised_tokens: int
    device: str
    dtype: str
    best_step: int | UnsetType = UNSET
    """The step whose weights are published, where it need not be the last one (`checkpoint: best`)."""
    best_by: str | UnsetType = UNSET
    """The measure on validation rows by which this step was chosen: `loss`, `exact_match` or `f1`."""
    events: list[str] = []
    """Resumes, smaller batches, changed settings and the like, in their order."""
    seconds: float = 0.0
    trackers: dict[str, str] | UnsetType = UNSET
    """Tracker -> the address of this run, or its place below the state folder; only where `telemetry.report_to` names
    one."""

    def figures(self, prefix: str = "") -> dict[str, object]:
        """Return the figures whose names begin with `prefix`, as the manifest holds them."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name.startswith(prefix)}


Intervals = dict[str, Interval]
"""Metric -> its mean with a 95 % interval."""


class AnswerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of several models on the same questions."""

    questions: int
    intervals: dict[str, Intervals]
    """By model, on the test questions."""
    differences: dict[str, Intervals]
    """By pair of models, question by question: `dpo-base` is DPO minus base."""
    validation: dict[str, Intervals] | UnsetType = UNSET
    """By model, on the validation questions, on which the best candidate is chosen."""
    validation_questions: int | UnsetType = UNSET
    proposed: str | UnsetType = UNSET
    """The best of the candidates (`sft`, `dpo`) on the validation questions."""
    evidence_hit_rate: float | UnsetType = UNSET
    """Share of the questions for which a retrieved passage is evidence; only where passages are retrieved."""

    readings: dict[str, dict[str, Intervals]] | UnsetType = UNSET
    """By passages in the prompt (`none`, `retrieved`, `evidence`), then by model, on the questions that have evidence;
    only where passages are retrieved."""
    reading_gains: dict[str, dict[str, Intervals]] | UnsetType = UNSET
    """By pair of readings (`retrieved-none`: the gain by retrieval, `evidence-retrieved`: the gain that is left for
    it), then by model, question by question."""

    def means(self) -> dict[str, float]:
        """Return each model's means, by `<metric>_<model>`."""
        means: dict[str, float] = {}
        for model, intervals in self.intervals.items():
            means |= {f"{metric}_{model}": interval.mean for metric, interval in intervals.items()}
        return means

    def as_manifest(self) -> Mapping[str, object]:
        """Return the summary for a manifest: all fields, and the means once more as flat figures."""
        return {**self.means(), **msgspec.to_builtins(self)}
