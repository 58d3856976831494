"""Kills at random moments: nothing half done is visible, and the next run makes what an undisturbed one makes."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from tests.faults.children import SmallProject, fork, wait
from tests.faults.protocol import State
from tests.resources.test_engines import EMBEDDED

pytestmark = pytest.mark.slow
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")
KILLS = int(ROUNDS) if ROUNDS.isdigit() else 10
PER_STATE = 5
WHOLE_RUNS = 1  # a run takes half a minute
HEAVY = (
    "ft_assets.definitions",
    "ft_assets.commands.run",
    "ft_assets.embedding.model",
    "great_expectations",
    "qdrant_edge",
)


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


def test_killed_in_whole_runs(place: Path, project: Path, record_property: Callable[[str, object], None]) -> None:
    """`ft run --all` on a small graph, killed anywhere between its first line and its last."""
    for name in HEAVY:  # once, for all children
        import_module(name)
    dice, log, report = random.Random(12), place / "log", place / "report.json"  # noqa: S311
    kills = KILLS if ROUNDS.isdigit() else WHOLE_RUNS

    def run(root: Path, seconds: float | None) -> int:
        return wait(fork(partial(run_all, root), log), None if seconds is None else time.monotonic() + seconds)

    def look(root: Path, *, released: bool) -> dict[str, object]:
        def work() -> int:
            state = State(root / "state", "edge")
            report.write_text(json.dumps({"faults": state.faults(), **(outcome(state) if released else {})}))
            return 0

        assert wait(fork(work, log)) == 0, log.read_text()[-3000:]
        return json.loads(report.read_text())

    for name in ("undisturbed", "killed"):
        SmallProject(place / name, "edge").write(project / "examples/en")
    begun = time.monotonic()
    assert run(place / "undisturbed", None) == 0, log.read_text()[-3000:]
    longest, expected = time.monotonic() - begun, look(place / "undisturbed", released=True)
    root, done = place / "killed", 0
    while done < kills:
        shutil.rmtree(root / "state", ignore_errors=True)
        for _ in range(min(PER_STATE, kills - done)):
            end = run(root, dice.uniform(0.0, longest))
            assert end in {0, -signal.SIGKILL}, log.read_text()[-3000:]
            done += end == -signal.SIGKILL
            assert look(root, released=False)["faults"] == [], f"after {done} kills"
            if end == 0:  # whatever follows would have nothing to do
                break
        assert run(root, None) == 0, log.read_text()[-3000:]
        assert look(root, released=True) == expected, f"after {done} kills"
        logging.getLogger(__name__).warning("%d kills", done)
    record_property("kills", done)


def run_all(root: Path) -> int:
    """Run `ft run --all` in this process, in the project at `root`, and return its exit code."""
    from ft_assets.cli import main

    os.environ |= {"FT_CONFIG": str(root / "config.yaml"), "FT_STATE_DIR": str(root / "state")}
    os.chdir(root)
    sys.argv = ["ft", "run", "--all"]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def outcome(state: State) -> dict[str, object]:
    """Return the version of every current artifact, and what serves."""
    assets = sorted(path.name for path in state.store.root.glob("[!.]*") if path.is_dir())
    release = state.releases.current("collection")
    return {
        "versions": {asset: state.store.require(asset).data_version for asset in assets},
        "release": release.details if release else None,
        "left": sorted(path.name for path in (state.store.root / ".staging").glob("*")),
    }
