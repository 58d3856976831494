"""The gates on adapters: rules for a finished training, for the scores of a candidate, and for the released adapter."""

from __future__ import annotations

import math

import msgspec
from msgspec import UNSET

from expectations.contracts.adapter import AdapterContract, compare_base, compare_prompt
from expectations.contracts.compare import Comparison
from expectations.markdown import histogram_table
from expectations.rules.answer_scores import check_not_worse, check_thoughts_close
from expectations.rules.bootstrap import Interval
from expectations.rules.training import (
    check_answers,
    check_eval_loss,
    check_generated_share,
    check_preference,
    check_rewards,
    check_training,
)
from expectations.violations import Violation, violation
from ft_assets.adapters.figures import figures_of_adapters, figures_of_training
from ft_assets.adapters.jobs import AnswerSummary, Method, TrainSummary
from ft_assets.adapters.preflight import gates_of, read_result
from ft_assets.adapters.prompt import prompt_of
from ft_assets.adapters.release import choose_candidate, contract_of, find_released
from ft_assets.adapters.rows.generated import HAND_MADE
from ft_assets.config.from_artifact import settings_of
from ft_assets.graph.figures_gate import figures_gate
from ft_assets.graph.gates import Evidence, Gate, Verdict, lineage_gate, whole_gate
from resources import models

_READ = {"prompt_is_served": ("answer_settings",)}  # gate -> the assets that it reads besides its own


def training_gates(asset: str, method: Method) -> list[Gate]:
    """Return the gates on what was trained with a method."""

    def trained(evidence: Evidence) -> Verdict:
        """Every loss is finite and the trained weights changed."""
        summary = _training(evidence, asset)
        figures = {
            "train_loss_first": summary.train_loss_first,
            "train_loss_last": summary.train_loss_last,
            "eval_loss_before": summary.eval_loss_before,
            "eval_loss_after": summary.eval_loss_after,
            "max_abs_adapter_delta": summary.max_abs_adapter_delta,
        }
        return Verdict(check_training(summary.figures(), asset), figures)

    def eval_loss_fell(evidence: Evidence) -> Verdict:
        """The loss on the validation rows is lower after training than before."""
        figures = _training(evidence, asset).figures("eval_loss_")
        return Verdict(check_eval_loss(figures, asset), figures)

    def answers_hold(evidence: Evidence) -> Verdict:
        """Weights that were chosen by their answers (`best_by`) answer validation questions no worse than before."""
        summary = _training(evidence, asset)
        figures = {**summary.figures("exact_match_"), **summary.figures("f1_"), **summary.figures("answer")}
        if summary.best_by in {UNSET, "loss"}:
            return Verdict(figures=figures or {"answered_questions": 0})
        before, after = (float(str(figures[f"{summary.best_by}_{when}"])) for when in ("before", "after"))
        return Verdict(check_answers(before, after, str(summary.best_by), asset), figures)

    def prompt_is_served(evidence: Evidence) -> Verdict:
        """The adapter was trained with the prompt that `answers` now configures for serving."""
        stored = contract_of(evidence.store.require(asset))
        comparison = compare_prompt(stored, prompt_of(settings_of(evidence.store, "answers")))
        return Verdict(comparison.violations(asset), {"outcome": comparison.level.value})

    def base_matches(evidence: Evidence) -> Verdict:
        """Weights, configuration, tokenizer and stop tokens of the base model are those of the training."""
        stored = contract_of(evidence.store.require(asset))
        comparison = _compare_base(evidence, stored)
        return Verdict(comparison.violations(asset), {"outcome": comparison.level.value, "base": stored.base.name})

    rules = (trained, eval_loss_fell, answers_hold, prompt_is_served, base_matches)
    return [
        whole_gate(asset),
        figures_gate(asset, figures_of_training),
        *(_preflight_gate(asset, name, description) for name, description in gates_of(method).items()),
        *(Gate(asset, rule.__name__, rule, needs=_READ.get(rule.__name__, ())) for rule in rules),
    ]


