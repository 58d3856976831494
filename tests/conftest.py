"""What every test needs: no hub, one compute thread, quiet libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# two spinning threads on busy cores cost tenfold, and a test never needs the network
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DAGSTER_DISABLE_TELEMETRY="1",
)
for name in [name for name in os.environ if name.startswith("FT_")]:
    del os.environ[name]

PROJECT = Path(__file__).parent.parent
_LONGEST = ["test_whole_graph", "test_what_a_change_costs", "test_automation", "test_release", "test_torchrun_training"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes first: else one worker is through while the other has the longest before it."""
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the project; tests that need it skip where it is absent."""
    folder = PROJECT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder ../shared with real data sets is not beside this checkout")
    return folder
