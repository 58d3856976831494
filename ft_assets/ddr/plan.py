"""The number of calls that answers to training questions take."""

from __future__ import annotations

from ft_assets.config.model import DdrSettings
from ft_assets.generation.planned_calls import PlannedCalls, answer_tokens

_QUESTION_TOKENS = 40
"""Tokens of a prompt next to the passages."""


def plan_ddr(
    settings: DdrSettings, *, questions: int, top_k: int, max_new_tokens: int, passage_tokens: float
) -> list[PlannedCalls]:
    """Return the calls for these questions, each answered with passages and without."""
    answers = sum(settings.samples if temperature else 1 for temperature in settings.temperatures)
    shown = (settings.top_k or top_k) * passage_tokens
    return [
        PlannedCalls(
            step=step,
            asset="ddr_candidates",
            expected=questions * answers,
            most=questions * answers,
            prompt_tokens=tokens + _QUESTION_TOKENS,
            tokens=answer_tokens(settings.max_new_tokens or max_new_tokens),
        )
        for step, tokens in (("answers with passages", shown), ("answers without", 0.0))
    ]
