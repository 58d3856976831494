"""`checkpoint: best`: the evaluation that is best by `best_by` is saved, and its weights are published.

transformers' own callback counts evaluations in memory, so that a run that resumes would end later than one that was
never interrupted; and it compares one figure, so that of equal shares of right answers the first would be best. Here
everything is read from the trainer's log, which is in every checkpoint, and of equal answers the lower loss is better.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.trainer.checkpoints import find_damage

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class _Course(NamedTuple):
    """The evaluations after a step of the training: the first of the best ones, and how many came after it."""

    best_step: int
    since: int


def build_best(measure: str, patience: int | None) -> TrainerCallback:
    """Return the callback that saves each evaluation that is better than all before it by the measure (`loss`,
    `exact_match`, `f1`), and ends the training after `patience` evaluations without one (None: never)."""
    from transformers import TrainerCallback

    class KeepBest(TrainerCallback):
        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            # the last step may be the best one, whatever the interval of the evaluations
            control.should_evaluate = control.should_evaluate or state.global_step >= state.max_steps

        def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            course = _course(state.log_history, measure)
            if course is not None:
                state.best_global_step = course.best_step
                control.should_save = control.should_save or not course.since
                control.should_training_stop = control.should_training_stop or _is_over(course, patience)

    return KeepBest()


def ended_early(log: Sequence[Mapping[str, float]], measure: str, patience: int | None) -> bool:
    """Return whether a run with this log has ended because the measure no longer got better."""
    course = _course(log, measure)
    return course is not None and _is_over(course, patience)


def load_best(trainer: Any) -> int:
    """Load the weights of the best step and return that step.

    Raises Refused (FT-TRAIN-071) if its checkpoint is gone or damaged.
    """
    state = trainer.state
    folder = Path(state.best_model_checkpoint or "")
    damage = find_damage(folder) if state.best_model_checkpoint else ["it was not saved"]
    if damage:
        refuse(
            violation(
                "FT-TRAIN-071",
                where=SUBJECT,
                field=str(folder),
                found="; ".join(damage),
                expected=f"the checkpoint of step {state.best_global_step}",
            )
        )
    trainer._load_best_model()
    return state.best_global_step


def _course(log: Sequence[Mapping[str, float]], measure: str) -> _Course | None:
    evaluations = [entry for entry in log if "eval_loss" in entry and entry["step"]]
    if not evaluations:
        return None
    best = min(range(len(evaluations)), key=lambda n: _rank(evaluations[n], measure))
    return _Course(int(evaluations[best]["step"]), len(evaluations) - 1 - best)


def _rank(evaluation: Mapping[str, float], measure: str) -> tuple[float, bool, float]:
    """Return the place of an evaluation among others: the lowest is best."""
    loss = evaluation["eval_loss"]
    answers = 0.0 if measure == "loss" else -evaluation[f"eval_{measure}"]
    return answers, math.isnan(loss), loss  # a NaN is never best


def _is_over(course: _Course, patience: int | None) -> bool:
    return patience is not None and course.since >= patience
