"""Rows that a model made and that trainings read: the names of their assets, their columns and their summaries."""

from __future__ import annotations

import msgspec

from expectations.formats.instruction import InstructionRecord
from expectations.formats.preference import PreferenceRecord
from ft_assets.config.model import SplitSettings
from resources.launcher import ComputeParams
from resources.text_source import CallFigures, GeneratorParams

VERIFIED = "kbalign_verified"
"""The asset of verified questions and answers. Its train.parquet has the columns of `instruction_splits`."""
PAIRS = "ddr_preferences"
"""The asset of pairs of answers. Its train.parquet and validation.parquet have the columns of `preference_splits`."""
GENERATED = (VERIFIED, PAIRS)

CANDIDATES = "ddr_candidates"
"""The asset of the answers that pairs are made of."""
QUESTIONS_FILE, CANDIDATES_FILE = "questions.parquet", "candidates.parquet"
PAIR_PARTS = ("train", "validation")
TRIALS_FILE = "trials.parquet"


class AskParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of every worker that asks a model for rows."""

    settings: dict[str, object]
    """All of the section of config.yaml that wants the rows: `kbalign` or `ddr`."""
    split: dict[str, object]
    """The section `datasets.split`."""
    generator: GeneratorParams
    compute: ComputeParams

    def split_settings(self) -> SplitSettings:
        """Return the section `datasets.split`, typed."""
        return SplitSettings.model_validate(self.split)


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
    earlier: int
    """Of both, pairs of earlier rounds. They are trained on again, because DPO starts from the SFT adapter again."""
    quarantined: int
    """Questions without a pair, and pairs of earlier rounds that break a rule now."""
    codes: dict[str, int]
    """Code of a rule -> questions or pairs."""
    earlier_quarantined: int
    exact: float
    """Share of the chosen answers that are exactly right."""
    with_passages: float
    """Share of the rejected answers that were given with passages: the others are easy to tell apart."""
    length: float
    """Median length of the chosen answers as a multiple of that of the right answers (in words, or Chinese
    characters)."""
    margins: list[int]
    """Pairs by margin, in ten equal steps from 0 to 1."""


class VerifiedRow(InstructionRecord, frozen=True, kw_only=True, gc=False):
    """A row of train.parquet of `kbalign_verified`: an instruction, and its way there."""

    made_by: str
    """The asset that made it: `kbalign_short` or `kbalign_long`."""
    kind: str
    dependency: str
    passage_ids: list[str]
    """The passages that it was made from; the first one holds the answer."""
    call_key: str
    """The call that wrote the question."""
    judge_key: str
    """The call with which the judge answered it."""
    author: str
    """Digest of the author's contract; empty for a gap-fill question."""
    judge: str
    """Digest of the judge's contract."""
    rules: str
    """The version of the rules that it passed."""
    closed_book: bool
    """True if the judge knew the answer without the passage."""
    found_at: int
    """Rank of its passage for its question, from 1."""


class VerifiedSummary(CallFigures, frozen=True, kw_only=True):
    """Summary of `kbalign_verified`."""

    candidates: int
    """All that were made: those that no rule has refused before, and those in the quarantines of the assets before."""
    judged: int
    """Rows of `kbalign_records`."""
    train: int
    """Verified rows."""
    quarantined: int
    codes: dict[str, int]
    judge: str
    retriever: str
    """`bm25`, or the version of the released collection."""
    judge_is_author: bool
    judge_right: int
    """Hand-written held-out questions that the judge was tried on with their right answers."""
    judge_wrong: int
    """Plausible wrong answers that it was tried on."""
    judge_recall: float
    """Share of the right answers that it accepts."""
    judge_false_accept: float
    """Share of the wrong answers that it accepts."""
    closed_book: int
    """Verified rows that the judge also answers without the passage."""
    answer_units: float
    """Median length of the verified answers, in words and Chinese characters."""
    hand_written_units: float
    """Median length of the hand-written answers that are trained on."""


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of trials.parquet of `kbalign_verified`: whether the judge accepted one answer to a question of people."""

    question: str
    passage: str
    answer: str
    """The answer to be judged."""
    is_right: bool
    judge_answer: str
    """The judge's own answer from the passage, which it compares."""
    accepted: bool
    judge_key: str
