"""Notices as people get them: a real server and a real program, and the events of real runs."""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_assets.config.load import SettingsError, load_settings
from ft_assets.graph.gates import Gate
from ft_assets.notify import DeliveryError, notify
from ft_assets.settings.checks import VALID, config_is_valid
from resources.dagster_resources import ArtifactsResource

GATES = [
    Gate("sft_adapter", "trained", lambda _: None, blocking=True),  # type: ignore[arg-type]
    Gate("sft_adapter", "usual", lambda _: None, blocking=False),  # type: ignore[arg-type]
    *(Gate(name, VALID, config_is_valid, blocking=False) for name in ("corpus_settings", "sft_settings")),
]
SECRET = "a-secret-path"


class Chat:
    """A server that takes webhooks; `status` is its answer."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.status = 200
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if chat.status == 200:
                    chat.taken.append(json.loads(body))
                self.send_response(chat.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Project:
    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance, self.cursor = root, instance, ""
        self.artifacts = ArtifactsResource(state_dir=str(root / "state"), config_path=str(root / "config.yaml"))
        (root / "state").mkdir()

    def configure(self, section: str) -> None:
        (self.root / "config.yaml").write_text(f"schema_version: 1\ncorpus: {{files: [kb/*.md]}}\n{section}\n")

    def look(self) -> str:
        context = dg.build_sensor_context(self.instance, self.cursor or None, resources={"artifacts": self.artifacts})
        tick = notify(GATES).evaluate_tick(context)
        self.cursor = tick.cursor or ""
        return tick.skip_message or ""

    def made(self, asset: str, **figures: object) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=figures))

    def judged(self, asset: str, check: str, passed: bool, why: str = "loss rose") -> None:
        row = dict.fromkeys(("code", "where", "message", "field", "found", "expected", "fix"), "")
        table = dg.MetadataValue.table([dg.TableRecord({**row, "code": "FT-X-001", "where": asset, "message": why})])
        evaluation = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset),
            check_name=check,
            passed=passed,
            metadata={} if passed else {"violations": table},
        )
        self.instance.report_runless_asset_event(evaluation)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Generator[Chat]:
    chat = Chat()
    monkeypatch.setenv("MY_CHAT", f"http://127.0.0.1:{chat.server.server_port}/{SECRET}")
    yield chat
    chat.server.shutdown()
    chat.server.server_close()


@pytest.fixture
def project(tmp_path: Path) -> Generator[Project]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Project(tmp_path, instance)


def test_each_event_is_told_once(project: Project, chat: Chat) -> None:
    project.configure("notify: {webhook: MY_CHAT}")
    project.made("released_adapter", version="v1")
    project.judged("sft_adapter", "trained", False, "old news")
    assert project.look() == "the first look"
    assert (project.look(), chat.taken) == ("no news", [])

    project.made("sft_adapter", recipe="r2", reused=False, eval_loss_after=0.5)
    project.made("sft_adapter", recipe="r2", reused=True)
    project.made("released_adapter", version="v1")  # released already
    project.made("released_adapter", version="v2")
    project.made("released_adapter", version="v1", rolled_back_from="v2", who="Li", why="answers too long")
    project.made("passages", recipe="p1")
    project.judged("sft_adapter", "trained", False)
    project.judged("sft_adapter", "usual", False)  # informs, and stops nothing
    for name in ("corpus_settings", "sft_settings"):
        project.judged(name, VALID, False, "unknown key")
    project.look()
    assert [(one["event"], one["asset"]) for one in chat.taken] == [
        ("released", "released_adapter"),
        ("rolled back", "released_adapter"),
        ("training finished", "sft_adapter"),
        ("configuration invalid", "corpus_settings"),
        ("check failed", "sft_adapter"),
    ]
    texts = [one["text"] for one in chat.taken]
    assert texts[1] == "released_adapter: rolled back from v2 to v1 by Li (answers too long)"
    assert texts[4] == "sft_adapter.trained failed: [FT-X-001] sft_adapter: loss rose"
    assert {one["state"] for one in chat.taken} == {project.artifacts.state_dir}

    project.judged("sft_adapter", "trained", False)  # the same again
    assert project.look() == "no news"
    project.judged("sft_adapter", "trained", True)
    project.look()
    project.judged("sft_adapter", "trained", False)
    project.look()
    assert [one["event"] for one in chat.taken[5:]] == ["check failed"]


def test_what_was_not_taken_is_sent_again_and_no_error_has_the_address(
    project: Project, chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    project.configure("notify: {webhook: MY_CHAT}")
    project.look()
    project.made("released_collection", version="v1")
    chat.status = 503
    with pytest.raises(DeliveryError) as failed:
        project.look()
    assert str(failed.value) == "the webhook of MY_CHAT answered 503"
    assert SECRET not in repr(failed.getrepr(chain=True, showlocals=False))
    chat.status = 302  # a page to log in at takes no notice
    with pytest.raises(DeliveryError, match="answered 302"):
        project.look()
    chat.status = 200
    assert "v1 is released" in project.look()
    assert len(chat.taken) == 1
    assert SECRET not in caplog.text


@pytest.mark.parametrize("address", ["http://user:{}@127.0.0.1:1/", "http://127.0.0.1/{} b", "http://[{}/"])
def test_an_address_that_is_no_address_is_not_shown(
    project: Project, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MY_CHAT", address.format(SECRET))
    project.configure("notify: {webhook: MY_CHAT}")
    project.look()
    project.made("released_collection", version="v1")
    with pytest.raises(DeliveryError, match="MY_CHAT cannot be reached") as failed:
        project.look()
    assert SECRET not in "".join(traceback.format_exception(failed.value))


def test_one_place_that_fails_makes_the_other_get_nothing_twice(project: Project, chat: Chat, tmp_path: Path) -> None:
    heard = tmp_path / "heard.json"
    program = f"import sys; print(sys.stdin.read(), file=open({str(heard)!r}, 'a'))"
    project.configure(f"notify: {{command: {json.dumps([sys.executable, '-c', program])}, webhook: MY_CHAT}}")
    project.look()
    project.made("dpo_adapter", recipe="r1", reused=False)
    project.made("released_adapter", version="v1")
    chat.status = 503
    assert "2 wait for the next look. the webhook of MY_CHAT answered 503" in project.look()
    with pytest.raises(DeliveryError):
        project.look()
    chat.status = 200
    assert "v1 is released" in project.look()
    assert project.look() == "no news"
    heard_events = [json.loads(line)["event"] for line in heard.read_text().splitlines()]
    assert heard_events == [one["event"] for one in chat.taken] == ["training finished", "released"]


def test_a_look_ends_in_time_and_the_next_one_sends_the_rest(
    project: Project, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.configure("notify: {webhook: MY_CHAT}")
    project.look()
    for version in ("v1", "v2"):
        project.made("released_adapter", version=version)
    with monkeypatch.context() as patch:
        patch.setattr("ft_assets.notify._ENOUGH", -1)
        assert (project.look(), chat.taken) == ("no news. 2 wait for the next look", [])
    assert project.look() == "sent: released_adapter: v1 is released; released_adapter: v2 is released"


def test_a_program_gets_the_same_on_its_standard_input(project: Project, tmp_path: Path) -> None:
    heard = tmp_path / "heard.json"
    program = f"import sys; open({str(heard)!r}, 'a').write(sys.stdin.read())"
    project.configure(f"notify: {{command: {json.dumps([sys.executable, '-c', program])}}}")
    project.look()
    project.made("dpo_adapter", recipe="r1", reused=False)
    project.look()
    assert json.loads(heard.read_text())["text"] == "dpo_adapter: the training has finished"
    project.configure("notify: {command: [no-such-program]}")
    project.made("dpo_adapter", recipe="r2", reused=False)
    with pytest.raises(DeliveryError) as failed:
        project.look()
    assert "no-such-program: FileNotFoundError" in str(failed.value)


def test_without_a_place_nothing_is_sent_and_an_address_in_the_file_is_refused(project: Project) -> None:
    project.configure("")
    project.look()
    project.made("released_adapter", version="v1")
    assert "names no notify.command" in project.look()
    project.configure("notify: {webhook: 'https://chat.example.com/a-secret-path'}")
    with pytest.raises(SettingsError) as refused:
        load_settings(project.root / "config.yaml", environ={})
    assert SECRET not in str(refused.value) and "name of an environment variable" in str(refused.value)
