from __future__ import annotations

from benchmarks import mutations
from expectations.formats.registry import DIALECTS


def test_no_mutated_row_of_any_dialect_crashes_is_lost_or_has_a_key_without_a_mention():
    tried = mutations.run(rows=3_000, seed=11)
    assert tried.all == []
    assert tried.rows >= 3_000 and 0 < tried.clean < tried.rows


def test_the_rows_are_those_of_every_dialect():
    assert mutations.samples().keys() == {dialect.name for dialect in DIALECTS}
