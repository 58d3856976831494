"""Every fault point with every action, then a clean rerun: the state is as if nothing had happened.

Each pair runs in a child forked from this process. By default a point is taken at its first passing by `kill`, and
every third one by an error; FT_FAULT_ROUNDS=all takes the last passing as well, and every action.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from resources import faults
from resources.faults import VARIABLE
from tests.faults.children import fork, wait
from tests.faults.protocol import State
from tests.resources.test_engines import EMBEDDED

REFUSED = 3  # exit code: the error was named
ERRORS = ("enospc", "eio", "eacces")
WRITTEN = ("manifest.json", "current.json", "collection.json", "collection.intent.json", "meta.json")
pytestmark = pytest.mark.slow


def in_child(work: Callable[[], None], log: Path) -> int:
    """Return the exit code of `work` in a child: REFUSED for an error of the operating system, which names a file."""

    def run() -> int:
        try:
            work()
        except OSError as error:
            logging.error("named: %s", error)
            return REFUSED
        return 0

    return wait(fork(run, log))


def undisturbed(root: Path, kind: str) -> tuple[dict[str, object], Counter[str]]:
    """Return what the scenario makes, and how often it passes each point."""

    def work() -> None:
        passed: Counter[str] = Counter()
        faults.point = lambda name: passed.update([name])
        state = State(root / "undisturbed", kind)
        state.run()
        (root / "expected.json").write_text(json.dumps([state.versions(), passed]))

    assert in_child(work, root / "log") == 0, (root / "log").read_text()
    versions, passed = json.loads((root / "expected.json").read_text())
    return versions, Counter(passed)


def chosen(passed: Counter[str]) -> list[str]:
    """Return the values of FT_FAULT to try. Files that are written alike are one kind: some of them stand for it."""
    if os.environ.get("FT_FAULT_ROUNDS") == "all":
        places = [f"{name}#{n}" for name, times in sorted(passed.items()) for n in sorted({1, times})]
        return [f"{place}:{action}" for place in places for action in ("kill", *ERRORS, "sleep")]
    places = [name for name in sorted(passed) if " " not in name or name.partition(" ")[2] in WRITTEN]
    errors = [f"{place}:{ERRORS[n % 3]}" for n, place in enumerate(places[::3])]
    return [*(f"{place}:kill" for place in places), *errors]


@pytest.mark.parametrize("kind", EMBEDDED)
def test_after_every_fault_a_rerun_makes_what_an_undisturbed_run_makes(
    place: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    if kind == "edge":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    __import__("resources.engines.client" if kind == "local" else "resources.engines.edge")  # once, for all children
    expected, passed = undisturbed(place, kind)
    assert {"publish.rename", "rename current.json", "release.alias", "build.upsert", "retire.drop"} <= passed.keys()
    wrong: list[str] = []
    ends: Counter[int] = Counter()
    for fault in chosen(passed):
        root, log = place / "state", place / "log"
        shutil.rmtree(root, ignore_errors=True)
        log.unlink(missing_ok=True)

        def disturbed(fault: str = fault, root: Path = root) -> None:
            os.environ[VARIABLE] = fault
            State(root, kind).run()

        def again(root: Path = root) -> None:
            state = State(root, kind)
            found: dict[str, object] = {"faults": state.faults()}
            state.run()
            found |= {"faults after the rerun": state.faults(), "versions": state.versions()}
            (place / "found.json").write_text(json.dumps(found))

        ends[end := in_child(disturbed, log)] += 1
        logging.getLogger(__name__).info("%s ended with %d; wrong so far: %s", fault, end, wrong)
        if end not in {0, REFUSED, -signal.SIGKILL}:
            wrong.append(f"{fault}: not named\n{log.read_text()[-2000:]}")
        if in_child(again, log) != 0:
            wrong.append(f"{fault}: the rerun failed\n{log.read_text()[-2000:]}")
            continue
        found = json.loads((place / "found.json").read_text())
        versions = found.pop("versions")
        wrong += [f"{fault}: {when}: {faults}" for when, faults in found.items() if faults]
        differing = {key: (versions[key], expected[key]) for key in expected if versions[key] != expected[key]}
        wrong += [f"{fault}: {differing}"] if differing else []
    record_property("faults", f"{kind}: {len(passed)} points, {sum(ends.values())} faults, ends {dict(ends)}")
    assert not wrong, f"{len(wrong)} of {sum(ends.values())}\n" + "\n".join(wrong)
    assert ends[-signal.SIGKILL] and ends[REFUSED]
