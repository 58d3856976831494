"""Endpoints that misbehave as real ones do: each fault has its name, and what passes is tried again."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from expectations.violations import Refused
from resources import endpoint
from resources.asker import Asker, identify, open_asker
from resources.call_cache import CallCache
from resources.endpoint import KEY, EndpointSource
from resources.launcher import ComputeParams
from resources.text_source import Call, GeneratorParams, ModelReply, NoReply, Outcome, Sampling

Fault = Callable[["Server", BaseHTTPRequestHandler, dict[str, Any]], bool]
"""Answers a request in its own way and returns True, or leaves it to the server."""


class Server(ThreadingHTTPServer):
    """Echoes the last message. Probes get what a healthy server gives; other requests meet the faults in turn."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[Fault] = []
        self.every: Fault | None = None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.context = 10_000
        self.names: list[str] | None = ["m"]
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def texts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def give(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.server.names is None:
            self.give(404, b"{}")
        else:
            self.give(200, json.dumps({"data": [{"id": name} for name in self.server.names]}).encode())

    def do_POST(self) -> None:
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            text = body["messages"][-1]["content"]
            if text.startswith(" word") or text in endpoint._PROBES:
                self.reply(body)
                return
            with server.lock:
                server.asked.append(body)
                server.headers.append(dict(self.headers))
                fault = server.faults.pop(0) if server.faults else server.every
            if fault is None or not fault(server, self, body):
                self.reply(body)
        finally:
            with server.lock:
                server.now -= 1

    def reply(self, body: dict[str, Any], **changes: Any) -> None:
        text = body["messages"][-1]["content"]
        read = min(len(text.split()) + 20, self.server.context)
        choice = {"message": {"role": "assistant", "content": f" re: {text} "}, "finish_reason": "stop"}
        usage = {"prompt_tokens": read, "completion_tokens": 3}
        self.give(200, json.dumps({"model": "m", "choices": [choice], "usage": usage, **changes}).encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def params(server: Server, **changes: Any) -> GeneratorParams:
    values = {"kind": "endpoint", "url": server.url, "model": "m", "context_tokens": 1000, "timeout": 5.0, **changes}
    return GeneratorParams(**values)


def call(text: str, **sampling: Any) -> Call:
    return Call(messages=[{"role": "user", "content": text}], sampling=Sampling(max_new_tokens=8, **sampling))


def ask(server: Server, *texts: str, **changes: Any) -> list[Outcome]:
    source, outcomes = EndpointSource(params(server, **changes)), {}
    try:
        source.ask([call(text) for text in texts], outcomes.__setitem__)
    finally:
        source.close()
    return [outcomes[n] for n in range(len(texts))]


def status(number: int, body: bytes = b"{}", **headers: str) -> Fault:
    def fault(_: Server, handler: Any, __: dict[str, Any]) -> bool:
        handler.give(number, body, **headers)
        return True

    return fault


def reset(_: Server, handler: Any, __: dict[str, Any]) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def half(_: Server, handler: Any, __: dict[str, Any]) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def changed(**changes: Any) -> Fault:
    def fault(_: Server, handler: Any, body: dict[str, Any]) -> bool:
        handler.reply(body, **changes)
        return True

    return fault


def test_calls_are_answered_with_their_sampling_and_counted(server: Server) -> None:
    source, outcomes = EndpointSource(params(server)), {}
    calls = [call("AES?"), call("AES?", temperature=0.7, top_p=0.9), call("AES?", temperature=0.7, top_p=0.9, seed=1)]
    source.ask(calls, outcomes.__setitem__)
    source.close()
    assert outcomes[0] == ModelReply(text="re: AES?", prompt_tokens=21, tokens=3, finish="stop")
    greedy, drawn, other = sorted(server.asked, key=lambda body: (body["temperature"], body.get("seed", 0)))
    assert greedy == {"model": "m", "messages": calls[0].messages, "max_tokens": 8, "temperature": 0.0}
    assert (drawn["top_p"], drawn["temperature"]) == (0.9, 0.7) and drawn["seed"] != other["seed"]


@pytest.mark.parametrize("fault", [status(429), status(503), status(500), status(408), reset, half])
def test_what_passes_is_tried_again(server: Server, fault: Fault) -> None:
    server.faults = [fault, fault]
    (reply,) = ask(server, "AES?")
    assert isinstance(reply, ModelReply) and (reply.text, reply.attempts) == ("re: AES?", 3)


def test_retry_after_is_waited_for(server: Server) -> None:
    server.faults = [status(429, Retry_After="1")]
    started = time.monotonic()
    ask(server, "AES?")
    assert 1.0 <= time.monotonic() - started < 3


def test_retry_after_is_seconds_or_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < endpoint._seconds(later) <= 90
    given = {"2": 2.0, "1.5": 1.5, "-3": 0.0, "": 0.0, "soon": 0.0, "Wed, 21 Oct 2015 07:28:00 GMT": 0.0}
    assert {text: endpoint._seconds(text) for text in given} == given


def test_an_endless_wait_and_a_server_that_stays_down_are_no_reply(server: Server) -> None:
    server.faults = [status(429, Retry_After="86400")]
    (reply,) = ask(server, "AES?")
    assert isinstance(reply, NoReply) and (reply.code, reply.attempts) == ("FT-GEN-001", 1)
    server.every = status(503, b'{"error": "loading"}')
    (reply,) = ask(server, "AES?", max_retries=2)
    assert isinstance(reply, NoReply) and (reply.code, reply.attempts) == ("FT-GEN-001", 3)
    assert reply.reason == 'HTTP 503: {"error": "loading"}'


def test_a_request_that_takes_too_long_is_tried_again(server: Server) -> None:
    def slow(_: Server, handler: Any, body: dict[str, Any]) -> bool:
        time.sleep(1.0)
        return False

    server.faults = [slow]
    (reply,) = ask(server, "AES?", timeout=0.5)
    assert isinstance(reply, ModelReply) and reply.attempts == 2


def test_a_refused_request_is_no_reply_with_the_servers_text(server: Server) -> None:
    server.faults = [status(400, b'{"error": {"message": "content\n filter"}}')]
    refused, answered = ask(server, "bad", "good", concurrency=1)
    assert isinstance(refused, NoReply) and refused.code == "FT-GEN-002"
    assert refused.reason == 'HTTP 400: {"error": {"message": "content filter"}}' and refused.attempts == 1
    assert isinstance(answered, ModelReply)


def test_null_content_and_a_filtered_text_are_no_reply(server: Server) -> None:
    server.faults = [
        changed(choices=[{"message": {"content": None}, "finish_reason": "stop"}]),
        changed(choices=[{"message": {"content": "half a te"}, "finish_reason": "content_filter"}]),
        changed(choices=[{"message": {"content": "cut"}, "finish_reason": "length"}]),
    ]
    null, filtered, cut = ask(server, "a", "b", "c", concurrency=1)
    assert isinstance(null, NoReply) and null.code == "FT-GEN-004" and "null" in null.reason
    assert isinstance(filtered, NoReply) and "content_filter" in filtered.reason
    assert isinstance(cut, ModelReply) and cut.finish == "length"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(200, b"<html><body>Please log in</body></html>", kind="text/html"), "FT-GEN-004.*Please log in"),
        (changed(choices=[]), "FT-GEN-004.*no choices"),
        (changed(usage=None), "FT-GEN-004.*no usage"),
        (changed(model="other"), "FT-GEN-007.*asked for m, and other replied"),
        (changed(model=""), "FT-GEN-007"),
        (changed(padding="x" * (9 << 20)), "FT-GEN-004.*more than 8 MiB"),
        (changed(usage={"prompt_tokens": 20}), "FT-GEN-006.*read 20 tokens of a prompt of about"),
        (status(302, b"", Location="http://127.0.0.1:1/"), "FT-GEN-009.*HTTP 302"),
        (status(401, b'{"error": "no key"}'), "FT-GEN-009.*HTTP 401"),
        (status(404), "FT-GEN-009.*HTTP 404"),
    ],
    ids=["html", "choices", "usage", "other model", "no model", "huge", "cut prompt", "redirect", "key", "path"],
)
def test_what_holds_for_every_call_is_refused_by_name_and_what_came_is_kept(
    server: Server, tmp_path: Path, fault: Fault, code: str
) -> None:
    long = "word " * 200
    with Asker(EndpointSource(params(server, concurrency=1)), CallCache(tmp_path)) as asker:
        assert isinstance(next(asker.ask([call("before")])), ModelReply)
        server.faults = [lambda *_: False, fault]
        with pytest.raises(Refused, match=code):
            list(asker.ask([call("first"), call(long), call("after")]))
    with Asker(EndpointSource(params(server)), CallCache(tmp_path)) as asker:
        assert all(isinstance(one, ModelReply) for one in asker.ask([call("before"), call("first")]))
        assert (asker.usage.calls, asker.usage.cached) == (0, 2)


