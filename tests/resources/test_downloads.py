"""A model from a hub that is not there, is slow, or sends half a file, and a disk that is full: named, and resumed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from expectations.violations import Refused
from resources.models import locate
from tests.faults.children import fork, wait

NAME, COMMIT = "team/model", "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 1000}
SLOW = 1.5  # seconds


class Hub(ThreadingHTTPServer):
    """Gives one model. `fault` is asked for the bytes to send of a file; None: no answer for a while."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: Callable[[str, bytes], bytes | None] = lambda _, content: content
        self.sent: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
                for name, content in FILES.items()
            ]
            answer = tree if "/tree/" in path else {"id": NAME, "sha": COMMIT, "siblings": []}
            self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})
            return
        name = path.rpartition("/")[2]
        if name not in FILES:
            self.send_error(404)
            return
        content = FILES[name]
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}  # noqa: S324
        self._send(content[begin:], headers, name, code=206 if begin else 200)

    def _send(self, content: bytes, headers: dict[str, str], name: str = "", code: int = 200) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        part = self.server.fault(name, content) if name else content
        if part is None:
            time.sleep(SLOW)
            part = b""
        self.wfile.write(part)
        self.server.sent.append((name, len(part)))
        self.close_connection = len(part) < len(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.shutdown()
    hub.server_close()


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def half(name: str, content: bytes) -> bytes:
    return content[: len(content) // 2] if name == "model.safetensors" else content


def nothing(name: str, content: bytes) -> bytes | None:
    return None if name == "model.safetensors" else content


@pytest.mark.slow  # its client tries five times
@pytest.mark.parametrize("fault", [half, nothing])
def test_a_download_that_breaks_is_named_and_nothing_of_it_is_used(
    hub: Hub, tmp_path: Path, fault: Callable[[str, bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _, sleep=time.sleep: sleep(SLOW if _ == SLOW else 0))
    hub.fault = fault
    with pytest.raises(Refused, match=rf"FT-MODEL-002.*{NAME}.*{hub.url}"):
        locate(NAME, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Refused, match="FT-MODEL-002"):  # half of it lies in the cache
        locate(NAME, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fault, before = lambda _, content: content, len(hub.sent)
    assert weights(locate(NAME, tmp_path)) == FILES["model.safetensors"]
    assert {name for name, _ in hub.sent[before:] if name} == {"model.safetensors"}, "what is there is not sent again"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert weights(locate(NAME, tmp_path)) == FILES["model.safetensors"]


def test_a_hub_that_is_not_there_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Refused, match=r"FT-MODEL-002.*127\.0\.0\.1:9"):
        locate(NAME, tmp_path)


def test_a_disk_that_fills_during_a_download_is_named_and_the_next_run_resumes(hub: Hub, tmp_path: Path) -> None:
    import resource
    import signal

    log = tmp_path / "log"

    def download() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with pytest.raises(Refused, match=r"FT-MODEL-002.*OSError.*File too large"):
            locate(NAME, tmp_path)
        return 0

    assert wait(fork(download, log)) == 0, log.read_text()
    assert weights(locate(NAME, tmp_path)) == FILES["model.safetensors"]
