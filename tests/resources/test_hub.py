"""Whether the hub answers, on a real server."""

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
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[HTTPServer]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "said"), [(200, None), (405, None), (503, "503")])
def test_an_answer_is_an_answer_unless_the_server_is_down(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, said: str | None
):
    monkeypatch.setattr(Answer, "status", status)
    assert endpoint() == f"http://127.0.0.1:{server.server_port}"
    found = why_unreachable()
    assert found is None if said is None else said in (found or "")


def test_a_hub_that_stays_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert why_unreachable(seconds=0.3)
        assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("HF_HUB_OFFLINE", "1", "HF_HUB_OFFLINE"), ("HF_ENDPOINT", "file:///etc/hosts", "not an http address")],
)
def test_what_is_not_asked_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(name, value)
    assert said in (why_unreachable() or "")