def _compare_base(evidence: Evidence, stored: AdapterContract) -> Comparison:
    """Return the comparison of the base model that is here with the one of the training."""
    folder = models.locate(stored.base.name, evidence.store.root.parent, stored.base.revision)
    return compare_base(stored, models.identify(folder, stored))


def _preflight_gate(asset: str, name: str, description: str) -> Gate:
    """Return a gate that shows the verdict from before the first training step. A failed one leaves no artifact."""

    def rule(evidence: Evidence) -> Verdict:
        result = read_result(evidence.store.require(asset), name)
        figures = dict(result.figures)
        if "histogram" in figures:
            figures["histogram"] = histogram_table(figures["histogram"], 0, figures["tokens_max"], "tokens of a row")
        return Verdict(result.violations, figures)

    rule.__doc__ = description
    return Gate(asset, name, rule)


def _generated_share(evidence: Evidence) -> Verdict:
    """At most `sft.generated_share` of the trained rows is generated."""
    adapter = evidence.store.require("sft_adapter")
    origins = adapter.summary_as(TrainSummary).origins
    if origins is UNSET:
        return Verdict(figures={"generated": 0})
    training = msgspec.convert(adapter.manifest.recipe.settings["training"], dict[str, object])
    most = msgspec.convert(training["generated_share"], float)
    figures = {"origins": origins, "most": most}
    return Verdict(check_generated_share(origins, HAND_MADE, most, "sft_adapter"), figures)


def _rewards(evidence: Evidence) -> Verdict:
    """DPO reports how often, and by how much, the chosen answer is preferred on the validation rows; KTO how much."""
    summary = _training(evidence, "dpo_adapter")
    figures = summary.figures("reward_")
    return Verdict(check_rewards(figures, "dpo_adapter", kto=summary.verdicts is not UNSET), figures)


def _chosen_gains(evidence: Evidence) -> Verdict:
    """On validation rows the chosen answers gained on the rejected ones: margin above 0, accuracy at least 0.5."""
    summary = _training(evidence, "dpo_adapter")
    margin, accuracy = summary.reward_margin_after, summary.reward_accuracy_after
    broken = check_preference(
        None if margin is UNSET else margin, None if accuracy is UNSET else accuracy, "dpo_adapter"
    )
    return Verdict(broken, summary.figures("reward_"))


def _scores_are_finite(evidence: Evidence) -> Verdict:
    """Every model has a finite score on every question."""
    summary = _evaluation(evidence)
    return Verdict(check_scores(summary, "adapter_evaluation"), {"questions": summary.questions})


