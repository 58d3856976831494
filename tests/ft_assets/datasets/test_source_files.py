"""A source file that is saved while an asset reads it: nothing is published under the version that it had before."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ft_assets.corpus import assets as corpus
from ft_assets.datasets import assets as datasets
from tests.ft_assets.datasets.conftest import Project, failures


def edit(path: Path) -> None:
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")


@pytest.mark.parametrize(
    ("read_by", "asset", "file"),
    [
        ((corpus, "collect_passages"), "passages", "docs/one.md"),
        ((corpus, "count_terms"), "glossary", "glossary.yaml"),
        ((datasets, "clean_records"), "instruction_records", "data/instruction.jsonl"),
        ((datasets, "clean_records"), "retrieval_records", "data/qrels.tsv"),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_named_and_the_next_run_reads_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, read_by: tuple[ModuleType, str], asset: str, file: str
) -> None:
    project.document("one", "# One\n\n## Basics\n\nThis text is long enough to become a passage of its own.\n")
    (project.root / "glossary.yaml").write_text("Basics: []\n", "utf-8")
    project.config["corpus"]["glossary"] = ["glossary.yaml"]
    project.run(checks=False)
    before = project.store.require(asset)
    edit(project.root / file)  # else the artifact is reused
    read: Any = getattr(*read_by)
    changes = [edit, Path.unlink]

    def read_and_change(*arguments: Any, **named: Any) -> object:
        found = read(*arguments, **named)
        if changes:
            changes.pop()(project.root / file)
        return found

    monkeypatch.setattr(*read_by, read_and_change)
    whole = (project.root / file).read_bytes()
    while changes:
        refused = failures(project.run(asset, checks=False))
        assert "FT-LIN-003" in refused and file in refused
        assert project.store.require(asset).recipe_id == before.recipe_id
        assert len(project.store.versions(asset)) == 1
        (project.root / file).write_bytes(whole)
    project.run(asset, checks=False)
    assert project.store.require(asset).recipe_id != before.recipe_id
