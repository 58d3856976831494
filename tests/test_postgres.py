"""deploy/dagster.yaml with a real PostgreSQL on the loopback: three processes open an empty database at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_assets.graph.instance import derive_settings
from tests.ports import free_ports

OPEN = """
import sys
from pathlib import Path
import dagster as dg
from ft_assets.graph.instance import open_instance

@dg.asset
def things() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 3})

state, settings = map(Path, sys.argv[1:])
with open_instance(state, settings) as instance:
    assert dg.materialize([things], instance=instance).success
    assert type(instance.run_storage).__name__ == "PostgresRunStorage"
    print(instance.get_latest_materialization_event(dg.AssetKey("things")).run_id)
"""


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL; Debian keeps them out of the search path."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(newest[-1]) if newest else None)


@pytest.fixture
def server() -> Iterator[dict[str, str]]:
    """A new database of a server of its own, as the environment that deploy/dagster.yaml reads."""
    initdb, postgres = program("initdb"), program("postgres")
    if not initdb or not postgres:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    if not importlib.util.find_spec("dagster_postgres"):
        pytest.skip("dagster-postgres is not installed: pip install -c constraints.txt -e '.[postgres]'")
    user = "postgres" if os.geteuid() == 0 else None  # a server refuses to run as root
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        root = Path(folder)
        (root / "password").write_text("of a test")
        if user:
            for path in (root, root / "password"):
                shutil.chown(path, user)
        command = [initdb, "-D", f"{folder}/data", "-U", "ft", "-A", "scram-sha-256", f"--pwfile={folder}/password"]
        subprocess.run([*command, "--no-sync", "-E", "UTF8"], user=user, cwd=folder, check=True, capture_output=True)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        command = [postgres, "-D", f"{folder}/data", "-p", str(port), *options]
        with (root / "log").open("wb") as log, subprocess.Popen(command, user=user, cwd=folder, stderr=log) as running:
            try:
                _wait(port, running)
                yield {
                    "POSTGRES_HOST": "127.0.0.1",
                    "POSTGRES_USER": "ft",
                    "POSTGRES_PASSWORD": "of a test",
                    "POSTGRES_DB": "postgres",
                    "PORT": str(port),
                }
            finally:
                running.terminate()
                running.wait(30)


def _wait(port: int, running: subprocess.Popen[bytes]) -> None:
    import psycopg2  # pyright: ignore[reportMissingModuleSource, reportMissingImports]

    for _ in range(300):
        assert running.poll() is None, "the server has ended"
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="ft", password="of a test", dbname="postgres").close()
        except psycopg2.OperationalError:
            time.sleep(0.1)
        else:
            return


@pytest.mark.slow
def test_three_processes_may_open_an_empty_database_at_once(
    server: dict[str, str], project: Path, tmp_path: Path
) -> None:
    settings = project / "deploy/dagster.yaml"
    derived = derive_settings(settings).partition("\n")[2]
    assert "5432" in derived  # the only value that differs here: the port may be taken
    (tmp_path / "dagster.yaml").write_text(derived.replace("5432", server.pop("PORT")), "utf-8")
    environment = {**os.environ, **server, "PYTHONPATH": str(project)}
    command = [sys.executable, "-c", OPEN]
    openers = [
        subprocess.Popen(
            [*command, str(tmp_path / f"state{n}"), str(tmp_path / "dagster.yaml")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    ended = [(opener.communicate(timeout=240), opener.returncode) for opener in openers]
    assert [code for _, code in ended] == [0, 0, 0], ended
    assert all(out.strip() for (out, _), _ in ended)
