"""Files that count more or less: by their rows in an epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from expectations.violations import Refused
from ft_assets.adapters.rows.mix import mix
from ft_assets.config.model import MixEntry

ROWS: list[dict[str, Any]] = [
    {"record_id": f"{name}-{n}", "source": f"kb/{name}.jsonl"} for name in ("old", "new", "other") for n in range(20)
]


def count(*entries: MixEntry, rows: list[dict[str, Any]] = ROWS) -> Counter[str]:
    return Counter(row["source"].removeprefix("kb/").removesuffix(".jsonl") for row in mix(rows, entries))


def test_rows_are_repeated_limited_or_left_out_and_others_count_once() -> None:
    assert mix(ROWS, []) == ROWS
    assert count(MixEntry(files="kb/new*", repeat=2.5)) == {"old": 20, "new": 50, "other": 20}
    assert count(MixEntry(files="*old*", max_rows=6), MixEntry(files="kb/*", repeat=0)) == {"old": 6}
    assert count(MixEntry(files="kb/new.jsonl", max_rows=4, repeat=3)) == {"old": 20, "new": 12, "other": 20}
    repeated = mix(ROWS, [MixEntry(files="kb/new*", repeat=2)])
    assert [row["record_id"] for row in repeated[20:24]] == ["new-0", "new-0", "new-1", "new-1"]


def test_a_row_more_moves_at_most_one_other() -> None:
    entry = MixEntry(files="kb/old*", max_rows=10)
    before = {row["record_id"] for row in mix(ROWS, [entry]) if row["source"] == "kb/old.jsonl"}
    more = [*ROWS, {"record_id": "old-20", "source": "kb/old.jsonl"}]
    after = {row["record_id"] for row in mix(more, [entry]) if row["source"] == "kb/old.jsonl"}
    assert len(after) == 10 and len(before - after) <= 1


def test_an_entry_that_matches_nothing_is_refused_with_the_files_there_are() -> None:
    with pytest.raises(Refused, match=r"FT-TRAIN-072.*mix\[1\]\.files.*knowledge/\*.*kb/new.jsonl"):
        mix(ROWS, [MixEntry(files="kb/*"), MixEntry(files="knowledge/*")])
