"""Every fault point with every action, then a clean rerun: the state is as if nothing had happened.

Each pair runs in a child forked from this process. By default a point is taken at its first passing by `kill`, and
every third one by an error, and those of a copy on a server by every action; FT_FAULT_ROUNDS=all takes the last
passing as well, and every action.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from resources import faults
from resources.engines import client as engine_client
from resources.faults import VARIABLE
from tests.faults import test_points_elsewhere
from tests.faults.children import fork, wait
from tests.faults.network import Server, served
from tests.faults.protocol import ROUNDS, State
from tests.resources.test_engines import EMBEDDED

REFUSED = 3  # exit code: the error was named
ERRORS = ("enospc", "eio", "eacces")
ACTIONS = ("kill", *ERRORS, "sleep")
EVERY = os.environ.get("FT_FAULT_ROUNDS") == "all"
PROTOCOLS = {
    "build.continue", "build.delete", "build.index", "build.payloads", "build.start", "build.upsert", "build.whole",
    "calls.put", "discard.delete", "discard.rename", "publish.aside", "publish.disown", "publish.rename",
    "publish.seal", "publish.sync", "release.alias", "release.fusion", "release.record", "release.withdraw",
    "retire.drop", "stage.own",
}  # fmt: skip
"""Points that the scenario passes on every engine. Those of a file are named after it: `rename current.json`."""
ENGINES = {
    "local": {"local.copied", "local.enter"},
    "edge": {"edge.copied", "edge.drop", "edge.enter"},
    "server": {"server.copied", "server.copy"},
}
FILES = {"rename", "sync", "write"}
WRITTEN = ("manifest.json", "current.json", "collection.json", "collection.intent.json", "meta.json")
pytestmark = pytest.mark.slow


def in_child(work: Callable[[], None], log: Path) -> int:
    """Return the exit code of `work` in a child: REFUSED for an error of the operating system, which names a file."""

    def run() -> int:
        try:
            work()
        except OSError as error:
            os.write(2, f"named: {error}\n".encode())
            return REFUSED
        return 0

    return wait(fork(run, log))


def expected_ends(fault: str) -> set[int]:
    """Return the exit codes with which a run may end. What an error hits may be of use and not needed: 0."""
    action = fault.rpartition(":")[2]
    return {-signal.SIGKILL} if action == "kill" else {0} if action == "sleep" else {0, REFUSED}


def undisturbed(root: Path, state: State) -> tuple[dict[str, object], Counter[str]]:
    """Return what the scenario makes, and how often it passes each point."""

    def work() -> None:
        passed: Counter[str] = Counter()
        faults.point = lambda name: passed.update([name])
        state.run()
        (root / "expected.json").write_text(json.dumps([state.versions(), passed]))

    assert in_child(work, root / "log") == 0, (root / "log").read_text()
    versions, passed = json.loads((root / "expected.json").read_text())
    return versions, Counter(passed)


def chosen(passed: Counter[str], kind: str) -> list[str]:
    """Return the values of FT_FAULT to try. Files that are written alike are one kind: some of them stand for it."""
    if EVERY:
        places = [f"{name}#{n}" for name, times in sorted(passed.items()) for n in sorted({1, times})]
        return [f"{place}:{action}" for place in places for action in ACTIONS]
    if kind == "server":  # the others are taken on the embedded engines
        return [f"{place}:{action}" for place in sorted(ENGINES[kind]) for action in ACTIONS]
    places = [name for name in sorted(passed) if " " not in name or name.partition(" ")[2] in WRITTEN]
    errors = [f"{place}:{ERRORS[n % 3]}" for n, place in enumerate(places[::3])]
    return [*(f"{place}:kill" for place in places), *errors]


@pytest.mark.parametrize("kind", [*EMBEDDED, "server"])
def test_after_every_fault_a_rerun_makes_what_an_undisturbed_run_makes(
    place: Path, kind: str, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "edge":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
        __import__("resources.engines.edge")  # once, for all children
    monkeypatch.setattr(engine_client, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(engine_client, "_POLL_SECONDS", 0.05)
    rounds = 2 if kind == "server" and not EVERY else ROUNDS
    with served(Server()) as server:
        expected, passed = undisturbed(place, State(place / "undisturbed", kind, server.url, rounds=rounds))
    points = {name for name in passed if " " not in name}
    assert points == PROTOCOLS | ENGINES[kind] or (rounds < ROUNDS and points >= ENGINES[kind])
    assert {name.partition(" ")[0] for name in passed if " " in name} == FILES
    wrong: list[str] = []
    ends: Counter[int] = Counter()
    for fault in chosen(passed, kind):
        root, log = place / "state", place / "log"
        shutil.rmtree(root, ignore_errors=True)
        log.unlink(missing_ok=True)
        with served(Server()) as server:  # a new one for each fault
            state = State(root, kind, server.url, rounds=rounds)

            def disturbed(fault: str = fault, state: State = state) -> None:
                os.environ[VARIABLE] = fault
                state.run()

            def again(state: State = state) -> None:
                found: dict[str, object] = {"faults": state.faults()}
                state.run()
                found |= {"faults after the rerun": state.faults(), "versions": state.versions()}
                (place / "found.json").write_text(json.dumps(found))

            name = re.split("[#:]", fault)[0]
            ends[end := in_child(disturbed, log)] += 1
            logging.getLogger(__name__).info("%s ended with %d; wrong so far: %s", fault, end, wrong)
            if end not in expected_ends(fault) or (end == REFUSED and name not in log.read_text()):
                wrong.append(f"{fault}: ended with {end}, not named\n{log.read_text()[-2000:]}")
            if in_child(again, log) != 0:
                wrong.append(f"{fault}: the rerun failed\n{log.read_text()[-2000:]}")
                continue
            wrong += [f"{fault}: left on the server: {server.snapshots}"] if server.snapshots else []
        found = json.loads((place / "found.json").read_text())
        versions = found.pop("versions")
        wrong += [f"{fault}: {when}: {faults}" for when, faults in found.items() if faults]
        differing = {key: (versions[key], expected[key]) for key in expected if versions[key] != expected[key]}
        wrong += [f"{fault}: {differing}"] if differing else []
    record_property("faults", f"{kind}: {len(passed)} points, {sum(ends.values())} faults, ends {dict(ends)}")
    assert not wrong, f"{len(wrong)} of {sum(ends.values())}\n" + "\n".join(wrong)
    assert ends[-signal.SIGKILL] and ends[REFUSED]


def test_every_point_of_the_source_is_taken_by_a_test(project: Path) -> None:
    named: set[str] = set()
    for path in chain.from_iterable((project / folder).rglob("*.py") for folder in ("ft_assets", "resources")):
        text = path.read_text("utf-8")
        calls = re.findall(r"faults\.point\((.*)\)", text)
        found = [re.fullmatch(r'f?"([\w.]+)(?: \{path\.name\})?"|point', call) for call in calls]
        assert all(found), f"{path} names a point in a new way: {calls}"
        named |= {match[1] for match in found if match and match[1]}
        named |= set(re.findall(r'_set_aside\(.*, "([\w.]+)"\)', text))  # its caller names the point
    assert named == {*PROTOCOLS, *chain.from_iterable(ENGINES.values()), *FILES, *test_points_elsewhere.POINTS}
