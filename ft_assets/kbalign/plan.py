"""The number of calls that questions and their verification take."""

from __future__ import annotations

from ft_assets.config.model import KbalignSettings
from ft_assets.generation.planned_calls import PlannedCalls, answer_tokens

_PASS_SHARE = {"tuned": 0.6, "prompted": 0.25}
"""Share of the questions that pass the rules that need no judge, of a 135M model (54 of 86; 6 of 23)."""
_QUESTION_TOKENS, _EXAMPLE_TOKENS = 90, 70
"""Tokens of a prompt with heading, sentence and answer, and of an example in it."""
_JUDGE_TOKENS = 40
"""Tokens of a judge's prompt next to the passage."""


def plan_kbalign(
    settings: KbalignSettings, *, passages: int, documents: int, held_out_questions: int, passage_tokens: float
) -> list[PlannedCalls]:
    """Return the calls for `passages` of `documents` that nothing holds out. The judge is tried on
    `held_out_questions`."""
    asked = min(passages, settings.max_passages or passages)
    wanted = {
        "kbalign_short": asked * settings.short_per_passage,
        "kbalign_long": min(documents, asked) * settings.long_per_document,
    }
    share = _PASS_SHARE[settings.author]
    examples = settings.few_shot * _EXAMPLE_TOKENS if settings.author == "prompted" else 0
    steps: list[PlannedCalls] = []
    for asset, questions in wanted.items():
        steps.append(
            PlannedCalls(
                step="questions",
                asset=asset,
                # those that fail are asked again
                expected=round(sum(questions * (1 - share) ** attempt for attempt in range(settings.max_tries))),
                most=questions * settings.max_tries,
                prompt_tokens=_QUESTION_TOKENS + examples,
                tokens=answer_tokens(settings.max_new_tokens),
            )
        )
    candidates = sum(wanted.values())
    passing = round(candidates * (1 - (1 - share) ** settings.max_tries))
    judged = [("judged with the passage", passage_tokens, held_out_questions), ("judged without it", 0.0, 0)]
    for step, shown, trials in judged:
        steps.append(
            PlannedCalls(
                step=step,
                asset="kbalign_verified",
                expected=passing + trials,
                most=candidates + trials,
                prompt_tokens=shown + _JUDGE_TOKENS,
                tokens=answer_tokens(settings.max_new_tokens),
            )
        )
    return steps
