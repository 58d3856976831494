"""The score below which a search says that nothing was found, from questions with their answer and without it."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from expectations.contracts.embedding import Fusion
from ft_assets.embedding.exact_search import Blocks, score_blocks
from ft_assets.embedding.model import Encoded
from ft_assets.retrieval.jobs import ScoreFloor
from resources.engines.fusion import fuse

_LEAST_RATIO = 2  # of what is caught to what is lost: below it the scores do not tell the two apart


def calibrate(answered: Sequence[float], unanswered: Sequence[float], share: float) -> ScoreFloor | None:
    """Return the floor under which about `share` of new questions with an answer lie.

    `answered` are best scores with the answer in the corpus, `unanswered` without it. None where the questions are too
    few for the share, or the floor would not catch twice as many questions without an answer.
    """
    count = len(answered)
    # a new score lies below the nth smallest of `count` with a chance of n / (count + 1)
    place = math.floor(share * (count + 1))
    if place < 1:
        return None
    score = float(np.sort(answered)[place - 1])
    lost, caught = ((np.asarray(scores) < score).mean().item() for scores in (answered, unanswered))
    if caught < _LEAST_RATIO * share:
        return None
    return ScoreFloor(score=score, questions=count, lost=round(lost, 4), caught=round(caught, 4))


def best_scores(
    queries: Encoded,
    passages: Blocks,
    ids: Sequence[str],
    relevant: Sequence[Mapping[str, int]],
    *,
    documents: Mapping[str, str],
    fusion: Fusion,
) -> tuple[list[float], list[float]]:
    """Return the best fused score of each query, and the best one without the documents that answer it.

    `relevant`: for each query the passages that answer it; `documents`: passage id -> its document; `fusion`: a
    weighted sum, whose scores are those of each passage alone.
    """
    judged = [{documents[passage] for passage in passages} for passages in relevant]
    columns: dict[str, list[int]] = {document: [] for named in judged for document in named}
    for column, passage in enumerate(ids):
        if (document := documents[passage]) in columns:
            columns[document].append(column)
    hidden = [np.array(sorted(column for document in named for column in columns[document]), int) for named in judged]
    answered, unanswered = (np.full(len(relevant), -np.inf, np.float32) for _ in range(2))
    for block in score_blocks(queries, passages):
        scores = fuse(fusion, block.dense, block.lexical)
        answered[block.queries] = np.maximum(answered[block.queries], scores.max(axis=1))
        last = block.first + scores.shape[1]
        for row, own in zip(scores, hidden[block.queries], strict=True):
            row[own[(own >= block.first) & (own < last)] - block.first] = -np.inf
        unanswered[block.queries] = np.maximum(unanswered[block.queries], scores.max(axis=1))
    return answered.tolist(), unanswered.tolist()
