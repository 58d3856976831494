from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from expectations import conservation, passages, splits


def _codes(violations: list[splits.Violation]) -> list[str]:
    assert all(violation.mend and violation.where for violation in violations)
    return [violation.code for violation in violations]


def test_an_id_in_two_splits_or_twice_in_one_is_named():
    assert not splits.no_id_twice("x", [("a", "train"), ("b", "test")])
    broken = splits.no_id_twice("x", [("a", "train"), ("a", "test"), ("b", "test"), ("b", "test")])
    assert _codes(broken) == ["FT-SPLIT-003"] * 2 and broken[0].found == ["train", "test"]


def test_a_cluster_in_two_splits_is_named_and_quarantined_rows_do_not_count():
    rows = [("c1", "train"), ("c1", "test"), ("c2", "train"), ("c2", "quarantined"), ("", "quarantined")]
    (broken,) = splits.no_cluster_in_two_splits("x", rows)
    assert "c1" in broken.message and broken.found == ["test", "train"]


def test_an_id_that_moved_or_left_is_named_with_both_splits():
    before = {("d", "a"): "train", ("d", "b"): "test", ("d", "c"): "test"}
    now = {("d", "a"): "train", ("d", "b"): "train", ("d", "new"): "test"}
    broken = splits.no_id_moved("x", now, before)
    assert [(v.found, v.expected) for v in broken] == [("train", "test"), (None, "test")]


def test_a_shared_key_and_a_twin_question_across_splits_are_leaks():
    held = [("document:aes", "train", "a"), ("document:aes", "train", "b"), ("document:aes", "test", "c")]
    assert _codes(splits.nothing_shared_across("x", held)) == ["FT-SPLIT-006"]
    twins = [(("train", "a"), ("train", "b"), 0.9), (("train", "a"), ("test", "c"), 0.85)]
    (leak,) = splits.no_twins_across("x", twins)
    assert leak.found == ["train", "test"] and "85%" in leak.message


def test_an_empty_split_says_what_to_change():
    (broken,) = splits.every_split_is_filled("x", {"train": 5, "test": 1})
    assert broken.field == "validation" and "datasets.split.key" in broken.mend


def test_shares_far_from_what_was_asked_for_are_named_and_small_drift_is_not():
    wanted = {"train": 0.7, "validation": 0.1, "test": 0.2}
    assert not splits.shares_are_near("x", {"train": 65, "validation": 12, "test": 23}, wanted)
    assert not splits.shares_are_near("x", {}, wanted)
    assert [v.field for v in splits.shares_are_near("x", {"train": 80, "validation": 18, "test": 2}, wanted)] == [
        "validation", "test",
    ]  # fmt: skip


def test_every_record_is_where_the_ledger_puts_it_or_quarantined_by_it():
    ledger = {"a": "train", "b": "test", "c": "quarantined"}
    assert not splits.every_record_has_its_place("x", ["a", "b", "c"], {"a": "train", "b": "test"}, ledger)
    lost = splits.every_record_has_its_place("x", ["a", "b"], {"a": "train"}, ledger)
    foreign = splits.every_record_has_its_place("x", ["a"], {"a": "train", "z": "test"}, ledger)
    undealt = splits.every_record_has_its_place("x", ["a", "n"], {"a": "train"}, ledger)
    leaked = splits.every_record_has_its_place("x", ["a", "c"], {"a": "train", "c": "train"}, ledger)
    assert [_codes(v) for v in (lost, foreign, undealt, leaked)] == [["FT-SPLIT-008"]] * 4


def test_undealt_records_and_unknown_evidence_are_named():
    assert _codes(splits.all_are_dealt("x", [("d", "a")])) == ["FT-SPLIT-009"]
    assert _codes(splits.evidence_is_known("x", [("d", "a", "gone")])) == ["FT-SPLIT-010"]


def test_rows_are_conserved_and_few_quarantined():
    assert not conservation.every_row_is_accounted_for("x", 10, 9, 1)
    assert _codes(conservation.every_row_is_accounted_for("x", 10, 8, 1)) == ["FT-DATA-002"]
    assert not conservation.few_are_quarantined("x", 100, 5, 0.05)
    assert _codes(conservation.few_are_quarantined("x", 100, 6, 0.05)) == ["FT-DATA-001"]
    assert _codes(conservation.something_was_read("x", 0, "datasets.instruction")) == ["FT-DATA-003"]


def test_passage_ids_are_unique_and_texts_are_those_of_the_source():
    assert _codes(passages.ids_are_unique("x", ["a", "b", "a"])) == ["FT-CORPUS-010"]
    pairs = [("a", "文本", "文本"), ("b", "文本", "别的")]
    assert _codes(passages.offsets_point_at_the_text("x", pairs)) == ["FT-CORPUS-011"]


def test_the_rules_load_nothing_heavy(project: Path):
    code = (
        "import sys, expectations.splits, expectations.conservation, expectations.passages; "
        "sys.exit(bool({'torch', 'dagster', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
