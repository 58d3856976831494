"""`checkpoint: best`: the evaluation with the lowest validation loss is saved, and its weights are published.

transformers' own callback counts evaluations in memory, so that a run that resumes would end later than one that was
never interrupted. Everything here is read from the trainer's log, which is in every checkpoint.
"""

# transformers is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse
from ft_assets.adapters.trainer.checkpoints import find_damage

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class _Course(NamedTuple):
    """The evaluations after a step of the training: the first with the lowest loss, and how many came after it."""

    best_step: int
    since: int


def build_best(patience: int | None) -> TrainerCallback:
    """Return the callback that saves each evaluation with a lower loss than all before it, and ends the training after
    `patience` evaluations without one (None: never)."""
    from transformers import TrainerCallback

    class KeepBest(TrainerCallback):
        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            # the last step may be the best one, whatever the interval of the evaluations
            control.should_evaluate = control.should_evaluate or state.global_step >= state.max_steps

        def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            course = _course(state.log_history)
            if course is not None:
                control.should_save = control.should_save or not course.since
                control.should_training_stop = control.should_training_stop or _is_over(course, patience)

    return KeepBest()


def ended_early(log: Sequence[Mapping[str, float]], patience: int | None) -> bool:
    """Return whether a run with this log has ended because the loss no longer fell."""
    course = _course(log)
    return course is not None and _is_over(course, patience)


def load_best(trainer: Any) -> int:
    """Load the weights of the step with the lowest validation loss and return that step.

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


def _course(log: Sequence[Mapping[str, float]]) -> _Course | None:
    losses = [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry and entry["step"]]
    if not losses:
        return None
    best = min(range(len(losses)), key=lambda n: (losses[n][1] != losses[n][1], losses[n][1]))  # a NaN is never best
    return _Course(int(losses[best][0]), len(losses) - 1 - best)


def _is_over(course: _Course, patience: int | None) -> bool:
    return patience is not None and course.since >= patience
