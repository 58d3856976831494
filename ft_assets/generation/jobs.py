"""Rows that a model made and that trainings read: the names of their assets, their columns and their summaries."""

from __future__ import annotations

import msgspec

from expectations.formats.preference import PreferenceRecord

VERIFIED = "kbalign_verified"
"""The asset of verified questions and answers. Its train.parquet has the columns of `instruction_splits`."""
PAIRS = "ddr_preferences"
"""The asset of pairs of answers. Its train.parquet and validation.parquet have the columns of `preference_splits`."""
GENERATED = (VERIFIED, PAIRS)

CANDIDATES = "ddr_candidates"
"""The asset of the answers that pairs are made of."""
QUESTIONS_FILE, CANDIDATES_FILE = "questions.parquet", "candidates.parquet"
PAIR_PARTS = ("train", "validation")


class GeneratedPair(PreferenceRecord, frozen=True, kw_only=True, gc=False):
    """A row of `ddr_preferences`: a record of a pair, and how it was made."""

    question_id: str
    """The record of `instruction_splits` that asks the question."""
    gold: str
    """Its answer."""
    passages: list[str]
    """Ids of the passages in `context`."""
    round: int
    model: str
    """Digest of the contract of the model that answered."""
    chosen_answer: str
    """`chosen` without reasoning; this was scored."""
    chosen_key: str
    """The call that made it."""
    chosen_with_passages: bool
    chosen_temperature: float
    rejected_answer: str
    rejected_key: str
    rejected_with_passages: bool
    rejected_temperature: float


class PairsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `ddr_preferences`."""

    questions: int
    train: int
    """Pairs of training questions."""
    validation: int
    """Pairs of validation questions; they are made only where there are no hand-made pairs."""
    quarantined: int
    """Questions without a pair."""
    codes: dict[str, int]
    """Code of a rule -> questions."""
    exact: float
    """Share of the chosen answers that are exactly right."""
    with_passages: float
    """Share of the rejected answers that were given with passages: the others are easy to tell apart."""
    length: float
    """Median length of the chosen answers as a multiple of that of the right answers (in words, or Chinese
    characters)."""
    margins: list[int]
    """Pairs by margin, in ten equal steps from 0 to 1."""
