"""Each rule on splits, rows and passages, by data that breaks it and data that passes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from expectations.rules import conservation, passages, splits


def _codes(violations: list[splits.Violation]) -> list[str]:
    assert all(violation.fix and violation.where for violation in violations)
    return [violation.code for violation in violations]


def test_an_id_in_two_splits_or_twice_in_one_is_named():
    assert not splits.no_id_twice("x", [("a", "train"), ("b", "test")])
    violations = splits.no_id_twice("x", [("a", "train"), ("a", "test"), ("b", "test"), ("b", "test")])
    assert _codes(violations) == ["FT-SPLIT-003"] * 2 and violations[0].found == ["train", "test"]


def test_a_cluster_in_two_splits_is_named_and_quarantined_rows_do_not_count():
    rows = [("c1", "train"), ("c1", "test"), ("c2", "train"), ("c2", "quarantined"), ("", "quarantined")]
    (violation,) = splits.no_cluster_in_two_splits("x", rows)
    assert "c1" in violation.message and violation.found == ["test", "train"]


def test_an_id_that_moved_or_left_is_named_with_both_splits():
    before = {("d", "a"): "train", ("d", "b"): "test", ("d", "c"): "test"}
    now = {("d", "a"): "train", ("d", "b"): "train", ("d", "new"): "test"}
    violations = splits.no_id_moved("x", now, before)
    assert [(v.found, v.expected) for v in violations] == [("train", "test"), (None, "test")]


def test_a_shared_key_and_a_twin_question_across_splits_are_leaks():
    held = [("document:aes", "train", "a"), ("document:aes", "train", "b"), ("document:aes", "test", "c")]
    assert _codes(splits.nothing_shared_across("x", held)) == ["FT-SPLIT-006"]
    twins = [(("train", "a"), ("train", "b"), 0.9), (("train", "a"), ("test", "c"), 0.85)]
    (leak,) = splits.no_twins_across("x", twins)
    assert leak.code == "FT-SPLIT-013" and leak.found == ["train", "test"] and "85%" in leak.message


def test_an_empty_split_names_the_settings_to_change():
    (violation,) = splits.every_split_is_filled("x", {"train": 5, "test": 1})
    assert violation.field == "validation" and "datasets.split.key" in violation.fix


def test_shares_far_from_the_requested_ones_are_named_and_small_drift_is_not():
    wanted = {"train": 0.7, "validation": 0.1, "test": 0.2}
    assert not splits.shares_are_near("x", {"train": 65, "validation": 12, "test": 23}, wanted)
    assert not splits.shares_are_near("x", {}, wanted)
    assert [v.field for v in splits.shares_are_near("x", {"train": 80, "validation": 18, "test": 2}, wanted)] == [
        "validation",
        "test",
    ]


def _stratum(train: int, validation: int, test: int, draws: float | None = None) -> dict[str, float]:
    return {"train": train, "validation": validation, "test": test, "draws": draws or train + validation + test}


def test_a_stratum_far_from_the_overall_shares_is_named_with_the_noise_it_was_allowed():
    even, tilted = _stratum(7000, 1000, 2000), _stratum(690, 210, 100)
    assert not splits.strata_are_alike("x", {"difficulty": {"easy": even, "hard": _stratum(680, 110, 210)}})
    violations = splits.strata_are_alike("x", {"difficulty": {"easy": even, "hard": tilted}, "language": {"zh": even}})
    assert _codes(violations) == ["FT-SPLIT-011"] * 2
    assert [(v.where, v.field, v.found) for v in violations] == [
        ("x, difficulty hard", "validation share", 0.21),
        ("x, difficulty hard", "test share", 0.1),
    ]
    assert str(violations[1].expected).startswith("0.200 ± 0.0")


def test_a_stratum_of_few_draws_is_not_judged():
    even = _stratum(7000, 1000, 2000)
    assert not splits.strata_are_alike("x", {"source": {"a": even, "b": _stratum(500, 0, 0, draws=6)}})
    assert splits.strata_are_alike("x", {"source": {"a": even, "b": _stratum(500, 0, 0, draws=300)}})
    assert not splits.strata_are_alike("x", {"source": {}, "language": {"en": _stratum(100, 0, 0)}})


def test_shares_that_a_fair_deal_gives_are_within_the_noise():
    dice = random.Random(0)  # noqa: S311
    missed = 0
    for _ in range(2000):
        draws = dice.randint(1, 400)
        share = sum(dice.random() < 0.1 for _ in range(draws)) / draws
        missed += abs(share - 0.1) > splits.share_noise(0.1, draws)
    assert missed <= 4


def test_the_strata_are_shown_as_a_table_the_largest_first():
    shown = splits.strata_table({"language": {"en": _stratum(1, 0, 1), "zh|x": _stratum(6, 2, 2)}})
    assert shown.splitlines()[2:] == [
        "| language | zh\\|x | 10 | 60.0% | 20.0% | 20.0% |",
        "| language | en | 2 | 50.0% | 0.0% | 50.0% |",
    ]


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
        "import sys; from expectations.rules import conservation, contamination, passages, splits; "
        "sys.exit(bool({'torch', 'dagster', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True)
