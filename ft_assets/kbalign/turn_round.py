"""Hand-written rows as examples of an author: asked for the question (passage and answer -> question), and answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from expectations.formats.instruction import InstructionRecord
from expectations.questions.prompts import ask_for_question, prompt_language, system_text
from expectations.questions.tokens import holds, tokens_of
from expectations.text.cleaning import sentences
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.passage_index import read_index, resolve_passages
from ft_assets.datasets.split import split_file
from ft_assets.kbalign.jobs import ANSWERING, ASKING, TurnedSummary
from resources.artifacts import Artifact
from resources.parquet import TableWriter, arrow_schema, read_rows

_COLUMNS = ["passage_id", "heading", "text", "content"]
_PARTS = ("train", "validation")
_VALIDATED = 24
"""Hand-written validation rows of an author, at most: enough to see that it learns. The judge is tried on all."""


class WithPassage(NamedTuple):
    """The passage that holds the answer of a hand-written row."""

    row: Mapping[str, Any]
    passage: Mapping[str, Any]
    sentence: str
    """The sentence that holds the answer; empty if none does."""


def with_evidence(splits: Artifact, part: str, passages: Artifact) -> Iterator[WithPassage | None]:
    """Yield each row of a part of `instruction_splits` with its passage: of several, the first that holds the answer.

    None for a row whose evidence is not in the corpus.
    """
    rows = list(read_rows(splits.file(split_file(part))))
    index = read_index(passages)
    names = [resolve_passages(row["evidence"], index) for row in rows]
    wanted = set[str]().union(*names)
    found = {
        row["passage_id"]: row for row in read_rows(passages.table(PASSAGES), _COLUMNS) if row["passage_id"] in wanted
    }
    for row, ids in zip(rows, names, strict=True):
        candidates = [WithPassage(row, found[name], _sentence(found[name]["text"], row["answer"])) for name in ids]
        yield next((one for one in candidates if one.sentence), candidates[0] if candidates else None)


def write_turned(splits: Artifact, passages: Artifact, folder: Path, *, configured: bool) -> TurnedSummary:
    """Write train, validation and (empty) test.parquet with the columns of `instruction_splits`; return the summary."""
    schema = arrow_schema(InstructionRecord)
    counts = {"train": 0, "validation": 0}
    without_passage = without_span = 0
    for part in (*_PARTS, "test"):
        with TableWriter(folder / split_file(part), schema) as table:
            found = with_evidence(splits, part, passages) if part in counts else ()
            for one in found if part == "train" else islice(found, _VALIDATED):
                if one is None:
                    without_passage += 1
                    continue
                table.add(_answering(one))
                if one.sentence and not one.row["history"]:
                    table.add(_asking(one))
                else:
                    without_span += 1
            if part in counts:
                counts[part] = table.rows
    return TurnedSummary(configured=configured, **counts, without_passage=without_passage, without_span=without_span)


def _answering(one: WithPassage) -> dict[str, Any]:
    return {**one.row, "record_id": f"{one.row['record_id']}:{ANSWERING}", "context": [one.passage["content"]]}


def _asking(one: WithPassage) -> dict[str, Any]:
    row, language = one.row, prompt_language(one.row["language"])
    return {
        **row,
        "record_id": f"{row['record_id']}:{ASKING}",
        "question": ask_for_question(language, one.passage["heading"], [one.sentence], row["answer"]),
        "context": [],
        "system": system_text(language, tuned=True),
        "reasoning": "",
        "answer": row["question"],
    }


def _sentence(text: str, answer: str) -> str:
    wanted = tokens_of(answer)
    places = sentences(text)
    return next((text[a:b] for a, b in places if holds(tokens_of(text[a:b]), wanted)), "")
