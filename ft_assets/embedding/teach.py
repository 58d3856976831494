"""Distillation: a cross-encoder's scores of a question's own candidates as the target of the dense scores."""

# torch is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ft_assets.embedding.pairs import Questions

Score = Callable[[Sequence[tuple[str, str]]], np.ndarray]
"""(question, passage) texts -> their scores."""


class Teacher:
    """The scores of a cross-encoder, each computed once."""

    def __init__(self, score: Score, questions: Questions, content_of: Callable[[str], str]) -> None:
        self._score, self._questions, self._content_of = score, questions, content_of
        self._known: dict[tuple[int, str], float] = {}

    def scores(self, pairs: Sequence[tuple[int, str]]) -> list[float]:
        """Return the score of each pair of a question's row and a passage id."""
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        found = self._score([(self._questions.texts[row], self._content_of(name)) for row, name in fresh])
        self._known |= zip(fresh, found.tolist(), strict=True)
        return [self._known[pair] for pair in pairs]


def distilled_loss(dense: Tensor, owners: Sequence[int], taught: Sequence[float], temperature: float) -> Tensor:
    """Return KL(teacher ‖ dense) over the candidates of each question, the mean over the questions.

    `dense` [B, P] are scores. Passage j is a candidate of the question in row `owners[j]`, and `taught[j]` its score by
    the teacher.
    """
    own = torch.tensor(owners, device=dense.device)[None] == torch.arange(len(dense), device=dense.device)[:, None]
    targets = torch.tensor(taught, device=dense.device)[None].expand_as(dense).masked_fill(~own, float("-inf"))
    teacher = targets.softmax(-1)
    student = (dense / temperature).masked_fill(~own, float("-inf")).log_softmax(-1).masked_fill(~own, 0.0)
    return (torch.xlogy(teacher, teacher) - teacher * student).sum(-1).mean()
