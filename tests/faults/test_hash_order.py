"""Equal inputs have equal versions, whatever order a process gives to the items of a set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.artifacts import ArtifactStore
from tests.faults.children import SmallProject

GROUPS = ("--group", "settings", "--group", "corpus", "--group", "datasets")


@pytest.mark.slow
def test_every_worker_writes_the_same_under_two_hash_seeds(tmp_path: Path, project: Path) -> None:
    """FT_FAULT_ROUNDS takes the whole graph, with vectors, collection, evaluation and release."""
    written: list[dict[str, str]] = []
    selection = ("--all",) if os.environ.get("FT_FAULT_ROUNDS") else GROUPS
    SmallProject(tmp_path / "project", "local").write(project / "examples/en")
    for seed in ("1", "2"):
        state = tmp_path / seed
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "FT_CONFIG": str(tmp_path / "project/config.yaml"),
            "FT_STATE_DIR": str(state),
        }
        command = [str(Path(sys.executable).with_name("ft")), "run", *selection]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        store = ArtifactStore(state / "artifacts")
        names = sorted(path.name for path in store.root.glob("[!.]*") if path.is_dir())
        written.append({name: store.require(name).data_version for name in names})
    assert len(written[0]) > 10
    assert written[0] == written[1]
