"""Two machines that share a bucket: an S3 server, a state for each, and `ft run` as a person calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.children import SmallProject

pytest.importorskip("obstore", reason="obstore is not installed")
pytestmark = pytest.mark.slow


class Machine:
    """A copy of the project, with a state of its own."""

    def __init__(self, root: Path, examples: Path) -> None:
        self.root = root
        SmallProject(root, "edge").write(examples)

    def ft(self, *arguments: str, code: int = 0) -> str:
        """Run `ft`. Return what it prints."""
        environment = {**os.environ, "FT_STATE_DIR": str(self.root / "state")}
        command = [str(Path(sys.executable).with_name("ft")), *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def run(self) -> tuple[int, int]:
        """Make everything. Return how many encoders were trained and how many passages were encoded."""
        trained, encoded = re.findall(r"trained (\d+), encoded (\d+)", self.ft("run", "--all"))[-1]
        return int(trained), int(encoded)


def test_a_second_machine_trains_and_encodes_nothing_and_finds_the_same(
    tmp_path: Path, project: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_STORE_URL", f"{s3}/{tmp_path.name}")
    here, there = (Machine(tmp_path / name, project / "examples/en") for name in ("here", "there"))
    assert here.run() == (1, 26)
    assert there.run() == (0, 0)
    question = ("search", "What does GCM authenticate?", "--json")
    assert here.ft(*question) == there.ft(*question)
