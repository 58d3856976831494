"""Published pairs of answers, as their gates read them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from expectations.rules.answer_scores import units
from expectations.rules.contamination import Text
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import PAIRS, GeneratedPair
from resources.artifacts import Artifact
from resources.parquet import read_rows


def read_pairs(preferences: Artifact, part: str) -> list[GeneratedPair]:
    """Return the rows of one part of `ddr_preferences`."""
    return [msgspec.convert(row, GeneratedPair) for row in read_rows(preferences.file(split_file(part)))]


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
