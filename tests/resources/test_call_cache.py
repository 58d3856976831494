"""The call cache: kept through kill -9, shared by processes, sealed by row, bounded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expectations.violations import Refused
from resources.call_cache import CallCache
from resources.text_source import ModelReply

WRITER = """
import os, sys
from pathlib import Path
from resources.call_cache import CallCache
from resources.text_source import ModelReply
cache = CallCache(Path(sys.argv[1]))
for n in range(10**6):
    reply = ModelReply(text=f"{sys.argv[2]} {n}", prompt_tokens=1, tokens=1, finish="stop")
    cache.put(f"key {n}", reply)
    print(n, flush=True)
"""


def reply(text: str) -> ModelReply:
    return ModelReply(text=text, prompt_tokens=7, tokens=2, finish="length", opens_thought=True, attempts=3)


def keep(state: Path, **replies: str) -> None:
    cache = CallCache(state)
    for key, text in replies.items():
        cache.put(key, reply(text))
    cache.close()


def test_a_reply_comes_back_whole_and_the_first_one_stays(tmp_path: Path) -> None:
    first, second = CallCache(tmp_path), CallCache(tmp_path)
    assert first.get([]) == first.get(["a"]) == {}
    assert first.put("a", reply("比特")) == reply("比特")
    assert second.put("a", reply("of a process that was later")) == reply("比特")
    assert second.get(["a", "b"]) == first.get(["b", "a"]) == {"a": reply("比特")}


def test_what_was_put_survives_kill_9_of_two_writers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, env={**os.environ}, cwd=Path.cwd())
        for name in ("one", "two")
    ]
    written: list[int] = []
    for writer in writers:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(300)]
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        whole = "".join([*lines, rest]).rpartition("\n")[0].split()
        written.append(int(whole[-1]))
    assert min(written) >= 299
    cache = CallCache(tmp_path)
    found = cache.get([f"key {n}" for n in range(max(written) + 1)])
    assert len(found) == max(written) + 1
    assert {text.split()[0] for text in (one.text for one in found.values())} <= {"one", "two"}


def test_a_changed_row_is_asked_again_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path, a="the answer of the model", b="another")
    path = CallCache(tmp_path).path
    block = path.read_bytes()
    assert block.count(b"the answer of the model") == 1
    path.write_bytes(block.replace(b"the answer of the model", b"the answer of somebody."))
    cache = CallCache(tmp_path)
    assert cache.get(["a", "b"]) == {"b": reply("another")}
    assert "call a is damaged" in caplog.text
    assert cache.put("a", reply("asked again")) == reply("asked again")


@pytest.mark.parametrize("damage", ["no database", "half"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    keep(tmp_path, **{f"k{n}": "text " * 50 for n in range(200)})
    path = CallCache(tmp_path).path
    block = path.read_bytes()
    path.write_bytes(b"no database" * 500 if damage == "no database" else block[:4096] + b"\0" * (len(block) - 4096))
    with pytest.raises(Refused, match=r"FT-GEN-011.*calls-1\.sqlite") as refused:
        CallCache(tmp_path).get(["k1", "k150"])
    assert f"Delete the folder {path.parent}" in str(refused.value)
    shutil.rmtree(path.parent)
    assert CallCache(tmp_path).get(["k1"]) == {}


def test_the_oldest_quarter_leaves_a_cache_that_is_too_large(tmp_path: Path) -> None:
    cache = CallCache(tmp_path, max_bytes=200_000)
    for n in range(4000):
        cache.put(f"key {n:04}", reply("a text " * 10))
    found = sorted(cache.get([f"key {n:04}" for n in range(4000)]))
    assert 500 < len(found) < 2000
    assert found == [f"key {n:04}" for n in range(4000 - len(found), 4000)], "the newest ones stay"
    assert cache.path.stat().st_size < 400_000
