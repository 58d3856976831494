"""Releases and rollbacks in any order, with failures in between and a second opening: alias and record agree."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from expectations.violations import Refused
from ft_assets.retrieval.release import is_served, rollback_collection, settle
from resources import faults
from resources.artifacts import ArtifactStore
from resources.faults import VARIABLE
from resources.qdrant import aliased
from resources.releases import Releases
from tests.faults.protocol import State

POINTS = (
    "publish.rename", "stage.own", "rename current.json", "build.upsert", "build.whole", "write collection.intent.json",
    "release.fusion", "release.alias", "release.record", "rename collection.json", "sync collection.json",
    "release.withdraw", "retire.drop",
)  # fmt: skip
REFUSALS = {"FT-REL-001", "FT-REL-002", "FT-COL-001", "FT-COL-006"}
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")


class Releasing(RuleBasedStateMachine):
    """Two openings of one state, of which each may fail at any point of a protocol, and go on later."""

    @initialize()
    def begin(self) -> None:
        memory = Path("/dev/shm")  # noqa: S108
        self.root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.actors = [State(self.root, "local") for _ in range(2)]
        self.released: set[str] = set()

    @rule(actor=st.integers(0, 1), number=st.integers(0, 2), point=st.sampled_from(("", *POINTS)))
    def release(self, actor: int, number: int, point: str) -> None:
        self._at(point, lambda: self.actors[actor].release(number))

    @rule(actor=st.integers(0, 1), point=st.sampled_from(("", *POINTS)))
    def roll_back(self, actor: int, point: str) -> None:
        state = self.actors[actor]

        def work() -> None:
            with state.releases.exclusive("collection"):
                rollback_collection(state.store, state.releases, state.engine, None, who="machine", why="")

        self._at(point, work)

    @rule()
    def sweep(self) -> None:
        ArtifactStore(self.root / "artifacts").sweep()

    def _at(self, point: str, work: Callable[[], object]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if point:
                patch.setenv(VARIABLE, f"{point}:eio")
            patch.setattr(faults, "_passed", {})
            try:
                work()
            except Refused as refusal:  # nothing to go back to, or the collection of a release was retired
                assert {one.code for one in refusal.violations} <= REFUSALS
            except OSError as error:
                assert point and point in str(error)

    @invariant()
    def alias_and_record_agree(self) -> None:
        if not hasattr(self, "root"):
            return
        releases = Releases(self.root / "released")
        with self.actors[0].engine.open() as client:
            settle(client, releases, "passages")
            book, name = releases.book("collection"), aliased(client, "passages")
            current = book.find(book.current) if book else None
            assert (current.details["collection"] if current else None) == name
            assert current is None or is_served(client, "passages", current)
            assert name is None or client.metadata(name)["whole"]
            recorded = {release.version for release in book.history} if book else set[str]()
        assert recorded >= self.released, "a release is never lost"
        self.released = recorded
        moves = book.moves if book else []
        assert [move.before for move in moves] == ["", *(move.after for move in moves)][: len(moves)], (
            "one after another"
        )

    @invariant()
    def artifacts_are_whole(self) -> None:
        if not hasattr(self, "root"):
            return
        store = ArtifactStore(self.root / "artifacts")
        for folder in store.root.glob("[!.]*"):
            assert [fault for artifact in store.versions(folder.name) for fault in artifact.verify()] == []

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root, ignore_errors=True)


Releasing.TestCase.settings = settings(
    max_examples=int(ROUNDS) if ROUNDS.isdigit() else 6,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=not ROUNDS,
)
test_releases_and_rollbacks = pytest.mark.slow(Releasing.TestCase)
