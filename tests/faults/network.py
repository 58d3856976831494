"""A Qdrant server in this process, and a proxy in front of it that fails as networks do.

The server keeps its collections in qdrant-client's memory and speaks as much of Qdrant's REST interface as the platform
uses. With QDRANT_URL, the proxy is in front of that real server.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

DELAY = 1.5  # seconds; longer than a client of the tests waits
FAULTS = ("refuse", "cut before", "cut after", "half", "delay", "503")
"""No connection; cut before the request is passed on, or after; half an answer; too late; the answer of a proxy."""


THRESHOLD = 20_000  # of a server's optimizer
_RAFT = {
    "peer_id": 0,
    "raft_info": {"term": 0, "commit": 0, "pending_operations": 0, "is_voter": True},
    "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-01-01T00:00:00Z"},
    "message_send_failures": {},
}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client, self.lock = QdrantClient(":memory:"), threading.Lock()
        self.requests: list[tuple[str, str, Any]] = []
        self.peers = 1
        self.snapshots: dict[str, list[Any]] = {}
        """Name -> the points of the collection at that time."""
        self.statuses: list[str] = []
        """Of a collection whose index is switched on, for as many requests; green afterwards."""
        self.thresholds: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, parts: list[str], body: Any) -> Any:  # noqa: PLR0911 - one for each request
        """Return the result of one request."""
        client, name = self.client, parts[1] if len(parts) > 1 else ""
        match [method, *parts[:1], *parts[2:]]:
            case ["GET", "aliases"]:
                return client.get_aliases()
            case ["GET", "cluster"]:
                peers = {str(number): {"uri": f"http://node{number}:6335"} for number in range(self.peers)}
                return {"status": "enabled", "peers": peers, **_RAFT} if self.peers > 1 else {"status": "disabled"}
            case ["GET", "collections"]:
                return self._describe(name) if name else client.get_collections()
            case ["POST", "collections"]:  # collections/aliases
                return client.update_collection_aliases(models.ChangeAliasesOperation.model_validate(body).actions)
            case ["PUT", "collections"]:
                new = models.CreateCollection.model_validate(body)
                return client.create_collection(
                    name, vectors_config=new.vectors, sparse_vectors_config=new.sparse_vectors, metadata=new.metadata
                )
            case ["PATCH", "collections"]:
                return self._change(name, body)
            case ["DELETE", "collections"]:
                return client.delete_collection(name)
            case ["PUT", "collections", "index"]:
                return {"operation_id": 0, "status": "completed"}
            case [_, _, "snapshots", *what]:
                return self._snapshot(method, name, "/".join(what), body)
            case [_, _, "points", *what]:
                return self._points(method, name, "/".join(what), body)
            case _:
                raise ValueError(f"no such request: {method} {parts}")

    def _change(self, name: str, body: Any) -> bool:
        if optimizers := body.get("optimizers_config"):
            self.thresholds[name] = optimizers["indexing_threshold"]
        return self.client.update_collection(name, metadata=body.get("metadata"))

    def _describe(self, name: str) -> Any:
        found = _plain(self.client.get_collection(name))
        found["config"]["optimizer_config"]["indexing_threshold"] = self.thresholds.get(name, THRESHOLD)
        indexed = self.statuses and self.thresholds.get(name)
        return found | {"status": self.statuses.pop(0) if indexed else "green"}

    def _snapshot(self, method: str, name: str, what: str, body: Any) -> Any:
        match (method, what):
            case ("POST", ""):
                made = f"{name}-{len(self.requests)}.snapshot"
                self.snapshots[made] = self.client.scroll(name, limit=10**6, with_payload=True, with_vectors=True)[0]
                return {"name": made, "size": 1}
            case ("PUT", "recover"):  # a server fetches the location; its last part is the snapshot's name
                points = self.snapshots[body["location"].rpartition("/")[2]]
                return bool(points and self.client.upsert(name, [_point(record) for record in points]))
            case ("DELETE", _):
                return self.snapshots.pop(what, None) is not None
            case _:
                raise ValueError(f"no such request: {method} snapshots/{what}")

    def _points(self, method: str, name: str, what: str, body: Any) -> Any:  # noqa: PLR0911
        client = self.client
        match (method, what):
            case ("PUT", ""):
                return client.upsert(name, models.PointsList.model_validate(body).points)
            case ("POST", ""):
                wanted = models.PointRequest.model_validate(body)
                return client.retrieve(name, wanted.ids, wanted.with_payload, wanted.with_vector)
            case ("POST", "scroll"):
                page = models.ScrollRequest.model_validate(body)
                found, following = client.scroll(
                    name, page.filter, page.limit or 10, None, page.offset, page.with_payload, page.with_vector
                )
                return {"points": found, "next_page_offset": following}
            case ("POST", "count"):
                return client.count(name, models.CountRequest.model_validate(body).filter, exact=True)
            case ("POST", "delete"):
                return client.delete(name, models.PointIdsList.model_validate(body))
            case ("POST", "batch"):
                return client.batch_update_points(name, models.UpdateOperations.model_validate(body).operations)
            case ("POST", "query/batch"):
                return client.query_batch_points(name, models.QueryRequestBatch.model_validate(body).searches)
            case _:
                raise ValueError(f"no such request: {method} points/{what}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def _do(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        parts = self.path.partition("?")[0].strip("/").split("/")
        try:
            with self.server.lock:
                self.server.requests.append((self.command, "/".join(parts), body))
                result, code = _plain(self.server.answer(self.command, parts, body)), 200
        except ValueError as error:
            result, code = str(error), 404
        content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815


def _point(record: Any) -> models.PointStruct:
    return models.PointStruct(id=record.id, vector=record.vector, payload=record.payload)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


class Proxy:
    """Passes requests on one by one, each over a connection of its own; the request of number `at` meets `fault`."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.fault, self.at, self.seen = "", -1, 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def arm(self, fault: str, at: int) -> None:
        self.fault, self.at, self.seen = fault, at, 0

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._talk, args=(self._listening.accept()[0],), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while request := _read(client):
                fault = self.fault if self.seen == self.at else ""
                self.seen += 1
                if fault in {"refuse", "cut before"}:
                    self.at = self.seen if fault == "refuse" else -1  # refuse: also whatever follows
                    return
                if fault == "503":
                    client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
                    continue
                with socket.create_connection(self._to) as server:
                    server.sendall(request)
                    answer = _read(server)
                if fault == "cut after":
                    return
                if fault == "delay":
                    time.sleep(DELAY)
                client.sendall(answer[: len(answer) // 2] if fault == "half" else answer)
                if fault == "half":
                    client.shutdown(socket.SHUT_WR)
                    return


def _read(stream: socket.socket) -> bytes:
    """Return one request or answer, by its Content-Length; nothing where the other side has closed."""
    content = b""
    while b"\r\n\r\n" not in content:
        if not (part := stream.recv(65536)):
            return b""
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    sizes = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(sizes[0] if sizes else 0):
        if not (part := stream.recv(65536)):
            break
        body += part
    return head + b"\r\n\r\n" + body


@contextmanager
def served(server: Server) -> Generator[Server]:
    """Let a server answer in a thread of this process."""
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    transport = httpx._transports.default
    with pytest.MonkeyPatch.context() as patch:
        # over plain http; to read the certificates once more for each client takes half the time of a release
        patch.setattr(transport, "create_ssl_context", cache(transport.create_ssl_context))
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()


@contextmanager
def proxy_to(host: str, port: int) -> Generator[Proxy]:
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