def test_a_dated_name_is_the_same_model_and_an_unlisted_one_is_refused_before_a_call(server: Server) -> None:
    server.every = changed(model="m-2024-07-18")
    assert isinstance(ask(server, "AES?")[0], ModelReply)
    server.names = ["qwen", "llama"]
    with pytest.raises(Refused, match=r"FT-GEN-007.*m is not served here; there is llama, qwen"):
        ask(server, "AES?")
    server.names = None
    assert isinstance(ask(server, "AES?")[0], ModelReply), "not every server has a list"
    assert len(server.asked) == 2


def test_a_server_that_reads_less_than_context_tokens_is_refused_before_a_call(server: Server) -> None:
    server.context = 512
    with pytest.raises(Refused, match=r"FT-GEN-006.*read 512 tokens of a prompt of about 98\d.*num_ctx"):
        ask(server, "AES?")
    assert server.asked == []
    assert isinstance(ask(server, "AES?", context_tokens=512)[0], ModelReply)


def test_a_prompt_as_long_as_the_context_is_no_reply(server: Server) -> None:
    server.context = 512
    cut, too_long, short = ask(server, "wort " * 600, "wort " * 6000, "wort " * 400, context_tokens=512)
    assert isinstance(cut, NoReply) and cut.code == "FT-GEN-006"
    assert isinstance(too_long, NoReply) and (too_long.code, too_long.attempts) == ("FT-GEN-005", 0)
    assert isinstance(short, ModelReply) and len(server.asked) == 2


