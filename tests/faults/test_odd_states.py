"""States and surroundings that nobody designed for: two writers, a clock that goes back, a state that is read only."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expectations.violations import Refused
from resources.faults import VARIABLE
from tests.copying import copy_tree
from tests.faults.children import fork, wait
from tests.faults.protocol import State
from tests.faults.test_flips import search
from tests.resources.test_engines import EMBEDDED

pytestmark = pytest.mark.slow
REFUSED = 3
PAUSES = ("release.record:sleep", "publish.rename:sleep", "build.upsert:sleep")


def in_child(work: Callable[[], object], log: Path) -> int:
    """Start `work` in a child and return its id."""

    def run() -> int:
        try:
            work()
        except Refused as refusal:
            os.write(2, f"{refusal}\n".encode())
            return REFUSED
        return 0

    return fork(run, log)


def versions(root: Path, kind: str, log: Path) -> dict[str, object]:
    report = log.with_suffix(".json")
    child = in_child(lambda: report.write_text(json.dumps(State(root, kind).versions())), log)
    assert wait(child) == 0, log.read_text()
    return json.loads(report.read_text())


@pytest.mark.parametrize("kind", EMBEDDED)
def test_two_processes_on_one_state_leave_a_whole_one(place: Path, kind: str) -> None:
    """Either may find that the other has made another candidate current: that is refused by name, or released."""
    log, report = place / "log", place / "report.json"
    for pause in PAUSES if os.environ.get("FT_FAULT_ROUNDS") else PAUSES[:1]:
        root = place / "two"
        shutil.rmtree(root, ignore_errors=True)

        def slowly(pause: str = pause, root: Path = root) -> None:
            os.environ[VARIABLE] = pause
            State(root, kind).run()

        def look(root: Path = root) -> None:
            state = State(root, kind)
            before = state.faults()
            state.run()
            report.write_text(json.dumps(before + state.faults()))

        children = [in_child(work, log) for work in (slowly, State(root, kind).run)]
        assert {wait(child) for child in children} <= {0, REFUSED}, log.read_text()
        assert wait(in_child(look, log)) == 0, log.read_text()
        assert json.loads(report.read_text()) == [], pause


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_clock_that_goes_back_a_year_changes_no_version(place: Path, kind: str) -> None:
    log, now = place / "log", time.time
    assert wait(in_child(State(place / "one", kind).run, log)) == 0, log.read_text()
    expected = versions(place / "one", kind, log)

    def a_year_ago() -> None:
        time.time = lambda: now() - 366 * 24 * 3600.0
        State(place / "one", kind).run()

    assert wait(in_child(a_year_ago, log)) == 0, log.read_text()
    assert versions(place / "one", kind, log) == expected


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_copied_state_is_read_where_it_lies_and_leaves_the_first_one_alone(place: Path, kind: str) -> None:
    log = place / "log"
    assert wait(in_child(State(place / "one", kind).run, log)) == 0, log.read_text()
    expected = versions(place / "one", kind, log)
    copy_tree(place / "one", place / "elsewhere")
    shutil.rmtree(place / "one")
    assert versions(place / "elsewhere", kind, log) == expected
    assert wait(in_child(State(place / "elsewhere", kind).run, log)) == 0, log.read_text()
    assert versions(place / "elsewhere", kind, log) == expected
    assert not (place / "one").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, to whom nothing belongs")
@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_state_that_cannot_be_written_answers_as_before(place: Path, kind: str) -> None:
    # nobody may read the libraries of root
    pytest.importorskip("resources.engines.client" if kind == "local" else "resources.engines.edge")
    log, root = place / "log", place / "one"
    assert wait(in_child(State(root, kind).run, log)) == 0, log.read_text()
    for folder in (place.parent, place):
        folder.chmod(0o755)
    report = place / "answers.json"
    report.touch()
    report.chmod(0o666)

    def answers(name: str) -> Callable[[], object]:
        def work() -> None:
            if name == "nobody":
                os.setuid(65534)
            report.write_text(json.dumps(search(State(root, kind))))

        return work

    seen: list[str] = []
    for name in ("owner", "nobody"):
        assert wait(in_child(answers(name), log)) == 0, log.read_text()
        seen.append(report.read_text())
    assert seen[0] == seen[1]
