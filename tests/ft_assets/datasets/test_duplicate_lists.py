"""Families of duplicates that another tool found: its files are read, and each family stays in one split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.violations import Refused
from ft_assets.datasets.duplicate_lists import read_duplicate_lists
from tests.ft_assets.datasets.conftest import TOPICS, Project, failures, instruction


def _lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _families(*paths: Path) -> dict[str, set[str]]:
    families: dict[str, set[str]] = {}
    for row in read_duplicate_lists(paths, paths[0].parent):
        families.setdefault(row.family, set()).add(row.record_id)
    return families


def _curator(folder: Path) -> Path:
    # ConnectedComponentsStage: ids and labels as whole numbers
    columns = {"_curator_dedup_id": pa.array([7, 8, 9], pa.uint64()), "_duplicate_group_id": pa.array([3, 3, 5])}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def _datatrove(folder: Path) -> Path:
    # MinhashDedupFilter(load_cluster_ids=True): in the metadata of a text; -1, or no key, where it is alone
    def row(name: str, **metadata: Any) -> dict[str, Any]:
        return {"text": "…", "id": name, "metadata": {"file_path": "x", **metadata}}

    alone = [row("1", minhash_cluster_id=-1, minhash_cluster_size=1), row("2")]
    return _lines(folder / "a.jsonl", *alone, *(row(n, minhash_cluster_id=3, minhash_cluster_size=2) for n in "78"))


def _floats(folder: Path) -> Path:
    columns = {"id": ["6", "7", "8", "9"], "group": pa.array([None, 3.0, 3.0, -1.0])}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def _table(folder: Path) -> Path:
    (folder / "a.csv").write_text("record_id,group\n 7 ,3\n8,3\n9,\n", "utf-8")
    return folder / "a.csv"


@pytest.mark.parametrize("write", [_curator, _datatrove, _floats, _table])
def test_the_lists_of_other_tools_are_read(write: Callable[[Path], Path], tmp_path: Path):
    families = _families(write(tmp_path))
    assert families["3"] == {"7", "8"} and (len(families) == 1 or write is _curator)


def test_families_as_lists_and_groups_over_several_files(tmp_path: Path):
    one = _lines(tmp_path / "1.jsonl", {"ids": ["b", "a"]}, {"ids": ["a", "c", 4]}, {"id": "d", "group": "g"})
    other = _lines(tmp_path / "2.jsonl", {"id": "e", "group": "g"})
    assert _families(one, other) == {"ids a": {"a", "b"}, "ids 4": {"4", "a", "c"}, "g": {"d", "e"}}


def test_rows_that_cannot_be_used_are_named_with_their_lines(tmp_path: Path):
    rows = [
        {"id": "a", "group": 1},
        {"name": "b", "group": 1},
        {"id": "c", "group": ["x"]},
        {"ids": ["d"]},
        {"id": True, "group": 1},
        ["e", 1],
        {"ids": ["f", None]},
    ]
    path = _lines(tmp_path / "list.jsonl", *rows)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(Refused) as refused:
        list(read_duplicate_lists([path, _lines(tmp_path / "alone.jsonl", {"id": "g", "text": "…"})], tmp_path))
    named = {one.where: one for one in refused.value.violations}
    assert list(named) == [*(f"list.jsonl:{line}" for line in range(2, 9)), "alone.jsonl"]
    assert named["list.jsonl:2"].found == ["group", "name"] and "record_id" in named["list.jsonl:2"].expected
    assert named["list.jsonl:8"].code.startswith("FT-ROW") and named["alone.jsonl"].field == "group"


@pytest.mark.slow
def test_a_listed_family_stays_in_one_split_and_unknown_ids_are_shown(project: Project):
    names = [f"i-{topic}-0" for topic in list(TOPICS)[:12]]
    project.lines("families.jsonl", [{"ids": [*names, "p-topic13-0", "gone"]}])
    project.config["datasets"]["duplicates"] = ["data/families.jsonl"]
    result = project.run()
    assert result.success, failures(result)
    splits = project.splits()
    family = {splits[("instruction", name)] for name in names} | {splits[("preference", "p-topic13-0")]}
    assert len(family) == 1 and len({*splits.values()}) == 3
    assert "FT-SPLIT-016" in failures(result) and "data/families.jsonl:1" in failures(result)
    assert "gone" in failures(result) and project.store.require("split_ledger").summary["listed"] == 14


@pytest.mark.slow
def test_a_list_that_comes_later_moves_nothing_and_a_family_across_splits_blocks(project: Project):
    assert project.run(checks=False).success
    before = project.splits()
    train, test = (
        next(topic for topic in TOPICS if before[("instruction", f"i-{topic}-0")] == split)
        for split in ("train", "test")
    )
    project.config["datasets"]["duplicates"] = ["data/families.jsonl"]
    project.lines("families.jsonl", [{"id": f"i-{train}-0", "group": 1}, {"id": "new", "group": 1}])
    rows = [instruction(topic) for topic in TOPICS]
    project.instructions([*rows, instruction(test, 7, record_id="new", evidence=[])])
    result = project.run()
    assert result.success, failures(result)
    after = project.splits()
    assert after == {**before, ("instruction", "new"): "train"}
    version = project.store.require("split_ledger").recipe_id
    assert project.run(checks=False).success and project.store.require("split_ledger").recipe_id == version
    project.lines("families.jsonl", [{"ids": [f"i-{train}-0", f"i-{test}-0"]}])
    result = project.run()
    assert not result.success and "FT-SPLIT-006" in failures(result) and "duplicates:ids" in failures(result)
    assert project.splits() == after
    project.lines("families.jsonl", [{"id": "new"}])
    assert "FT-SPLIT-015" in failures(project.run())
