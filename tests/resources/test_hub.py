"""Reachability of the hub, tested on a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from resources.hub import endpoint, why_unreachable


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[HTTPServer]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "reason"), [(200, None), (405, None), (503, "503")])
def test_any_status_counts_as_reachable_unless_the_server_is_down(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, reason: str | None
):
    monkeypatch.setattr(Answer, "status", status)
    assert endpoint() == f"http://127.0.0.1:{server.server_port}"
    found = why_unreachable()
    assert found is None if reason is None else reason in (found or "")


def test_a_silent_hub_is_given_up_after_the_time_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert why_unreachable(seconds=0.3)
        assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE"), ("HF_ENDPOINT", "file:///etc/hosts", "not an http address")],
)
def test_the_reason_why_the_hub_is_not_contacted_is_returned(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(name, value)
    assert reason in (why_unreachable() or "")
