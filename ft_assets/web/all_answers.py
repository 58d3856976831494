"""All answers of an evaluation: each question with the right answer, those of the models, and what they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ft_assets.adapters.score_answers import models_of
from ft_assets.web.answers import ShownPassage, find_evaluation, passages_read, rows_of, tests_of
from ft_assets.web.project import NotFound, ShownProject

Mark = Literal["", "right", "wrong"]
PAGE_SIZE = 25


class AnswerFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The questions to show. `mark` counts for `model`, or for any of them if that is empty."""

    model: str = ""
    mark: Mark = ""
    text: str = ""


class MarkedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of one model."""

    model: str
    text: str
    thought: str
    right: bool
    """Equal to the right answer (exact match)."""
    f1: float


class ShownAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """One question with every answer."""

    record: str
    question: str
    gold: str
    is_test: bool
    """False for a validation question, on which the candidate was chosen."""
    answers: list[MarkedAnswer]
    passages: list[ShownPassage]
    """The passages that the models read: the retrieved ones, or the evidence of the record."""


class AnswersView(msgspec.Struct, frozen=True, kw_only=True):
    """The page /answers/<evaluation>."""

    evaluation: str
    recipe: str
    models: list[str]
    wanted: AnswerFilter
    total: int
    """Questions that `wanted` keeps."""
    asked: int
    page: int
    pages: int
    questions: list[ShownAnswers]


def show_answers(project: ShownProject, name: str, *, recipe: str, wanted: AnswerFilter, page: int) -> AnswersView:
    """Return one page of the answers of an evaluation. Raises NotFound where there is none, or no such model."""
    evaluation = find_evaluation(project.store, name, recipe)
    rows = rows_of(evaluation)
    models = models_of(rows[0]) if rows else []
    if wanted.model and wanted.model not in models:
        raise NotFound(f"{name} did not ask {wanted.model}. It asked {', '.join(models)}.")
    tests = {row["record_id"] for row in tests_of(evaluation)}
    kept = [row for row in rows if _is_wanted(row, models, wanted)]
    page = max(page, 1)
    shown = kept[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    passages = passages_read(project.store, evaluation, shown)
    return AnswersView(
        evaluation=name,
        recipe=evaluation.recipe_id,
        models=models,
        wanted=wanted,
        total=len(kept),
        asked=len(rows),
        page=page,
        pages=max(-(-len(kept) // PAGE_SIZE), 1),
        questions=[
            ShownAnswers(
                record=row["record_id"],
                question=row["question"],
                gold=row["gold"],
                is_test=row["record_id"] in tests,
                answers=[_answer(row, model) for model in models],
                passages=passages.get(row["record_id"], []),
            )
            for row in shown
        ],
    )


def _answer(row: Mapping[str, Any], model: str) -> MarkedAnswer:
    return MarkedAnswer(
        model=model,
        text=row[f"answer_{model}"] or "",
        thought=row.get(f"thought_{model}") or "",
        right=_is_right(row, model),
        f1=float(row[f"f1_{model}"]),
    )


def _is_right(row: Mapping[str, Any], model: str) -> bool:
    return row[f"exact_match_{model}"] == 1


def _is_wanted(row: Mapping[str, Any], models: Sequence[str], wanted: AnswerFilter) -> bool:
    asked = [wanted.model] if wanted.model else models
    if wanted.mark and not any(_is_right(row, model) == (wanted.mark == "right") for model in asked):
        return False
    texts = [row["question"], row["gold"], *(row[f"answer_{model}"] or "" for model in asked)]
    return any(wanted.text.casefold() in text.casefold() for text in texts)
