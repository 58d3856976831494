"""The quarantine of an artifact: read it, count it by code, show its first lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from expectations.markdown import Markdown, markdown_cell, markdown_table
from expectations.reading import Rejected
from resources.artifacts import Artifact

QUARANTINE = "quarantine.jsonl"
_SHOWN = 10


def read_quarantine(path: Path) -> Iterator[Rejected]:
    """Yield the lines of a quarantine.jsonl."""
    with path.open("rb") as stream:
        for line in stream:
            yield msgspec.json.decode(line, type=Rejected)


def count_quarantined(artifact: Artifact) -> int:
    """Return the number of quarantined rows of an artifact."""
    return sum(1 for _ in read_quarantine(artifact.file(QUARANTINE)))


def count_codes(rejected: Iterable[Rejected], codes: Counter[str]) -> Iterator[Rejected]:
    """Yield the rejected rows again; count them by code in `codes`."""
    for row in rejected:
        codes[row.code] += 1
        yield row


def quarantine_table(path: Path) -> Markdown:
    """Return the first ten quarantined rows as a Markdown table, or a heading if there are none."""
    rows: list[list[str]] = []
    for row in islice(read_quarantine(path), _SHOWN):
        cells = (f"{row.file}:{row.line}", row.code, row.reason, row.raw[:60], row.suggestion)
        rows.append([markdown_cell(cell) for cell in cells])
    if not rows:
        return Markdown("#### Nothing is quarantined")
    return markdown_table(["where", "code", "reason", "starts with", "fix"], rows)
