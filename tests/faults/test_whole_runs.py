"""Whole `ft run --all` of a small graph: under two orders of hashes, killed anywhere, and two on one state.

A run here is a child forked from this process, which has imported all that a run imports: it takes a third of the time.
Nothing but modules is shared, so that each one is a run of its own.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from resources import faults, telemetry
from tests.faults.children import SmallProject, fork, wait
from tests.faults.protocol import State

pytestmark = pytest.mark.slow
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")
KILLS = int(ROUNDS) if ROUNDS.isdigit() else 10
PER_STATE = 8
_WITH_IMPORTS = """
import json, sys
from pathlib import Path
from tests.faults.test_whole_runs import run_all
root, modules = map(Path, sys.argv[1:])
code = run_all(root)
modules.write_text(json.dumps(list(sys.modules)))
sys.exit(code)
"""


@dataclass
class Runs:
    """Runs in projects of one folder, and the outcome of two that nothing disturbed."""

    place: Path
    examples: Path
    expected: dict[str, object] = field(default_factory=dict[str, object])
    """Of a process with another order of hashes than this one."""
    undisturbed: dict[str, object] = field(default_factory=dict[str, object])
    seconds: float = 0.0
    """CPU time of the undisturbed run of this process."""

    @property
    def log(self) -> Path:
        return self.place / "log"

    def under_way(self, root: Path) -> str:
        """Return the asset that the latest run in a project works at, or `after` the one that it has made."""
        return (root / "under way").read_text()

    def new(self, name: str) -> Path:
        """Return a new project in place of an earlier one of this name."""
        root = self.place / name
        shutil.rmtree(root, ignore_errors=True)
        SmallProject(root, "edge").write(self.examples)
        return root

    def start(self, root: Path, prepare: Callable[[], object] = int, log: Path | None = None) -> int:
        """Start a run and return its id. `prepare` is called in it first."""

        def work() -> int:
            prepare()
            return run_all(root)

        return fork(work, log or self.log)

    def run(self, root: Path, seconds: float = 0.0) -> bool:
        """Return whether a run ended by itself; else it was killed when it had used `seconds` of CPU time."""
        # as sudden as SIGKILL, for nothing handles it; a busy machine moves no kill
        end = wait(self.start(root, lambda: signal.setitimer(signal.ITIMER_PROF, seconds)))
        assert end in {0, -signal.SIGPROF}, self.tail()
        return end == 0

    def faults(self, root: Path) -> list[str]:
        """Return what is half done and can be seen. A move that was interrupted is settled."""
        return self._look(root, State.faults)

    def outcome(self, root: Path) -> dict[str, object]:
        """Return what is half done, the version of every current artifact, what serves, and what a run left."""

        def look(state: State) -> dict[str, object]:
            assets = sorted(path.name for path in state.store.root.glob("[!.]*") if path.is_dir())
            release = state.releases.current("collection")
            return {
                "faults": state.faults(),
                "versions": {asset: state.store.require(asset).data_version for asset in assets},
                "release": release.details if release else None,
                "left": sorted(path.name for path in (state.store.root / ".staging").glob("*")),
            }

        return self._look(root, look)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def _look(self, root: Path, look: Callable[[State], object]) -> Any:
        report = self.place / "report.json"

        def work() -> int:
            report.write_text(json.dumps(look(State(root / "state", "edge"))))
            return 0

        assert wait(fork(work, self.log)) == 0, self.tail()
        return json.loads(report.read_text())


def run_all(root: Path) -> int:
    """Run `ft run --all` in this process, in the project at `root`, and return its exit code.

    The asset that is under way is always in the file `under way`.
    """
    from ft_assets.cli import main

    def note(progress: telemetry.Progress) -> None:
        text = f"after {progress.asset}" if progress.kind in {"made", "reused"} else progress.asset
        (root / "under way").write_text(text)

    (root / "under way").write_text("before the first asset")
    telemetry.subscribe(note)
    os.environ |= {"FT_CONFIG": str(root / "config.yaml"), "FT_STATE_DIR": str(root / "state")}
    os.chdir(root)
    sys.argv = ["ft", "run", "--all"]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def runs(shared_place: Path, project: Path) -> Runs:
    """Run the graph in another process, import its modules into this one, and run it here."""
    runs, modules = Runs(shared_place, project / "examples/en"), shared_place / "modules.json"
    root, seed = runs.new("another process"), "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", _WITH_IMPORTS, str(root), str(modules)]
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in json.loads(modules.read_text()):
        with suppress(ImportError):  # some are made by others, and have no file
            import_module(name)
    runs.expected = runs.outcome(root)
    before, root = resource.getrusage(resource.RUSAGE_CHILDREN), runs.new("undisturbed")
    assert runs.run(root)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    runs.seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    runs.undisturbed = runs.outcome(root)
    return runs


def test_a_process_with_another_order_of_hashes_makes_the_same(runs: Runs) -> None:
    assert "passage_vectors" in str(runs.expected["versions"]) and runs.expected["release"]
    assert (runs.expected["faults"], runs.expected["left"]) == ([], [])
    assert runs.undisturbed == runs.expected


def test_killed_anywhere_the_next_run_makes_what_an_undisturbed_one_makes(
    runs: Runs, record_property: Callable[[str, object], None]
) -> None:
    """Kills lie evenly over the CPU time of a run. The next run resumes; after some the state is looked at before."""
    dice = random.Random(KILLS)  # noqa: S311
    kills: Counter[str] = Counter()
    while kills.total() < KILLS:
        root, before = runs.new("killed"), kills.copy()
        for _ in range(min(PER_STATE, KILLS - kills.total())):
            if runs.run(root, dice.uniform(0.0, runs.seconds)):
                break
            kills[where := runs.under_way(root)] += 1
            if dice.random() < 0.5:
                assert runs.faults(root) == [], f"killed in {where}"
        else:
            assert runs.run(root)
        assert runs.outcome(root) == runs.expected, f"kills: {kills - before}"
        logging.getLogger(__name__).info("%d kills: %s", kills.total(), dict(kills.most_common()))
    record_property("kills", dict(kills))


def test_two_runs_from_the_start_train_once_and_both_succeed(runs: Runs) -> None:
    root = runs.new("two")
    logs = [runs.place / name for name in ("one.log", "two.log")]
    children = [runs.start(root, log=log) for log in logs]
    assert [wait(child) for child in children] == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    figures = [re.findall(r"trained (\d+), encoded (\d+)", log.read_text())[-1] for log in logs]
    assert [sum(map(int, column)) for column in zip(*figures, strict=True)] == [1, 26], figures
    assert runs.outcome(root) == runs.expected


@pytest.mark.parametrize(
    ("point", "asset"), [("publish.seal", "embedding_model"), ("release.record", "released_collection")]
)
def test_a_run_that_waits_for_one_that_is_killed_makes_the_same(runs: Runs, point: str, asset: str) -> None:
    """The first is stopped in the middle of a protocol, and killed as soon as the second waits for it."""
    root, log = runs.new("two"), runs.place / "second.log"

    def stop_there() -> None:
        def stop(name: str) -> None:
            if name == point and runs.under_way(root) == asset:
                os.kill(os.getpid(), signal.SIGSTOP)

        faults.point = stop

    first = runs.start(root, stop_there)
    assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1]), runs.tail()
    second = runs.start(root, log=log)
    while not is_waiting(second):
        assert os.waitid(os.P_PID, second, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, log.read_text()[-3000:]
    os.killpg(first, signal.SIGKILL)
    assert [wait(first), wait(second)] == [-signal.SIGKILL, 0], log.read_text()[-3000:]
    # its staging folder was not left behind yet when the second began; the next run removes it
    assert runs.outcome(root) | {"left": []} == runs.expected


def is_waiting(child: int) -> bool:
    """Return whether a process sleeps now and did so nearly all of the last second."""

    def used() -> tuple[str, int]:
        state, *numbers = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        return state, int(numbers[10]) + int(numbers[11])

    before = used()
    time.sleep(1.0)
    after = used()
    return before[0] == after[0] == "S" and after[1] - before[1] <= 2
