"""Fault points outside the scenario of protocol.py, with every action, then a clean rerun: a bucket, and the pipes
through which a worker reports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from expectations.violations import Refused
from resources import shared
from resources.artifacts import ArtifactStore
from resources.bucket import STORE_URL
from resources.dagster_resources import LauncherResource
from resources.faults import VARIABLE
from resources.launcher import FAILURE_FILE
from tests.faults.machine import ROUNDS, Machine
from tests.resources.test_ray_launcher import job, run

ACTIONS = ("kill", "enospc", "eio", "eacces", "sleep")
BUCKET = ("bucket.send", "bucket.publish")
PIPES = ("pipes.report", "pipes.failure")
POINTS = {*BUCKET, *PIPES}
pytestmark = pytest.mark.slow


def expect_end(code: int, output: str, point: str, action: str) -> None:
    """Fail if a process ended in another way than by its fault, which an error names."""
    ends = {"kill": -signal.SIGKILL, "sleep": 0}
    assert code == ends.get(action, 1), f"{point}:{action}: {output}"
    assert action in ends or f"fault point {point}" in output


@pytest.mark.parametrize("point", BUCKET)
def test_after_a_fault_of_a_publisher_a_rerun_leaves_the_bucket_as_an_undisturbed_run_does(
    point: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(name: str) -> Machine:
        """Return a machine whose bucket no other one has."""
        monkeypatch.setenv(STORE_URL, f"{s3}/{uuid.uuid4().hex}")
        return Machine(tmp_path / name)

    undisturbed = machine("undisturbed")
    undisturbed.run()
    monkeypatch.setattr(shared, "_LEFT_BEHIND", -1.0)  # a day, so that nobody's work is removed
    for number, action in enumerate(ACTIONS):
        state = machine(action)
        fault = f"{point}#{number % ROUNDS + 1}:{action}"
        command = [sys.executable, "-m", "tests.faults.machine", str(tmp_path / action)]
        ended = subprocess.run(
            command, env={**os.environ, VARIABLE: fault}, capture_output=True, text=True, check=False
        )
        expect_end(ended.returncode, ended.stderr, point, action)
        assert state.faults() == [], fault
        state.run()
        assert state.faults() == [] and state.versions() == undisturbed.versions(), fault
        state.store.prune("adapter", ROUNDS)
        assert objects(state) == objects(undisturbed), "and no file is left that nothing names"


def objects(machine: Machine) -> Counter[str]:
    """Return how many objects of each name there are; the folder of a publisher has a name of its own."""
    assert machine.store.shared
    return Counter(one.key.rpartition("/")[2] for one in machine.store.shared._bucket.objects())


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("point", PIPES)
def test_after_a_fault_in_the_report_of_a_worker_a_rerun_publishes(
    point: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`pipes.failure` is the pipe through which a worker sends its refusal where the disk is full."""
    does = "refuse where the disk is full"
    launched, made = LauncherResource(state_dir=str(tmp_path)), job(tmp_path, does).recipe
    store, full = ArtifactStore(tmp_path / "artifacts"), job(tmp_path, does).folder() / "full"
    if point == "pipes.failure":
        full.touch()
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, f"{point}:{action}")
        if action == "sleep" and point == "pipes.report":
            run(launched, does)
        else:
            with pytest.raises((dg.Failure, Refused)) as failure:
                run(launched, does)
            expected = {"kill": "memory is the usual reason", "sleep": "FT-EMB-010"}.get(action, f"point {point}")
            if point == "pipes.failure" and action not in {"kill", "sleep"}:  # nothing reached this process
                expected, output = "training.log", capfd.readouterr().err
                assert "FT-EMB-010" in output and "fault point" not in output, "the reason, not what hid it"
            assert expected in str(getattr(failure.value, "description", failure.value))
    found = store.find(made.asset, made.id)
    assert (found is not None) == (point == "pipes.report"), "it was published before the report"
    assert found is None or found.verify() == []
    if point == "pipes.failure":
        full.unlink()
        full.with_name(FAILURE_FILE).rmdir()
    again = run(launched, does)
    assert again.verify() == [] and (found is None or again.data_version == found.data_version)
    assert [one.data_version for one in store.versions(made.asset)] == [again.data_version]
    assert list(store.root.glob(".staging/*")) == [] and list(full.parent.glob("failure.*")) == []
