"""`ft ui`: Dagster's UI and daemon on the state that `ft` works on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

import ft_assets
from ft_assets.commands.project import Project

ROOT = Path(ft_assets.__file__).resolve().parent.parent


@click.command("ui")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the UI.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; Dagster has no login.")
def command(port: int, host: str) -> None:
    """Start Dagster's UI and daemon (`dg dev`) on this state. Stop them with Ctrl-C.

    While it runs, the daemon sees edits of config.yaml and of source files within seconds. It makes, checks and
    releases the assets that depend on them; adapters and the embedding model are trained only on request.

    \b
    Example: ft ui --port 3001
    """
    from ft_assets.graph.instance import open_instance

    project = Project.here()
    _ = project.settings  # an invalid config.yaml is reported here, not in the log of the UI
    open_instance(project.state).dispose()
    os.environ["FT_CONFIG"] = str(project.config)
    os.environ["FT_STATE_DIR"] = str(project.state)
    os.environ["VIRTUAL_ENV"] = sys.prefix  # dg warns if it is not the environment of the project
    click.echo(f"Dagster on {project.state}: http://{host}:{port}")
    # a process started with `&` ignores SIGINT; Dagster would inherit that, and then ignore SIGTERM too
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(ROOT)
    program = Path(sys.executable).parent / "dg"
    os.execv(program, [str(program), "dev", "--host", host, "--port", str(port)])  # noqa: S606