def _not_worse_than(baseline: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        candidate = choose_candidate(evidence.store)
        difference = _evaluation(evidence).differences.get(f"{candidate}-{baseline}")
        if difference is None:
            return Verdict(figures={"compared": "no other adapter was released"})
        delta = difference["f1"]
        tolerance = settings_of(evidence.store, "answers").tolerance
        worse = check_not_worse(delta, tolerance, where="adapter_evaluation", baseline=baseline)
        figures = {"mean": delta.mean, "low": delta.low, "high": delta.high, "tolerance": tolerance}
        return Verdict(worse, {"candidate": candidate, **figures})

    rule.__doc__ = (
        f"On test questions the candidate's F1 is not below that of the {baseline} model by more than "
        "answers.tolerance."
    )
    return Gate("adapter_evaluation", f"not_worse_than_{baseline}", rule, needs=("release_settings",))


def _best_is_proposed(evidence: Evidence) -> Verdict:
    """The candidate that `release.prefer` takes: the best on validation questions, and DPO's gain on the test questions
    (not blocking)."""
    summary, chosen = _evaluation(evidence), choose_candidate(evidence.store)
    gain = summary.differences.get("dpo-sft")
    figures: dict[str, object] = {"candidate": chosen, "proposed": str(summary.proposed)}
    if gain is not None:
        figures["dpo-sft on test questions, F1"] = (
            f"{gain['f1'].mean:+.3f} ({gain['f1'].low:+.3f} … {gain['f1'].high:+.3f})"
        )
    if chosen == summary.proposed:
        return Verdict(figures=figures)
    other = violation(
        "FT-REL-008", where="adapter_evaluation", field="release.prefer", found=chosen, expected=str(summary.proposed)
    )
    return Verdict([other], figures)


def _thoughts_close(evidence: Evidence) -> Verdict:
    """A thinking candidate closes its reasoning within answers.max_new_tokens and then answers (not blocking)."""
    model = choose_candidate(evidence.store)
    candidate = _evaluation(evidence).intervals.get(model, {})
    if "closed_thinking" not in candidate:
        return Verdict(figures={"thinking": "no model opened a <think> tag"})
    finished, cut = candidate["closed_thinking"].mean, candidate["cut"].mean
    settings = settings_of(evidence.store, "answers")
    unclosed = check_thoughts_close(
        finished,
        settings.max_open_thoughts,
        where="adapter_evaluation",
        model=model,
        max_new_tokens=settings.max_new_tokens,
    )
    return Verdict(unclosed, {"finished": finished, "cut": cut, "max_new_tokens": settings.max_new_tokens})


def _release_is_loadable(evidence: Evidence) -> Verdict:
    """The released adapter is in the store, complete, trained with the prompt that is served, and its base model is
    the one of its training."""
    release = evidence.releases.current("adapter")
    adapter = find_released(evidence.store, evidence.releases)
    violations = adapter.verify()
    if not violations:
        stored = contract_of(adapter)
        for comparison in (
            compare_prompt(stored, prompt_of(settings_of(evidence.store, "answers"))),
            _compare_base(evidence, stored),
        ):
            violations += comparison.violations("released_adapter")
    return Verdict(violations, {"version": release.version} if release else {})


def check_scores(summary: AnswerSummary, where: str) -> list[Violation]:
    """Return a violation (FT-ANS-003) for each mean or interval that is not finite or leaves out a question."""
    unscored: list[Violation] = []
    for model, intervals in summary.intervals.items():
        unscored += [
            violation(
                "FT-ANS-003",
                where=where,
                field=f"{model}.{metric}",
                found=str(msgspec.to_builtins(interval)),
                expected=f"finite, n = {summary.questions}",
                fix=f"delete the artifact of {where} and run `ft run --asset {where}`",
            )
            for metric, interval in intervals.items()
            if interval.n != summary.questions or not _is_finite(interval)
        ]
    return unscored


def _is_finite(interval: Interval) -> bool:
    return all(map(math.isfinite, (interval.mean, interval.low, interval.high)))


def _training(evidence: Evidence, asset: str) -> TrainSummary:
    return evidence.store.require(asset).summary_as(TrainSummary)


def _evaluation(evidence: Evidence) -> AnswerSummary:
    return evidence.store.require("adapter_evaluation").summary_as(AnswerSummary)


GATES: list[Gate] = [
    *training_gates("sft_adapter", "sft"),
    Gate("sft_adapter", "generated_share_holds", _generated_share),
    *training_gates("dpo_adapter", "dpo"),
    Gate("dpo_adapter", "rewards_reported", _rewards),
    Gate("dpo_adapter", "chosen_gains", _chosen_gains),
    whole_gate("adapter_evaluation"),
    figures_gate("adapter_evaluation", figures_of_adapters),
    lineage_gate("adapter_evaluation"),
    Gate("adapter_evaluation", "scores_are_finite", _scores_are_finite),
    _not_worse_than("base"),
    _not_worse_than("released"),
    Gate("adapter_evaluation", "best_is_released", _best_is_proposed, needs=("release_settings",), blocking=False),
    Gate("adapter_evaluation", "thoughts_close", _thoughts_close, needs=("release_settings",), blocking=False),
    Gate("released_adapter", "release_is_loadable", _release_is_loadable, needs=("answer_settings",)),
]
