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
from ft_assets.kbalign.generate import Generation
from ft_assets.kbalign.jobs import GenerateParams
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.asker import Asker
from resources.call_cache import CallCache
from resources.launcher import ComputeParams
from resources.parquet import arrow_schema, write_table
from resources.text_source import BASE, Call, GeneratorParams, Outcome

from .conftest import Script

pytestmark = pytest.mark.slow


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


def test_candidates_in_memory_are_those_of_one_block(tmp_path: Path):
    job: Any = Inputs(tmp_path, 1200)
    params = GenerateParams(
        settings=KbalignSettings(author="prompted", judge="generator").model_dump(mode="json"),
        split=SplitSettings().model_dump(mode="json"),
        generator=GeneratorParams(),
        compute=ComputeParams(state_dir=str(tmp_path), device="cpu", dtype="float32"),
        dependency="short",
    )
    script = Watcher()
    with Asker(script, CallCache(tmp_path)) as asker:
        staging: Any = type("Staging", (), {"path": tmp_path})
        summary = Generation(job, params, asker, BASE).write(staging)
    assert summary.asked == summary.passages == 1200
    assert script.calls > 3000
    assert script.most <= 2 * 128 * 4, "two blocks of passages with their questions, at most"
