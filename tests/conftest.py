"""Settings of every test: no hub, one compute thread, quiet libraries."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

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
_LONGEST = [
    "test_whole_graph", "test_hash_order", "test_what_a_change_costs", "test_automation", "test_release",
    "test_torchrun_training",
]  # fmt: skip


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server of this process. It answers one request at a time, so that its conditions are atomic."""
    moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto is not installed")
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, moto.DomainDispatcherApplication(moto.create_backend_app))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.port}"
    urlopen(Request(f"{address}/bucket", method="PUT"), timeout=60).close()
    yield address
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """FT_STORE_URL of a bucket, with its address and credentials in the environment."""
    values = {"ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": "tests", "REGION": "us-east-1", "ALLOW_HTTP": "true"}
    for name, value in {**values, "ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return "s3://bucket"
