from __future__ import annotations

import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.rules.splits import SPLITS
from resources.artifacts import Recipe
from tests.ft_assets.datasets.conftest import TOPICS, Project, failures, instruction, preference, question

pytestmark = pytest.mark.slow

DATASETS = ("instruction", "preference", "unpaired_preference", "retrieval")


def _reused(result: Any, *names: str) -> list[bool]:
    return [result.asset_materializations_for_node(name)[0].metadata["reused"].value for name in names]


def test_the_three_data_sets_agree_and_a_second_run_makes_nothing(project: Project):
    result = project.run()
    assert result.success, failures(result)
    splits = project.splits()
    for topic in TOPICS:
        assert splits[("instruction", f"i-{topic}-0")] == splits[("preference", f"p-{topic}-0")]
        assert splits[("instruction", f"i-{topic}-0")] == splits[("retrieval", f"q-{topic}")]
    for dataset, column in (("instruction", "record_id"), ("retrieval", "query_id")):
        for split in SPLITS:
            ids = [row[column] for row in project.rows(f"{dataset}_splits", f"{split}.parquet")]
            assert ids and all(splits[(dataset, record_id)] == split for record_id in ids)
    made = [f"{dataset}_{step}" for dataset in DATASETS for step in ("records", "splits")]
    assert all(_reused(project.run(checks=False), *made, "split_ledger", "passages", "glossary"))


def test_growth_moves_no_id_and_deleted_rows_leave_the_ledger_unchanged(project: Project):
    half = list(TOPICS)[:14]
    project.instructions([instruction(topic) for topic in half])
    assert project.run(checks=False).success
    before, version = project.splits(), project.store.require("split_ledger").recipe_id
    project.instructions([instruction(topic) for topic in half[2:]])
    result = project.run(checks=False)
    assert project.store.require("split_ledger").recipe_id == version and _reused(result, "split_ledger") == [True]
    project.instructions([instruction(topic, n) for topic in reversed(TOPICS) for n in range(3)])
    assert project.run(checks=False).success
    after = project.splits()
    assert len(after) > len(before) and {key: after[key] for key in before} == before
    assert project.store.require("split_ledger").manifest.recipe.inputs["split_ledger"]
    seen = {row["first_seen"] for row in project.rows("split_ledger", "ledger.parquet")}
    assert seen == {version, project.store.require("split_ledger").recipe_id}


def test_a_row_that_bridges_two_splits_is_quarantined_for_ever_with_both_named(project: Project):
    assert project.run(checks=False).success
    splits = project.splits()
    train = next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == "train")
    test = next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == "test")
    rows = [instruction(topic) for topic in TOPICS]
    bridge = instruction(train, 9) | {"evidence": [f"{train}#basics", test]}
    project.instructions([*rows, bridge])
    result = project.run()
    assert result.success, failures(result)
    assert project.splits()[("instruction", bridge["record_id"])] == "quarantined"
    (row,) = project.quarantine("split_ledger")
    assert (row["file"], row["line"], row["code"]) == ("data/instruction.jsonl", len(rows) + 1, "FT-SPLIT-001")
    assert f"train (by document:{train})" in row["reason"] and f"test (by document:{test})" in row["reason"]
    placed = [r["record_id"] for s in SPLITS for r in project.rows("instruction_splits", f"{s}.parquet")]
    assert sorted(placed) == sorted(r["record_id"] for r in rows)
    project.instructions([*rows, bridge, instruction("topic03", 5)])
    assert project.run(checks=False).success
    assert len(project.quarantine("split_ledger")) == 1


def test_a_nearly_equal_question_follows_its_twin_without_any_evidence(project: Project):
    assert project.run(checks=False).success
    splits = project.splits()
    twins = [
        preference(topic, 7, evidence=[], question=question(topic).upper().replace("?", " ？")[:-1] + "！")
        for topic in TOPICS
    ]
    project.preferences([preference(topic) for topic in TOPICS] + twins)
    assert project.run(checks=False).success
    after = project.splits()
    for topic in TOPICS:
        assert after[("preference", f"p-{topic}-7")] == splits[("preference", f"p-{topic}-0")]


def test_an_edited_row_that_leaks_blocks_and_names_the_fix(project: Project):
    assert project.run(checks=False).success
    splits = project.splits()
    train = next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == "train")
    test = next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == "test")
    rows = [instruction(topic) for topic in TOPICS if topic != train]
    edited = instruction(train, evidence=[], question=question(test) + " please", answer="另一个")
    project.instructions([*rows, edited])
    result = project.run()
    text = failures(result)
    assert not result.success and "FT-SPLIT-006" in text and "new id" in text
    assert not project.run("instruction_splits", checks=False).success


def test_an_empty_split_blocks_and_a_new_key_assigns_again(project: Project):
    project.instructions([instruction("topic00")])
    result = project.run()
    assert not result.success and "FT-SPLIT-002" in failures(result)
    project.instructions([instruction(topic) for topic in TOPICS])
    before = project.splits()
    project.config["datasets"]["split"]["key"] = "another"
    assert project.run(checks=False).success
    assert any(project.splits()[key] != split for key, split in before.items())


def test_a_damaged_ledger_is_refused_and_never_computed_again(project: Project):
    assert project.run(checks=False).success
    folder = project.store.require("split_ledger").path
    for file, code in (("ledger.parquet", "FT-ART-003"), ("manifest.json", "FT-ART-007")):
        path = folder / file
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        for name in ("split_ledger", "instruction_splits"):
            result = project.run(name, checks=False)
            assert not result.success and code in failures(result) and file in failures(result)
        path.write_bytes(whole)


def test_a_ledger_of_a_newer_version_is_refused_and_never_computed_again(project: Project):
    assert project.run(checks=False).success
    ledger = project.store.require("split_ledger")
    table = pq.read_table(ledger.path / "ledger.parquet")
    with project.store.stage(Recipe(ledger.asset, "99", ledger.manifest.recipe.settings)) as staging:
        shutil.copytree(ledger.path, staging.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        added = table.append_column("weight", pa.array([1.0] * table.num_rows))
        pq.write_table(added, staging.path / "ledger.parquet")
        project.store.point(staging.publish(ledger.summary))
    result = project.run("split_ledger", checks=False)
    assert not result.success and "FT-ART-008" in failures(result) and "weight" in failures(result)


def test_unknown_evidence_is_shown_and_does_not_block(project: Project):
    project.instructions([instruction(topic) for topic in TOPICS] + [instruction("topic00", 3, evidence=["gone#x"])])
    result = project.run()
    assert result.success
    assert "FT-SPLIT-010" in failures(result) and "gone#x" in failures(result)
