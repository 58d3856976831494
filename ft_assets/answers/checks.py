"""The gates on the whole system's answers."""

from __future__ import annotations

import msgspec

from expectations.rules.answer_scores import check_not_worse
from expectations.rules.bootstrap import Interval
from ft_assets.adapters.checks import check_scores
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate

_ASSET = "answer_evaluation"


def _scores_are_finite(evidence: Evidence) -> Verdict:
    """Every model answered every question and every score is a finite number."""
    summary = evidence.store.require(_ASSET).summary
    return Verdict(check_scores(summary, _ASSET), {"questions": summary["questions"]})


def _not_worse_than_base(model: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        delta = msgspec.convert(evidence.store.require(_ASSET).summary["differences"][f"{model}-base"]["f1"], Interval)
        broken = check_not_worse(delta, 0.0, where=_ASSET, baseline="base")
        return Verdict(broken, {"mean": delta.mean, "low": delta.low, "high": delta.high})

    rule.__doc__ = f"With retrieved passages, the {model} model's F1 is not below the base model's."
    return Gate(_ASSET, f"{model}_not_worse_than_base", rule, blocking=False)


GATES: list[Gate] = [
    whole_gate(_ASSET),
    Gate(_ASSET, "scores_are_finite", _scores_are_finite),
    _not_worse_than_base("sft"),
    _not_worse_than_base("dpo"),
]
