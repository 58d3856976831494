"""Parameters, rows and summaries of this stage. Light to import: assets build and read them without torch."""

from __future__ import annotations

from typing import Literal

import msgspec

from ft_assets.adapters.jobs import TrainedRef
from ft_assets.config.model import KbalignSettings
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.generation.jobs import AskParams
from resources.qdrant import EngineParams
from resources.text_source import CallFigures

SPLITS, AUTHOR, SHORT, LONG = "kbalign_splits", "kbalign_author", "kbalign_short", "kbalign_long"
RECORDS = "kbalign_records"

CALLS_FILE, VERDICTS_FILE = "calls.parquet", "verdicts.parquet"
GENERATED_FILE = "generated.parquet"
RECORDS_FILE = "records.parquet"
ASKING = "asking"
"""Ending of the id of a row that asks for the question; `ANSWERING` of one that answers it."""
ANSWERING = "answering"

Dependency = Literal["short", "long"]


class KbalignParams(AskParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters that both workers of this stage share."""

    def typed_settings(self) -> KbalignSettings:
        """Return the section `kbalign`, typed."""
        return KbalignSettings.model_validate(self.settings)


class GenerateParams(KbalignParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.kbalign.generate`."""

    dependency: Dependency


class VerifyParams(KbalignParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.kbalign.verify`."""

    answers: dict[str, object]
    """All of the section `answers`: the judge is asked as users are."""
    judge: TrainedRef | None
    """The adapter that judges; None: the generator as it is."""
    engine: EngineParams | None
    """The engine of the released collection; None where nothing is released to search in: then BM25 searches."""
    bm25: Bm25Settings


class GeneratedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of generated.parquet: a question that passed the rules that need no judge."""

    record_id: str
    question: str
    answer: str
    language: str
    passage_ids: list[str]
    """The first one holds the answer."""
    document_id: str
    kind: str
    """The kind of its answer (`date`, `number`, `code`, `name`, `term`), or `cloze`."""
    dependency: str
    span_start: int
    span_end: int
    """The place of the answer in the passage's `text`."""
    call_key: str
    """The call that wrote the question; empty for a gap-fill question, which no model wrote."""
    attempt: int
    author: str
    """Digest of the author's contract; empty for a gap-fill question."""


class RecordRow(GeneratedRow, frozen=True, kw_only=True):
    """A row of records.parquet."""

    has_reference: bool
    """True if it is trained with its own passages alone, as `kbalign.references_share` says."""
    made_by: str
    """The asset that made it."""


class CallRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of calls.parquet: one reply, or its failure."""

    candidate: str
    passage_id: str
    attempt: int
    call_key: str
    answer: str
    kind: str
    code: str
    """Empty if its question was kept."""
    reason: str
    text: str
    prompt_tokens: int
    tokens: int


class VerdictRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of verdicts.parquet: how one question was judged, up to the first broken rule."""

    record_id: str
    code: str
    """Empty if it was verified."""
    reason: str
    student_answer: str
    """The judge's answer from the passage."""
    f1: float
    """F1 of that answer and the row's."""
    judge_key: str
    closed_answer: str
    """The judge's answer without the passage."""
    closed_f1: float
    found_at: int
    """Rank of the passage for the question, from 1; 0 if it was not among those that were looked at, or not looked for.
    """


class GenerateSummary(CallFigures, frozen=True, kw_only=True):
    """Summary of `kbalign_short` and `kbalign_long`."""

    candidates: int
    kept: int
    quarantined: int
    passages: int
    """Passages of the corpus."""
    held_out: int
    """Of them, those of held-out documents: no call was made for them."""
    asked: int
    """Passages that were asked about."""
    without_question: int
    """Of them, those of which no question was kept."""
    codes: dict[str, int]
    """Code of a rule -> quarantined candidates."""


class MergeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `kbalign_records`."""

    candidates: int
    kept: int
    quarantined: int
    with_reference: int
    codes: dict[str, int]


class TurnedSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `kbalign_splits`, with the fields that a training reads."""

    configured: bool
    train: int
    validation: int
    test: int = 0
    without_passage: int
    """Rows whose evidence is not in the corpus: they are left out."""
    without_span: int
    """Rows whose answer is no part of their passage: they are only answered, not asked for."""