def test_a_busy_server_gets_no_more_requests_at_a_time_than_allowed_and_answers_all(server: Server) -> None:
    def busy(at: Server, handler: Any, body: dict[str, Any]) -> bool:
        time.sleep(0.01)
        if at.now > 3:
            handler.give(429, b"{}")
            return True
        return False

    server.every = busy
    source, outcomes = EndpointSource(params(server, concurrency=8, max_retries=20)), {}
    source.ask([call(f"q{n}") for n in range(120)], outcomes.__setitem__)
    source.close()
    assert len(outcomes) == 120 and all(isinstance(one, ModelReply) for one in outcomes.values())
    assert 1 < server.most <= 8


def test_the_number_of_requests_is_halved_once_for_all_that_were_under_way_and_rises_slowly() -> None:
    limit, started = endpoint._Limit(8), time.monotonic()
    limit.halve(started)
    limit.halve(started)
    assert limit.now == 4
    limit.halve(time.monotonic())
    assert limit.now == 2
    numbers: list[int] = []
    for _ in range(140):
        limit.rise()
        numbers.append(limit.now)
    assert numbers[18:20] == [2, 3] and numbers[39] == 4 and numbers[-1] == 8
    for _ in range(5):
        limit.halve(time.monotonic())
    assert limit.now == 1


def test_the_contract_is_the_name_and_the_greedy_answers(server: Server, tmp_path: Path) -> None:
    first = identify(params(server), tmp_path)
    assert (first.kind, first.name, len(first.probe)) == ("endpoint", "m", 16)
    assert identify(params(server, concurrency=2, timeout=9.0), tmp_path) == first
    probe = endpoint._PROBES
    endpoint._PROBES = (*probe[:2], "another question")  # the server echoes, so its answer is another one
    try:
        assert identify(params(server), tmp_path).digest != first.digest
    finally:
        endpoint._PROBES = probe
    assert server.asked == []


def test_a_key_travels_to_the_server_and_nowhere_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "s3cret-key")
    server.faults = [status(400, b"your key s3cret-key is not for this")]
    compute = ComputeParams(state_dir=str(tmp_path), device="cpu", dtype="float32")
    with caplog.at_level(0), open_asker(params(server, concurrency=1), compute) as asker:
        refused, _ = asker.ask([call("bad"), call("good")])
    assert isinstance(refused, NoReply) and refused.reason == "HTTP 400: your key *** is not for this"
    assert server.headers[-1]["Authorization"] == "Bearer s3cret-key"
    assert "s3cret" not in caplog.text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes()
    with pytest.raises(Refused, match=r"FT-GEN-008.*FT_GENERATOR_API_KEY"):
        EndpointSource(params(server, url="http://models.example.org/v1"))
    EndpointSource(params(server, url="https://models.example.org/v1")).close()
    monkeypatch.delenv(KEY)
    EndpointSource(params(server, url="http://models.example.org/v1")).close()
