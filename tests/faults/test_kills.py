"""Kills at random moments: nothing half done is visible, and the next run makes what an undisturbed one makes."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.children import fork, wait
from tests.faults.protocol import State
from tests.resources.test_engines import EMBEDDED

pytestmark = pytest.mark.slow
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")
KILLS = int(ROUNDS) if ROUNDS.isdigit() else 10
PER_STATE = 5


@pytest.mark.parametrize("kind", EMBEDDED)
def test_killed_in_the_protocols_of_a_release(
    place: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """The state is looked at after every kill; after five, a run ends and is compared, and a new state begins."""
    dice, log, report = random.Random(kind), place / "log", place / "report.json"  # noqa: S311

    def look(root: Path, *, run: bool) -> dict[str, object]:
        def work() -> int:
            state = State(root, kind)
            found: dict[str, object] = {"faults": state.faults()}
            if run:
                state.run()
                found |= {"later faults": state.faults(), "versions": state.versions()}
            report.write_text(json.dumps(found))
            return 0

        assert wait(fork(work, log)) == 0, log.read_text()[-3000:]
        return json.loads(report.read_text())

    def run(root: Path, seconds: float | None) -> int:
        def work() -> int:
            State(root, kind).run()
            return 0

        return wait(fork(work, log), None if seconds is None else time.monotonic() + seconds)

    begun = time.monotonic()
    assert run(place / "undisturbed", None) == 0, log.read_text()
    longest = time.monotonic() - begun
    expected = look(place / "undisturbed", run=True)["versions"]
    ends: Counter[int] = Counter()
    while ends[-signal.SIGKILL] < KILLS:
        root = place / "state"
        shutil.rmtree(root, ignore_errors=True)
        for _ in range(PER_STATE):
            ends[end := run(root, dice.uniform(0.0, longest))] += 1
            assert end in {0, -signal.SIGKILL}, log.read_text()[-3000:]
            assert look(root, run=False)["faults"] == [], f"after {ends}"
            logging.getLogger(__name__).info("%d kills", ends[-signal.SIGKILL])
        found = look(root, run=True)
        assert (found["later faults"], found["versions"]) == ([], expected), f"after {ends}"
    record_property("kills", ends[-signal.SIGKILL])
