"""A Dagster server as a child process, queried over GraphQL."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_ports


@contextmanager
def _serve(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Generator[Callable[[str], Any]]:
    port, _ = free_ports(2)

    def ask(query: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["data"]

    # Popen, not a shell's `&`: there Dagster inherits an ignored SIGINT and then ignores SIGTERM too
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                ask("{version}")
                break
            except OSError:
                assert process.poll() is None, "the server ended before it answered"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.5)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def serve() -> Callable[..., Any]:
    """`with serve(command, cwd=…, env=…) as ask: ask(graphql)`."""
    return _serve
