"""The gates on adapters: what a training must have done, and what a candidate must not lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from expectations.contracts.adapter import AdapterContract, compare_base, compare_prompt
from expectations.rules.answer_scores import check_not_worse, check_thoughts_close
from expectations.rules.bootstrap import Interval
from expectations.rules.training import check_eval_loss, check_rewards, check_training
from expectations.violations import Violation
from ft_assets.adapters.preflight import gates_of, read_result
from ft_assets.adapters.prompt import prompt_of
from ft_assets.config.from_artifact import settings_of
from ft_assets.graph.gates import Evidence, Gate, Verdict, lineage_gate, whole_gate
from resources import models
from resources.artifacts import Artifact
from resources.plots import histogram
from resources.trained_model import CONTRACT_FILE

_LOSSES = ("train_loss_first", "train_loss_last", "eval_loss_before", "eval_loss_after", "max_abs_adapter_delta")
_READ = {"prompt_is_served": ("answer_settings",)}  # what a gate reads besides its own asset


def contract_of(adapter: Artifact) -> AdapterContract:
    """The contract that an adapter artifact carries."""
    return msgspec.convert(adapter.json(CONTRACT_FILE), AdapterContract)


def _training_gates(asset: str) -> list[Gate]:
    def trained(evidence: Evidence) -> Verdict:
        """Every loss is finite and the adapter's weights changed."""
        summary = evidence.store.require(asset).summary
        return Verdict(check_training(summary, asset), {name: summary[name] for name in _LOSSES})

    def eval_loss_fell(evidence: Evidence) -> Verdict:
        """The loss on the validation rows is lower after training than before."""
        summary = evidence.store.require(asset).summary
        figures = {name: summary[name] for name in ("eval_loss_before", "eval_loss_after")}
        return Verdict(check_eval_loss(summary, asset), figures)

    def prompt_is_served(evidence: Evidence) -> Verdict:
        """The adapter was trained with the prompt that `answers` configures for serving now."""
        stored = contract_of(evidence.store.require(asset))
        found = compare_prompt(stored, prompt_of(settings_of(evidence.store, "answers")))
        return Verdict(found.violations(asset), {"outcome": found.level.value})

    def base_matches(evidence: Evidence) -> Verdict:
        """Weights and tokenizer of the base model on disk are those the adapter was trained on."""
        stored = contract_of(evidence.store.require(asset))
        folder = models.locate(stored.base.name, evidence.store.root.parent, stored.base.revision)
        found = models.model_fingerprint(folder)
        base = msgspec.structs.replace(
            stored.base, weights_sha256=found["weights"], tokenizer_sha256=found["tokenizer"]
        )
        comparison = compare_base(stored, base)
        return Verdict(comparison.violations(asset), {"outcome": comparison.level.value, "base": stored.base.name})

    rules = (trained, eval_loss_fell, prompt_is_served, base_matches)
    method = asset.removesuffix("_adapter")
    return [
        whole_gate(asset),
        *(_preflight_gate(asset, name, says) for name, says in gates_of(method).items()),
        *(Gate(asset, rule.__name__, rule, needs=_READ.get(rule.__name__, ())) for rule in rules),
    ]


def _preflight_gate(asset: str, name: str, says: str) -> Gate:
    """What the training judged before its first step; had it not held, there would be no artifact."""

    def rule(evidence: Evidence) -> Verdict:
        found = read_result(evidence.store.require(asset), name)
        figures = dict(found.figures)
        if "histogram" in figures:
            figures["histogram"] = histogram(figures["histogram"], 0, figures["tokens_max"], title="tokens of a row")
        return Verdict(found.violations, figures)

    rule.__doc__ = says
    return Gate(asset, name, rule)


def _rewards(evidence: Evidence) -> Verdict:
    """DPO reports how often, and by how much, the chosen answer is preferred on the validation rows."""
    summary = evidence.store.require("dpo_adapter").summary
    figures = {name: value for name, value in summary.items() if name.startswith("reward_")}
    return Verdict(check_rewards(summary, "dpo_adapter"), figures)


