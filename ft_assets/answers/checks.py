"""The gates on the answers of the whole system."""

from __future__ import annotations

from expectations.rules.answer_scores import check_not_worse
from ft_assets.adapters.checks import check_scores
from ft_assets.adapters.figures import figures_of_answers
from ft_assets.adapters.jobs import AnswerSummary
from ft_assets.graph.figures_gate import figures_gate
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate

_ASSET = "answer_evaluation"


def _scores_are_finite(evidence: Evidence) -> Verdict:
    """Every model answered every question and every score is a finite number."""
    summary = _summary(evidence)
    return Verdict(check_scores(summary, _ASSET), {"questions": summary.questions})


def _not_worse_than_base(model: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        difference = _summary(evidence).differences.get(f"{model}-base")
        if difference is None:
            return Verdict(figures={"compared": f"the release has no {model} model"})
        delta = difference["f1"]
        violations = check_not_worse(delta, 0.0, where=_ASSET, baseline="base")
        return Verdict(violations, {"mean": delta.mean, "low": delta.low, "high": delta.high})

    rule.__doc__ = f"With retrieved passages, the {model} model's F1 is not below the base model's."
    return Gate(_ASSET, f"{model}_not_worse_than_base", rule, blocking=False)


def _summary(evidence: Evidence) -> AnswerSummary:
    return evidence.store.require(_ASSET).summary_as(AnswerSummary)


GATES: list[Gate] = [
    whole_gate(_ASSET),
    figures_gate(_ASSET, figures_of_answers),
    Gate(_ASSET, "scores_are_finite", _scores_are_finite),
    _not_worse_than_base("sft"),
    _not_worse_than_base("dpo"),
]
