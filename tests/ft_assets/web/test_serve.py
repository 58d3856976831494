"""`ft ui` as it is started by a person, and the requests that a foreign page sends to Dagster's webserver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from ft_assets.web.serve import bind
from tests.ports import free_ports

LAUNCH = """mutation($config: RunConfigData) {launchRun(executionParams: {mode: "default", runConfigData: $config,
  selector: {repositoryLocationName: "ft_assets", repositoryName: "__repository__", pipelineName: "__ASSET_JOB",
  assetSelection: [{path: ["corpus_settings"]}]}})
  {__typename ... on RunConfigValidationInvalid {errors {message}}}}"""
WIPE = 'mutation {wipeAssets(assetPartitionRanges: [{assetKey: {path: ["corpus_settings"]}}]) {__typename}}'
RUNS = "{runsOrError {... on Runs {results {runId}}}}"
LOCATION = "{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {__typename}}}}}"
TOKEN = {"Authorization": "Bearer a-long-secret"}


@dataclass
class Ui:
    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, query: str, headers: dict[str, str] | None = None, **variables: object) -> httpx.Response:
        body = {"query": query, "variables": variables}
        return httpx.post(f"{self.address}/graphql", json=body, headers=headers, timeout=60)

    def runs(self) -> list[Any]:
        return self.ask(RUNS).json()["data"]["runsOrError"]["results"]

    def wait(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if "RepositoryLocation" in self.ask(LOCATION).text:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.5)


def start(folder: Path, *options: str) -> Ui:
    (folder / "kb").mkdir(exist_ok=True)
    (folder / "kb/page.md").write_text("# A page\n\nOne text.\n")
    (folder / "config.yaml").write_text("schema_version: 1\ncorpus: {files: [kb/*.md]}\n")
    return launch(folder / "config.yaml", folder / "state", *options)


def launch(config: Path, state: Path, *options: str) -> Ui:
    """Start `ft ui` of a project on free ports."""
    port, _ = free_ports(2)  # Dagster's pages, and next to them ours
    environment = {**os.environ, "FT_STATE_DIR": str(state), "FT_CONFIG": str(config)}
    environment["FT_REPORT_TOKEN"] = "a-long-secret"
    command = [sys.executable, "-m", "ft_assets.cli", "ui", "--port", str(port), *options]
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return Ui(port, process)


def stop(ui: Ui) -> str:
    """Stop `ft ui` as Ctrl-C or a service manager does; return all that it printed."""
    ui.process.terminate()
    return ui.process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ui]:
    """`--read-only` is without a daemon: here the full one is asked, and the sensors do not matter."""
    started = start(tmp_path_factory.mktemp("project"))
    started.wait()
    yield started
    printed = stop(started)
    # the failure of a run is on its page and in the log, not here
    assert [line.split(":")[0] for line in printed.splitlines()] == ["State", "Log", "Dagster", "Page"], printed
    assert f"http://127.0.0.1:{started.port}" in printed


@pytest.mark.slow
def test_the_requests_of_a_foreign_page_start_and_change_nothing(ui: Ui) -> None:
    evil, url = "http://evil.example", f"{ui.address}/graphql"
    before = {run["runId"] for run in ui.runs()}
    for query in (LAUNCH, WIPE):
        answers = [
            # an image or a link: a mutation by GET
            httpx.get(url, params={"query": query}),
            # a form of another page, which a browser sends without asking
            httpx.post(
                url, content=json.dumps({"query": query}), headers={"Origin": evil, "Content-Type": "text/plain"}
            ),
            # the same from a program of that page
            ui.ask(query, {"Origin": evil}),
            ui.ask(query, {"Origin": "null"}),
            # its name leads to 127.0.0.1 meanwhile (DNS rebinding)
            ui.ask(query, {"Host": "evil.example", "Origin": evil}),
        ]
        assert [answer.status_code for answer in answers] == [405, 403, 403, 403, 403]
    # a gate's result, forged
    forged = f"{ui.address}/report_asset_check/corpus_settings?check_name=config_is_valid&passed=true"
    assert httpx.post(forged).status_code == 401
    for header in ({"Origin": evil}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus), connect(url.replace("http", "ws"), additional_headers=header):
            pass
    assert {run["runId"] for run in ui.runs()} == before


@pytest.mark.slow
def test_a_run_of_our_own_page_cannot_choose_another_place(ui: Ui, tmp_path: Path) -> None:
    own = {"Origin": ui.address}
    places = [("artifacts", "state_dir"), ("artifacts", "config_path"), ("qdrant", "alias"), ("io_manager", "base_dir")]
    for resource, field in places:
        config = {"resources": {resource: {"config": {field: str(tmp_path / "elsewhere")}}}}
        answer = ui.ask(LAUNCH, own, config=json.dumps(config)).json()["data"]["launchRun"]
        assert answer["__typename"] == "RunConfigValidationInvalid", (resource, answer)
        assert field in answer["errors"][0]["message"]
    assert ui.ask(LAUNCH, own, config="{}").json()["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
    assert httpx.post(f"{ui.address}/report_asset_observation/corpus_files", headers=TOKEN).status_code == 200
    socket_address, protocols = f"{ui.address.replace('http', 'ws')}/graphql", [Subprotocol("graphql-ws")]
    with connect(socket_address, additional_headers=own, subprotocols=protocols) as ws:
        ws.send('{"type": "connection_init"}')
        assert json.loads(ws.recv(10))["type"] == "connection_ack"
    assert "<!DOCTYPE html>" in httpx.get(ui.address).text
    page = f"http://127.0.0.1:{ui.port + 1}"
    assert ui.address in httpx.get(page).text
    assert httpx.get(page, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(f"{page}/releases/adapter/rollback", headers={"Origin": "http://evil.example"}).status_code == 403
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_viewers_change_nothing_and_a_used_port_is_named(tmp_path: Path) -> None:
    viewers = start(tmp_path, "--read-only", "--allow-host", "ft.example")
    try:
        viewers.wait()
        assert viewers.ask(WIPE, {"Origin": viewers.address}).status_code == 403
        assert httpx.post(f"{viewers.address}/report_asset_observation/x", headers=TOKEN).status_code == 403
        assert viewers.ask("{version}", {"Host": "ft.example", "Origin": "https://ft.example"}).status_code == 200
        with pytest.raises(OSError, match=f"port {viewers.port} of 127.0.0.1 cannot be used"):
            bind("127.0.0.1", viewers.port)
    finally:
        stop(viewers)
