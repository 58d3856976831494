"""compose.yaml: pinned images, nothing open to the network, and the same Dagster settings as everywhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from ruamel.yaml import YAML

from ft_assets.instance import derive_settings


def read(path: Path) -> dict[str, Any]:
    return cast("Any", YAML(typ="safe", pure=True)).load(path.read_text("utf-8"))


def test_images_are_pinned_and_ports_are_bound_to_the_loopback(project: Path) -> None:
    services = read(project / "compose.yaml")["services"]
    assert set(services) == {"qdrant", "postgres", "instance", "webserver", "daemon"}
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert tag[-1].isdigit(), f"{name} runs {service['image']}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_platform_is_told_where_everything_is_and_waits_for_it(project: Path) -> None:
    services = read(project / "compose.yaml")["services"]
    volumes = set(read(project / "compose.yaml")["volumes"])
    for name in ("instance", "webserver", "daemon"):
        environment = services[name]["environment"]
        assert (environment["FT__QDRANT__ENGINE"], environment["FT__QDRANT__URL"]) == ("server", "http://qdrant:6333")
        assert "QDRANT_API_KEY" not in environment, "a key over plain http is refused"
        assert environment["DAGSTER_HOME"] == environment["FT_STATE_DIR"] + "/dagster"
        assert set(services[name]["depends_on"]) <= set(services)
        for mount in services[name]["volumes"]:
            source = mount.split(":")[0]
            assert source in volumes or (project / source).exists()
    assert (project / services["webserver"]["build"]["dockerfile"]).is_file()


def test_the_instance_differs_from_the_projects_own_in_its_storage_alone(project: Path, tmp_path: Path) -> None:
    deployed, own = read(project / "deploy/dagster.yaml"), read(project / "dagster.yaml")
    assert set(deployed.pop("storage")) == {"postgres"}
    assert set(own.pop("storage")) == {"sqlite"}
    assert deployed == own
    derived = derive_settings(project / "deploy/dagster.yaml", tmp_path)
    assert str(tmp_path / "dagster") in derived


def test_docker_reads_it_where_docker_is(project: Path) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "config", "--quiet"]
    subprocess.run(command, cwd=project, env={"POSTGRES_PASSWORD": "x", "PATH": "/usr/bin:/bin"}, check=True)
