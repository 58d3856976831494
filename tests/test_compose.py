"""compose.yaml: pinned images, nothing open to the network, and the same Dagster settings as everywhere else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import pytest
from ruamel.yaml import YAML
from sqlalchemy import make_url

from expectations.rules.secrets import travels_unencrypted
from ft_assets.graph.instance import derive_settings
from resources.qdrant import PRIVATE_HOSTS
from tests.ports import free_ports


def read(path: Path) -> dict[str, Any]:
    return cast("Any", YAML(typ="safe", pure=True)).load(path.read_text("utf-8"))


def test_images_are_pinned_and_ports_are_bound_to_the_loopback(project: Path) -> None:
    services = read(project / "compose.yaml")["services"]
    assert set(services) == {"qdrant", "postgres", "instance", "code", "webserver", "daemon"}
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2].removesuffix("-unprivileged")
        assert tag[-1].isdigit(), f"{name} runs {service['image']}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert services["qdrant"]["environment"]["QDRANT__SERVICE__ENABLE_CORS"] == "false"
    assert services["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"].startswith("${QDRANT_API_KEY:?")


class Service(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of compose's schema that we use, with their types: a typing error is no key of compose."""

    image: str
    user: str
    read_only: bool
    cap_drop: list[str]
    security_opt: list[str]
    restart: Literal["no", "unless-stopped"]
    environment: dict[str, str]
    volumes: list[str]
    tmpfs: list[str]
    build: dict[str, str] = {}
    command: list[str] = []
    working_dir: str = ""
    ports: list[str] = []
    depends_on: dict[str, dict[Literal["condition"], Condition]] = {}
    healthcheck: Healthcheck | None = None


class Healthcheck(msgspec.Struct, forbid_unknown_fields=True):
    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str = ""


Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]


class Compose(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


def test_it_has_keys_and_types_of_compose_alone(project: Path) -> None:
    document = {key: value for key, value in read(project / "compose.yaml").items() if not key.startswith("x-")}
    compose = msgspec.convert(document, Compose)
    for name, service in compose.services.items():
        # nobody is root or can become it, and only volumes and memory can be written
        assert service.user not in {"", "0", "root"}, name
        assert (service.read_only, service.cap_drop) == (True, ["ALL"]), name
        assert service.security_opt == ["no-new-privileges:true"], name
        assert service.healthcheck or service.restart == "no", name
        for other, needed in service.depends_on.items():
            # what is waited for has a way to show that it is there
            assert compose.services[other].healthcheck or needed["condition"] != "service_healthy"


def test_the_check_of_qdrant_asks_whether_it_is_ready(project: Path) -> None:
    """The image has bash and no curl. Here bash asks a server of ours, one that is ready and one that is not."""
    command = read(project / "compose.yaml")["services"]["qdrant"]["healthcheck"]["test"][1:]
    for status in (200, 503):

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)  # noqa: B023
                self.end_headers()

        with HTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            here = [word.replace("6333", str(server.server_port)) for word in command]
            done = subprocess.run(here, capture_output=True, check=False, timeout=20)
            server.shutdown()
        assert (done.returncode == 0) == (status == 200), done


def test_the_platform_is_told_where_everything_is_and_waits_for_it(project: Path) -> None:
    services = read(project / "compose.yaml")["services"]
    volumes = set(read(project / "compose.yaml")["volumes"])
    for name in ("instance", "code", "webserver", "daemon"):
        environment = services[name]["environment"]
        assert (environment["FT__QDRANT__ENGINE"], environment["FT__QDRANT__URL"]) == ("server", "http://qdrant:6333")
        key, address = environment["QDRANT_API_KEY"], environment["FT__QDRANT__URL"]
        assert travels_unencrypted(address, key) and not travels_unencrypted(address, key, [environment[PRIVATE_HOSTS]])
        assert environment["DAGSTER_HOME"] == environment["FT_STATE_DIR"] + "/dagster"
        assert set(services[name]["depends_on"]) <= set(services)
        for mount in services[name]["volumes"]:
            source = mount.split(":")[0]
            assert source in volumes or (project / source).exists()
    assert (project / services["webserver"]["build"]["dockerfile"]).is_file()


