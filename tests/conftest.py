"""Settings of every test: no hub, one compute thread, quiet libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# two busy-waiting threads on busy cores are ten times slower, and a test never needs the network
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DAGSTER_DISABLE_TELEMETRY="1",
)
for name in [name for name in os.environ if name.startswith("FT_") and name != "FT_FAULT_ROUNDS"]:
    del os.environ[name]

PROJECT = Path(__file__).parent.parent
_LONGEST = ["test_whole_graph", "test_what_a_change_costs", "test_automation", "test_release", "test_torchrun_training"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take minutes first, so that no worker waits for another at the end."""
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data next to the project; tests that need it are skipped if it is absent."""
    folder = PROJECT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder ../shared with real data sets is not next to this checkout")
    return folder
