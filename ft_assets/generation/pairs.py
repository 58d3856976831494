"""Published pairs of answers, as their gates read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from expectations.rules.answer_scores import units
from expectations.rules.contamination import Text
from expectations.rules.preference_pairs import PairFacts
from expectations.rules.splits import SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.dataset import INSTRUCTION_DATA
from ft_assets.datasets.held_out import held_out_passages
from ft_assets.datasets.ledger import ASSET as LEDGER
from ft_assets.datasets.ledger import read_ledger
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import PAIRS, GeneratedPair
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_rows


def read_pairs(preferences: Artifact, part: str) -> list[GeneratedPair]:
    """Return the rows of one part of `ddr_preferences`."""
    return [msgspec.convert(row, GeneratedPair) for row in read_rows(preferences.file(split_file(part)))]


def facts_of(row: GeneratedPair) -> PairFacts:
    """Return the parts of a pair that the rules judge."""
    return PairFacts(
        where=f"{row.source}:{row.line_no} ({row.record_id})",
        gold=row.gold,
        chosen_answer=row.chosen_answer,
        chosen=row.chosen,
        rejected=row.rejected,
        chosen_score=row.chosen_score or 0.0,
        rejected_score=row.rejected_score or 0.0,
    )


class TrainingParts(NamedTuple):
    """The questions of training, and the passages that are not for it."""

    questions: frozenset[str]
    hidden: frozenset[str]


def read_training_parts(store: ArtifactStore, split: SplitSettings, *, passages: bool) -> TrainingParts:
    """Return the parts as the ledger has them now. `passages`: held-out ones are not for training."""
    ledger = read_ledger(store.require(LEDGER)).items()
    training = frozenset(
        name for (dataset, name), one in ledger if dataset == INSTRUCTION_DATA.name and one.split == SPLITS[0]
    )
    return TrainingParts(training, held_out_passages(store.require, split) if passages else frozenset())


def held_out_of(row: GeneratedPair, parts: TrainingParts) -> Iterator[tuple[str, str]]:
    """Yield (field, name) of what is held out in a pair."""
    if row.question_id not in parts.questions:
        yield "question", row.question_id
    yield from (("passages", name) for name in row.passages if name in parts.hidden)


def pair_texts(rows: Sequence[GeneratedPair]) -> list[Text]:
    """Return the texts of pairs that training sees, for the search for contamination."""
    texts: list[Text] = []
    for row in rows:
        place = f"{row.source}:{row.line_no}"
        for field in ("question", "chosen", "rejected"):
            texts.append(Text(PAIRS, row.record_id, field, place, getattr(row, field)))
        texts += [Text(PAIRS, row.record_id, "context", place, text) for text in row.context]
    return texts


def lengths_of(rows: Sequence[GeneratedPair]) -> tuple[list[int], list[int]]:
    """Return the lengths of the chosen and of the right answers, in units."""
    return [len(units(row.chosen_answer)) for row in rows], [len(units(row.gold)) for row in rows]
