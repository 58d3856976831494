"""Parameters, rows and summary of `ddr_candidates`. Light to import: the asset builds them without torch."""

from __future__ import annotations

import msgspec

from expectations.contracts.adapter import RagPrompt
from expectations.formats.dialect import Turn
from ft_assets.config.model import DdrSettings
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.generation.jobs import AskParams
from resources.qdrant import EngineParams
from resources.text_source import CallFigures


class SampleParams(AskParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of `ft_assets.ddr.sample`."""

    top_k: int
    max_new_tokens: int
    parts: list[str]
    """The parts of `instruction_splits` whose questions are answered."""
    prompt: RagPrompt
    answering: str
    """The asset of the adapter that answers, whose version is in the recipe; empty: the generator as it is."""
    engine: EngineParams | None
    """The engine of the released collection; None: BM25 searches the passages."""
    bm25: Bm25Settings

    def typed_settings(self) -> DdrSettings:
        """Return the section `ddr`, typed."""
        return DdrSettings.model_validate(self.settings)


class QuestionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of questions.parquet: a question with the passages that were shown for it."""

    question_id: str
    """Its record in `instruction_splits`."""
    part: str
    question: str
    gold: str
    system: str
    history: list[Turn]
    context: list[str]
    """The texts of the passages that were shown, best first."""
    passages: list[str]
    """Their ids."""
    held_out: int
    """Better hits that were passed over, because validation or test hold them out."""
    evidence: list[str]
    group: str
    source: str
    line_no: int
    calls: int
    """Answers that were asked for."""


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of candidates.parquet: one answer, next to the others of its question."""

    question_id: str
    with_passages: bool
    temperature: float
    sample: int
    text: str
    """With its reasoning in <think> tags, as it is trained."""
    answer: str
    """Without reasoning; this is scored."""
    code: str
    """The rule that keeps it out of pairs; empty for one that may be in a pair."""
    prompt_tokens: int
    tokens: int
    exact_match: float
    f1: float
    rouge_l: float
    call_key: str


class Rewards(msgspec.Struct, frozen=True, kw_only=True):
    """The mean scores of the answers of one kind."""

    with_passages: bool
    temperature: float
    answers: int
    exact_match: float
    f1: float
    rouge_l: float


class CandidatesSummary(CallFigures, frozen=True, kw_only=True):
    """Summary of `ddr_candidates`."""

    questions: dict[str, int]
    """Part -> questions."""
    candidates: int
    right: float
    """Share of the questions that some answer gets exactly right."""
    different: float
    """Different answers to a question, on average."""
    codes: dict[str, int]
    """Code of a rule -> answers that are kept out of pairs."""
    held_out_questions: int
    """Questions for which a held-out passage was passed over."""
    without_passages: int
    """Questions for which nothing was found: they are answered without passages alone."""
    rewards: list[Rewards]
    model: str
    """Digest of the contract of the model that answered."""
    retriever: str
    """`released_collection` or `bm25`."""