def _scores_are_finite(evidence: Evidence) -> Verdict:
    """Every model was scored on every question."""
    summary = evidence.store.require("adapter_evaluation").summary
    return Verdict(check_scores(summary, "adapter_evaluation"), {"questions": summary["questions"]})


def _not_worse_than(baseline: str) -> Gate:
    def rule(evidence: Evidence) -> Verdict:
        summary = evidence.store.require("adapter_evaluation").summary
        found = summary["differences"].get(f"dpo-{baseline}")
        if found is None:
            return Verdict(figures={"compared": "nothing else was released"})
        delta = msgspec.convert(found["f1"], Interval)
        tolerance = settings_of(evidence.store, "answers").tolerance
        broken = check_not_worse(delta, tolerance, where="adapter_evaluation", baseline=baseline)
        return Verdict(broken, {"mean": delta.mean, "low": delta.low, "high": delta.high, "tolerance": tolerance})

    rule.__doc__ = f"The candidate's F1 is not below that of the {baseline} model by more than answers.tolerance."
    return Gate("adapter_evaluation", f"not_worse_than_{baseline}", rule)


def _thoughts_close(evidence: Evidence) -> Verdict:
    """A thinking candidate closes its thought within answers.max_new_tokens, and then answers (not blocking)."""
    summary = evidence.store.require("adapter_evaluation").summary
    finished = summary.get("closed_thinking_dpo")
    if finished is None:
        return Verdict(figures={"thinking": "no model opened a thought"})
    settings = settings_of(evidence.store, "answers")
    broken = check_thoughts_close(
        finished, settings.max_open_thoughts, where="adapter_evaluation", model="dpo",
        max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip
    figures = {"finished": finished, "cut": summary["cut_dpo"], "max_new_tokens": settings.max_new_tokens}
    return Verdict(broken, figures)


def _release_is_loadable(evidence: Evidence) -> Verdict:
    """What is released is in the store, whole, and made for the prompt that is served."""
    release = evidence.releases.current("adapter")
    if release is None:
        missing = Violation(
            code="FT-ADP-003", where="released_adapter", message="no adapter is released.",
            fix="ft run --asset released_adapter",
        )  # fmt: skip
        return Verdict([missing])
    adapter = evidence.store.find("dpo_adapter", release.artifacts["dpo_adapter"])
    if adapter is None:
        missing = Violation(
            code="FT-ADP-004", where="released_adapter", message="the released adapter is not in the store.",
            field="dpo_adapter", found=None, expected=release.artifacts["dpo_adapter"],
            fix="ft rollback adapter, or ft run --asset released_adapter",
        )  # fmt: skip
        return Verdict([missing])
    prompt = compare_prompt(contract_of(adapter), prompt_of(settings_of(evidence.store, "answers")))
    return Verdict([*adapter.verify(), *prompt.violations("released_adapter")], {"version": release.version})


def check_scores(summary: Mapping[str, Any], where: str) -> list[Violation]:
    """Every mean and interval of an evaluation is a finite number, on as many answers as there were questions."""
    return [
        Violation(
            code="FT-ANS-003", where=where, message="a score is missing or not finite.", field=f"{name}.{metric}",
            found=str(interval), expected=f"finite, n = {summary['questions']}",
            fix=f"delete the artifact of {where} and run `ft run --asset {where}`",
        )
        for name, metrics in summary["intervals"].items() for metric, interval in metrics.items()
        if interval["n"] != summary["questions"] or not all(map(math.isfinite, interval.values()))
    ]  # fmt: skip


GATES: list[Gate] = [
    *_training_gates("sft_adapter"),
    *_training_gates("dpo_adapter"),
    Gate("dpo_adapter", "rewards_reported", _rewards),
    whole_gate("adapter_evaluation"),
    lineage_gate("adapter_evaluation"),
    Gate("adapter_evaluation", "scores_are_finite", _scores_are_finite),
    _not_worse_than("base"),
    _not_worse_than("released"),
    Gate("adapter_evaluation", "thoughts_close", _thoughts_close, blocking=False),
    Gate("released_adapter", "release_is_loadable", _release_is_loadable, needs=("answer_settings",)),
]
