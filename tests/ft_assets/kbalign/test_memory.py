"""Questions about many passages are made in flat memory: no list of all calls or candidates."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.instruction import InstructionRecord
from expectations.text.glossary import Term
from ft_assets.config.model import KbalignSettings, SplitSettings
from ft_assets.corpus.cut import Alias, Passage
from ft_assets.datasets.dataset import DATASETS
from ft_assets.datasets.ledger import LedgerRow
from ft_assets.kbalign.candidates import Wanted
from ft_assets.kbalign.generate import BLOCK, BLOCKS, Generation
from ft_assets.kbalign.jobs import GenerateParams, GenerateSummary
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.asker import Asker
from resources.call_cache import CallCache
from resources.launcher import ComputeParams
from resources.parquet import arrow_schema, write_table
from resources.text_source import BASE, Call, GeneratorParams, Outcome

from .conftest import Script

pytestmark = pytest.mark.slow
PASSAGES = 2400


def passage(n: int) -> Passage:
    text = (
        f"The pump number {n} of the works has {n % 90 + 10} parts and was tested for {n % 70 + 20} days in Halverstad."
    )
    return Passage(
        passage_id=f"p{n}#build", document_id=f"p{n}", heading=f"P{n} pump > Build", text=text,
        content=f"P{n} pump > Build\n{text}", content_sha256=f"{n:064x}", source="p.md", start=0, end=len(text),
        language="en",
    )  # fmt: skip


def publish(store: ArtifactStore, asset: str, files: dict[str, tuple[Any, Any]]) -> Artifact:
    with store.stage(Recipe(asset=asset, code_version="test")) as staging:
        for name, (kind, rows) in files.items():
            write_table(staging.path / name, arrow_schema(kind), rows)
        return staging.publish()


class Inputs:
    """The part of a job that a generation reads."""

    def __init__(self, folder: Path, passages: int) -> None:
        store = ArtifactStore(folder / "artifacts")
        rows = (passage(n) for n in range(passages))
        self._found = {
            "passages": publish(
                store, "passages", {"passages.parquet": (Passage, rows), "aliases.parquet": (Alias, [])}
            ),
            "glossary": publish(store, "glossary", {"glossary.parquet": (Term, [])}),
            "kbalign_splits": publish(store, "kbalign_splits", {"train.parquet": (InstructionRecord, [])}),
            "split_ledger": publish(store, "split_ledger", {"ledger.parquet": (LedgerRow, [])}),
            **{one.records: publish(store, one.records, {"records.parquet": (one.record, [])}) for one in DATASETS},
        }
        self.recipe = Recipe(asset="kbalign_short", code_version="test")

    def input(self, asset: str) -> Artifact:
        return self._found[asset]


class Watcher(Script):
    """A script that counts the candidates in memory whenever it is asked, and forgets what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.most = 0, 0

    def ask(self, calls: Sequence[Call], on_outcome: Callable[[int, Outcome], None]) -> None:
        super().ask(calls, on_outcome)
        self.calls += len(self.asked)
        self.asked.clear()
        self.most = max(self.most, sum(isinstance(one, Wanted) for one in gc.get_objects()))


def generate(folder: Path, job: Any, script: Script, **settings: Any) -> GenerateSummary:
    given = KbalignSettings(author="prompted", judge="generator", **settings)
    params = GenerateParams(
        settings=given.model_dump(mode="json"),
        split=SplitSettings().model_dump(mode="json"),
        generator=GeneratorParams(),
        compute=ComputeParams(state_dir=str(folder), device="cpu", dtype="float32"),
        dependency="short",
    )
    with Asker(script, CallCache(folder)) as asker:
        staging: Any = type("Staging", (), {"path": folder})
        return Generation(job, params, asker, BASE).write(staging)


def test_candidates_in_memory_are_those_of_one_round(tmp_path: Path):
    script = Watcher()
    summary = generate(tmp_path, Inputs(tmp_path, PASSAGES), script)
    assert summary.asked == summary.passages == PASSAGES
    assert script.calls > 2.5 * PASSAGES
    assert script.most <= 2 * BLOCKS * BLOCK * 4 < PASSAGES * 3, "those of two rounds with their questions, at most"


def test_a_target_ends_it_at_the_same_passage_however_many_blocks_are_asked_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job, asked = Inputs(tmp_path, 1200), dict[int, list[tuple[int, int]]]()
    for blocks in (1, BLOCKS):
        monkeypatch.setattr("ft_assets.kbalign.generate.BLOCKS", blocks)
        for target in (1, 400, 900, 1700):
            summary = generate(tmp_path, job, Script(), target=target)
            assert summary.kept >= target
            asked.setdefault(blocks, []).append((summary.asked, summary.kept))
    assert asked[1] == asked[BLOCKS]
    assert [passages for passages, _ in asked[1]] == sorted({passages for passages, _ in asked[1]})
