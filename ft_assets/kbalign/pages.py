"""The pages of this stage's assets: the funnel, and kept and quarantined rows next to their passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from expectations.markdown import markdown_cell, markdown_table
from ft_assets.corpus.collect import PASSAGES
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import VerifiedSummary
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.kbalign.jobs import GenerateSummary, MergeSummary
from resources.artifacts import Artifact
from resources.parquet import read_columns, read_rows

_SHOWN = 8
_AROUND = 90  # characters of a passage on each side of the answer

_STEPS = {"judge agrees": ("FT-KBA-005", "FT-KBA-006"), "found": ("FT-KBA-007",)}


def funnel(before: Sequence[GenerateSummary], merged: MergeSummary, verified: VerifiedSummary) -> dict[str, float]:
    """Return the candidates that are left after each step."""
    left = verified.judged
    steps: dict[str, float] = {
        "asked": sum(each.candidates for each in before),
        "pass rules": sum(each.kept for each in before),
        "new": merged.kept,
    }
    for step, codes in _STEPS.items():
        left -= sum(verified.codes.get(code, 0) for code in codes)
        steps[step] = left
    return {**steps, "verified": verified.train}


_BOLD = "\ue000"  # for private use: no text has it, and nothing escapes it


def coverage(verified: Artifact) -> int:
    """Return the number of passages of which a row was verified."""
    ids = read_columns(verified.file(split_file("train")), ["passage_ids"])["passage_ids"]
    return len({names[0] for names in ids})


def show_samples(verified: Artifact, passages: Artifact) -> str:
    """Return the first verified and the first quarantined rows as a table, each with the part of its passage that holds
    the answer."""
    samples = [*islice(_kept(verified), _SHOWN), *islice(_set_aside(verified), _SHOWN)]
    wanted = {sample[1] for sample in samples}
    rows = read_rows(passages.table(PASSAGES), ["passage_id", "text"])
    texts = {row["passage_id"]: row["text"] for row in rows if row["passage_id"] in wanted}
    lines = [
        [*map(markdown_cell, (verdict, question, answer, judge)), _around(texts.get(name, ""), answer)]
        for verdict, name, question, answer, judge in samples
    ]
    return markdown_table(["verdict", "question", "answer", "the judge reads", "passage"], lines)


def _kept(verified: Artifact) -> Iterator[tuple[str, str, str, str, str]]:
    for row in read_rows(verified.file(split_file("train")), ["passage_ids", "question", "answer"]):
        yield "verified", row["passage_ids"][0], row["question"], row["answer"], ""


def _set_aside(verified: Artifact) -> Iterator[tuple[str, str, str, str, str]]:
    for line in read_quarantine(verified.file(QUARANTINE)):
        row = _decode(line.raw)
        yield line.code, line.file, row.get("question", line.raw), row.get("answer", ""), row.get("judge", "")


def _decode(raw: str) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:  # a long one was cut
        return {}


def _around(text: str, answer: str) -> str:
    """Return the part of a text around the answer as a cell, with the answer in bold."""
    start = text.find(answer)
    if start < 0 or not answer:
        return markdown_cell(text[: 2 * _AROUND])
    end = start + len(answer)
    left, right = max(0, start - _AROUND), min(len(text), end + _AROUND)
    before, after = f"{'…' if left else ''}{text[left:start]}", f"{text[end:right]}{'…' if right < len(text) else ''}"
    return markdown_cell(f"{before}{_BOLD}{answer}{_BOLD}{after}").replace(_BOLD, "**")
