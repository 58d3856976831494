"""The power fails at random steps of a release: what was not on the disk is lost, and nothing half written is believed.

The state lies on a file system of its own, in an image. The image holds only what the kernel has written back; at a
step of a protocol the process is stopped and the image copied, which is the disk as a power cut would leave it. The
copy is mounted, so that its journal is replayed, and looked at. FT_FAULT_ROUNDS is the number of cuts.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from resources import faults
from tests.faults.children import fork, wait
from tests.faults.protocol import State
from tests.resources.test_engines import EMBEDDED

pytestmark = pytest.mark.slow
ROUNDS = os.environ.get("FT_FAULT_ROUNDS", "")
CUTS = int(ROUNDS) if ROUNDS.isdigit() else 5
SIZE = 2**30  # of the image; most of it is a hole
STRICT = "loop,noauto_da_alloc,commit=600"  # nothing is written back that was not asked for


@contextmanager
def mounted(image: Path, folder: Path) -> Generator[Path]:
    """Mount an image; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", STRICT, image, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def image(place: Path) -> Path:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("only root can mount a file system, and mkfs.ext4 makes it")
    path = place / "disk"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", path], check=True)
    return path


def releases(state: State) -> list[str]:
    book = state.releases.book("collection")
    return [release.version for release in book.history] if book else []


def power_cuts(work: Callable[[], int], image: Path, acknowledged: Path, log: Path) -> Iterator[tuple[Path, list[str]]]:
    """Run `work`, which stops itself. Yield the disk as it is at each stop, and the releases that were done by then."""
    child = fork(work, log)
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            assert os.waitstatus_to_exitcode(status) == 0, log.read_text()[-3000:]
            return
        done = json.loads(acknowledged.read_text()) if acknowledged.exists() else []
        disk = image.with_name("cut")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        yield disk, done
        os.kill(child, signal.SIGCONT)


@pytest.mark.parametrize("kind", EMBEDDED)
def test_after_a_power_cut_a_rerun_makes_what_an_undisturbed_run_makes(
    place: Path, image: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    if kind == "edge":
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    log, report, acknowledged = place / "log", place / "report.json", place / "acknowledged.json"
    dice = random.Random(kind)  # noqa: S311

    def in_child(work: Callable[[], dict[str, object]]) -> dict[str, object]:
        def run() -> int:
            report.write_text(json.dumps(work()))
            return 0

        code = wait(fork(run, log))
        return json.loads(report.read_text()) if code == 0 else {"failed": log.read_text()[-3000:]}

    def undisturbed() -> dict[str, object]:
        passed: Counter[str] = Counter()
        faults.point = lambda name: passed.update([name])
        state = State(place / "undisturbed", kind)
        state.run()
        return {"versions": state.versions(), "passed": passed.total()}

    def look(root: Path) -> dict[str, object]:
        state = State(root, kind)
        found: dict[str, object] = {"releases": releases(state), "faults": state.faults()}
        state.run()
        return found | {"later faults": state.faults(), "versions": state.versions()}

    expected = in_child(undisturbed)
    steps = range(int(str(expected["passed"])))
    cuts = set(dice.sample(steps, min(CUTS, len(steps))))
    wrong: list[str] = []
    with mounted(image, place / "disk mounted") as root:

        def disturbed() -> int:
            state, passed = State(root / "state", kind), Counter[str]()
            release = state.release

            def stop(name: str) -> None:
                if passed.total() in cuts:
                    os.write(2, f"stopped at {name}\n".encode())
                    os.kill(os.getpid(), signal.SIGSTOP)
                passed[name] += 1

            def release_and_say_so(number: int) -> None:
                release(number)
                acknowledged.write_text(json.dumps(releases(state)))

            faults.point, state.release = stop, release_and_say_so
            state.run()
            return 0

        for disk, done in power_cuts(disturbed, image, acknowledged, log):
            where = log.read_text().splitlines()[-1]
            with mounted(disk, place / "after the cut") as cut:
                found = in_child(partial(look, cut / "state"))
            if "failed" in found:
                wrong.append(f"{where}: {found['failed']}")
                continue
            kept = found.pop("releases")
            wrong += [f"{where}: {kept} has not all of {done}"] if kept[: len(done)] != done else []
            wrong += [f"{where}: {key}: {found[key]}" for key in ("faults", "later faults") if found[key]]
            wrong += [f"{where}: other versions"] if found["versions"] != expected["versions"] else []
    record_property("power cuts", len(cuts))
    assert not wrong, f"{len(wrong)} of {len(cuts)}\n" + "\n".join(wrong)