def test_the_instance_differs_from_the_projects_own_in_its_storage_alone(project: Path) -> None:
    deployed, own = read(project / "deploy/dagster.yaml"), read(project / "dagster.yaml")
    scheme = deployed["storage"]["postgres"]["postgres_db"]["scheme"]
    # the driver that dagster-postgres brings; SQLAlchemy's own choice is another one
    assert make_url(f"{scheme}://host/db").get_dialect().driver == "psycopg2"
    assert set(deployed.pop("storage")) == {"postgres"}
    assert set(own.pop("storage")) == {"sqlite"}
    assert deployed == own
    assert ".ft/" not in derive_settings(project / "deploy/dagster.yaml")


def test_webserver_and_daemon_ask_one_code_server(project: Path) -> None:
    services = read(project / "compose.yaml")["services"]
    (location,) = read(project / "deploy/workspace.yaml")["load_from"]
    host, port = location["grpc_server"]["host"], str(location["grpc_server"]["port"])
    command = services[host]["command"]
    assert command[command.index("-p") + 1] == port == services[host]["healthcheck"]["test"][-1]
    assert command[command.index("--location-name") + 1] == location["grpc_server"]["location_name"]
    for name in ("webserver", "daemon"):
        assert "deploy/workspace.yaml" in services[name]["command"]
        assert services[name]["depends_on"] == {host: {"condition": "service_healthy"}}


@pytest.mark.slow
def test_its_commands_serve_one_location_to_webserver_and_daemon(project: Path, tmp_path: Path) -> None:
    """As processes of this machine: SQLite in place of Postgres, the loopback in place of the network."""
    services = read(project / "compose.yaml")["services"]
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb/page.md").write_text("# A page\n\nOne text.\n")
    model = {"base_model": "./model"}
    config = {"corpus": {"files": ["kb/*.md"]}, "sft": model, "dpo": model, "embedding": model}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    code, web, page = map(str, free_ports(3))
    workspace = (project / "deploy/workspace.yaml").read_text("utf-8")
    (tmp_path / "workspace.yaml").write_text(workspace.replace("host: code", "host: 127.0.0.1").replace("4000", code))
    here = {
        "0.0.0.0": "127.0.0.1", "4000": code, "3000": web, "3001": page,  # noqa: S104
        "deploy/workspace.yaml": str(tmp_path / "workspace.yaml"),
    }  # fmt: skip
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(tmp_path / "state/dagster"),
        "FT_STATE_DIR": str(tmp_path / "state"),
        "FT_CONFIG": str(tmp_path / "config.yaml"),
    }

    def command(words: list[str]) -> list[str]:
        return [here.get(word, word).replace("'/state'", repr(str(tmp_path / "state"))) for word in words]

    def healthy() -> bool:
        test = command(services["code"]["healthcheck"]["test"][1:])
        return subprocess.run(test, env=environment, capture_output=True, check=False).returncode == 0

    def ask(query: str) -> Any:
        url, body = f"http://127.0.0.1:{web}/graphql", json.dumps({"query": query}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)["data"]
        except OSError:  # not up yet
            return None

    def looked() -> bool:
        answer = ask(TICKS)
        return bool(answer and answer["sensorOrError"].get("sensorState", {}).get("ticks"))

    subprocess.run(command(services["instance"]["command"]), cwd=project, env=environment, check=True)
    with ExitStack() as running:
        for name in ("code", "webserver", "daemon"):
            log = tmp_path / f"{name}.log"
            running.enter_context(process(command(services[name]["command"]), project, environment, log))
            if name == "code":
                wait(healthy, log)
        wait(looked, tmp_path / "daemon.log")
        (entry,) = ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert (entry["name"], entry["locationOrLoadError"]["__typename"]) == ("ft_assets", "RepositoryLocation")


LOCATIONS = "{workspaceOrError{... on Workspace{locationEntries{name locationOrLoadError{__typename}}}}}"
TICKS = """{sensorOrError(sensorSelector:{repositoryLocationName:"ft_assets",repositoryName:"__repository__",
  sensorName:"watch_settings"}){... on Sensor{sensorState{ticks(limit:1){status}}}}}"""


@contextmanager
def process(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> Generator[None]:
    with log.open("w") as stream:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            started.terminate()
            started.wait(60)


def wait(until: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 240
    while not until():
        assert time.monotonic() < deadline, log.read_text("utf-8", "replace")[-4000:]
        time.sleep(1)


def test_docker_reads_it_where_docker_is(project: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "config", "--quiet"]
    environment = {"POSTGRES_PASSWORD": "x", "QDRANT_API_KEY": "x", "PATH": "/usr/bin:/bin"}
    subprocess.run(command, cwd=project, env=environment, check=True)
