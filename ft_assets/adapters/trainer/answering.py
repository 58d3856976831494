"""Validation questions that the model in training answers at each evaluation: exact match and F1 by its own words.

They are asked by the prompt that the rows are trained with and answered greedily, by the code that serves. No answer is
kept: at the next evaluation the weights are others.
"""

# torch and transformers are untyped here
# pyright: basic
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from expectations.contracts.adapter import RagPrompt
from expectations.contracts.generator import GeneratorContract
from ft_assets.adapters.jobs import AnswerLimits
from ft_assets.adapters.rows.tokenise import Row, gold_of, prompt_messages
from ft_assets.adapters.score_answers import ask_all, measure
from resources import torchrun
from resources.asker import Asker
from resources.local_source import answer_calls
from resources.text_source import BASE, Call, ChatMessage, Outcome

MEASURES = ("exact_match", "f1")
SECONDS = "answer_seconds"
"""The time that the answers of one evaluation took."""


class ValidationQuestions(NamedTuple):
    """Questions with their right answers."""

    chats: list[list[ChatMessage]]
    golds: list[str]

    def part(self, first: int, step: int) -> ValidationQuestions:
        """Return every `step`-th question from number `first` on."""
        return ValidationQuestions(self.chats[first::step], self.golds[first::step])


def questions_of(rows: Sequence[Row], prompt: RagPrompt, most: int) -> ValidationQuestions:
    """Return the first questions of these rows that have a right answer, `most` at most."""
    asked = [row for row in rows if row.get("desirable", True)][:most]
    return ValidationQuestions([prompt_messages(row, prompt) for row in asked], [gold_of(row) for row in asked])


def answer_validation(
    trainer: Any, tokenizer: Any, stop_ids: list[int], questions: ValidationQuestions, limits: AnswerLimits
) -> Callable[[], dict[str, float]]:
    """Return the function that has the trainer's model answer all questions, each process its share, and returns the
    figures as an evaluation logs them. It draws no random number, so the training stays as it is."""
    source = _InTraining(trainer, tokenizer, stop_ids, limits.batch_size)
    own = questions.part(torchrun.rank(), torchrun.world_size())

    def answer() -> dict[str, float]:
        started = time.monotonic()
        replies = ask_all(Asker(source), [BASE], own.chats, limits.max_new_tokens)
        values = measure(replies, own.golds)[BASE]
        shares = torchrun.gather({name: values[name] for name in MEASURES})
        figures = {
            f"eval_{name}": sum(sum(share[name]) for share in shares) / len(questions.golds) for name in MEASURES
        }
        return {**figures, f"eval_{SECONDS}": round(time.monotonic() - started, 2)}

    return answer


class _InTraining:
    """The model of a trainer as a text source."""

    def __init__(self, trainer: Any, tokenizer: Any, stop_ids: list[int], batch_size: int) -> None:
        self._trainer, self.tokenizer, self.stop_ids, self._batch_size = trainer, tokenizer, stop_ids, batch_size
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]

    @property
    def model(self) -> Any:
        # without the wrapper of several processes: they answer different questions
        return self._trainer.model

    def contract(self, model: str = BASE) -> GeneratorContract:
        """Return a name: nothing is kept by it, and greedy texts do not depend on it."""
        return GeneratorContract(kind="local", name="the model in training")

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        """Answer the calls with the weights of now."""
        import torch

        self.model.eval()
        # not inference_mode: what is computed in it (caches of positions) could not be used by the next step
        with torch.no_grad(), self._trainer.accelerator.autocast():
            self._batch_size = answer_calls(
                self, list(enumerate(calls)), on_outcome, self.contract().digest, self._batch_size
            )

    def close(self) -> None:
        """Keep the model: the trainer has it."""
