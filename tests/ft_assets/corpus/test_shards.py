"""A corpus in shards: what a change leaves is shared, and every build is what a build from nothing gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ft_assets.config.model import CorpusSettings
from ft_assets.corpus import shards
from ft_assets.corpus.collect import ALIASES, PASSAGES, PassagesSummary, collect_passages
from ft_assets.corpus.shards import ShardSource, group_files
from ft_assets.graph.quarantine import QUARANTINE
from ft_assets.graph.source_files import file_inventory, inventory_version
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.parquet import read_rows

SETTINGS = CorpusSettings(files=["*.jsonl"], min_chars=10, payload=["year"])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LEAST_FILES", 4)
    monkeypatch.setattr(shards, "FILES_A_SHARD", 3)


def build(store: ArtifactStore, docs: Path, before: Artifact | None) -> Artifact:
    files = sorted(docs.glob("*.md"))
    inventory = file_inventory(files, docs)
    recipe = Recipe("passages", "1", {"min_chars": 10}, {"corpus_files": inventory_version(inventory)})
    with store.stage(recipe) as staging:
        source = ShardSource(staging, inventory, before)
        summary = collect_passages(files, docs, SETTINGS, staging.path, source=source)
        return staging.publish(summary)


def content(artifact: Artifact) -> dict[str, Any]:
    """Return all that a build gives: rows, aliases, quarantine, figures, and the names of the shards."""
    return {
        "rows": list(read_rows(artifact.table(PASSAGES))),
        "aliases": list(read_rows(artifact.file(ALIASES))),
        "quarantine": artifact.file(QUARANTINE).read_bytes(),
        "summary": artifact.summary,
        "parts": artifact.table_parts(PASSAGES),
        "version": artifact.data_version,
    }


def inodes(artifact: Artifact) -> set[int]:
    return {path.stat().st_ino for path in artifact.table(PASSAGES)}


def write(docs: Path, name: str, dice: random.Random) -> None:
    """Write a document of a few sections. Ids, texts and types of the payload often repeat those of others."""
    year = dice.choice(["2020", "2020", "2021", "'soon'"])
    sections = [
        f"## {dice.choice(['Use', 'Cost', name])}\n\nThis is the text of number {dice.randrange(12)}, and no other."
        for _ in range(dice.randrange(1, 4))
    ]
    short = ["## Short\n\nno"] if dice.random() < 0.2 else []
    title = [f"# {dice.choice(['Pump', name])}"]
    front = f"---\nyear: {year}\nid: {dice.choice([name, name, name, 'shared'])}\n---"
    (docs / f"{name}.md").write_text("\n\n".join([front, *title, *sections, *short]) + "\n", "utf-8")


@pytest.mark.parametrize("seed", range(12))
def test_a_build_after_any_change_is_what_a_build_from_nothing_gives(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(24):
        write(docs, f"d{number:02}", dice)
    shared = ArtifactStore(tmp_path / "shared")
    before = build(shared, docs, None)
    linked = 0
    for step in range(6):
        names = sorted(path.stem for path in docs.glob("*.md"))
        match dice.choice(["edit", "edit", "add", "delete", "rename"]):
            case "add":
                write(docs, f"d{dice.randrange(24):02}{step}", dice)
            case "delete":
                (docs / f"{dice.choice(names)}.md").unlink()
            case "rename":
                (docs / f"{dice.choice(names)}.md").rename(docs / f"{dice.choice(names)}{step}.md")
            case _:
                write(docs, dice.choice(names), dice)
        now = build(shared, docs, before)
        fresh = build(ArtifactStore(tmp_path / f"fresh{step}"), docs, None)
        assert content(now) == content(fresh)
        assert not now.verify()
        linked += len(inodes(now) & inodes(before))
        before = now
    assert linked > 6


def test_one_changed_document_leaves_all_other_shards_as_they_are(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(40):
        text = f"# Pump {number}\n\nThis is the text of document {number}, and of no other one.\n"
        (docs / f"d{number:02}.md").write_text(text, "utf-8")
    store = ArtifactStore(tmp_path / "store")
    before = build(store, docs, None)
    (docs / "d20.md").write_text("# Pump\n\nThis is another text of the document.\n", "utf-8")
    after = build(store, docs, before)
    parts = len(before.table_parts(PASSAGES))
    assert parts > 5 and len(after.table_parts(PASSAGES)) == parts
    assert len(inodes(after) & inodes(before)) == parts - 1
    assert after.summary_as(PassagesSummary).passages == 40
    store.discard(before)
    assert not after.verify()
    assert [row["document_id"] for row in read_rows(after.table(PASSAGES))] == [f"d{n:02}" for n in range(40)]


@pytest.mark.parametrize("part", ["a shard", "what a shard asked for", "the list", "everything"])
def test_what_is_damaged_is_made_again_of_the_documents(tmp_path: Path, part: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(20):
        (docs / f"d{number:02}.md").write_text(f"# Pump\n\nThis is the text of document {number}.\n", "utf-8")
    store = ArtifactStore(tmp_path / "store")
    before = build(store, docs, None)
    table = before.path / before.table_parts(PASSAGES)[0]
    damaged = {"a shard": table, "what a shard asked for": table.with_suffix(".seen.parquet")}
    path = damaged.get(part, before.path / "passages/shards.json")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    if part == "everything":
        store.discard(before)
    (docs / "d19.md").write_text("# Pump\n\nThis is another text of the document.\n", "utf-8")
    after = build(store, docs, before)
    assert not after.verify()
    assert content(after) == content(build(ArtifactStore(tmp_path / "fresh"), docs, None))


def test_a_document_in_the_middle_moves_no_end_of_another_shard() -> None:
    def ends(names: list[str]) -> set[str]:
        rows = [{"file": name, "document": name, "bytes": 10} for name in names]
        return {group[-1]["file"] for group in group_files(rows)}

    names = [f"{number:04}.md" for number in range(0, 2000, 2)]
    added = sorted([*names, "0777.md"])
    assert len(ends(names)) > 100
    assert len(ends(added) ^ ends(names)) <= 1
    large = [{"file": name, "document": name, "bytes": shards.MOST_BYTES} for name in names[:8]]
    assert all(len(group) <= 2 for group in group_files(large))


def test_few_files_are_one_table(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(3):
        (docs / f"d{number}.md").write_text(f"# Pump\n\nThis is the text of document {number}.\n", "utf-8")
    made = build(ArtifactStore(tmp_path / "store"), docs, None)
    assert made.table_parts(PASSAGES) == [PASSAGES]


def test_the_type_of_a_field_that_an_early_document_decides_changes_later_shards(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()

    def put(number: int, year: str) -> None:
        text = f"---\nyear: {year}\n---\n# Pump\n\nThis is the text of document {number}.\n"
        (docs / f"d{number:02}.md").write_text(text, "utf-8")

    for number in range(20):
        put(number, "2020" if number else "soon")
    store = ArtifactStore(tmp_path / "store")
    before = build(store, docs, None)
    assert before.summary_as(PassagesSummary).codes == {"FT-CORPUS-013": 19}
    put(0, "2019")
    after = build(store, docs, before)
    assert after.summary_as(PassagesSummary).codes == {} and after.summary_as(PassagesSummary).passages == 20
