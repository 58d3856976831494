"""`ft ui`: Dagster's UI and daemon on the state that `ft` works on, behind a guard."""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import click

import ft_assets
from ft_assets.commands.project import Project

if TYPE_CHECKING:
    from ft_assets.web.project import ShownProject

LOG_FILE = "ui.log"
LAST_PORT = 65535
IPV6 = 6
ROOT = Path(ft_assets.__file__).resolve().parent.parent


_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def _names(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of hosts as the guard compares them: without the dot at the end. Refuse what is no name alone."""
    del context, option
    return tuple(_name(value) for value in values)


def _name(value: str) -> str:
    name = value.removesuffix(".")
    if _NAME.fullmatch(name) or _is_address(name.removeprefix("[").removesuffix("]")):
        return name
    try:
        alone = (urlsplit(value if "//" in value else f"//{value}").hostname or "").removesuffix(".")
    except ValueError:
        alone = ""
    example = alone if _NAME.fullmatch(alone) else "ft.example.com"
    raise click.BadParameter(
        f"{value!r} is no name of a host: a request names it without scheme and path, and any port is taken. Write "
        f"`--allow-host {example}` (a name in other letters as the browser sends it: xn--…)."
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@click.command("ui")
@click.option("--port", type=click.IntRange(1, LAST_PORT), default=3000, show_default=True, help="Port of the UI.")
@click.option(
    "--page-port", type=click.IntRange(1, LAST_PORT), help="Port of the companion page  [default: after --port]"
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; Dagster has no login.")
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    callback=_names,
    help="Another name of this machine in a browser, without a port.",
)
@click.option("--read-only", is_flag=True, help="For viewers: nothing can be started or changed, and no daemon runs.")
@click.option(
    "--workspace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve the pages alone: this file names a code server that runs elsewhere, next to a daemon.",
)
@click.option("--verbose", is_flag=True, help="Print what Dagster logs; else its warnings go into STATE/ui.log.")
def command(
    *,
    port: int,
    page_port: int | None,
    host: str,
    hosts: tuple[str, ...],
    read_only: bool,
    workspace: Path | None,
    verbose: bool,
) -> None:
    """Start Dagster's UI and daemon, and the companion page, on this state. Stop them with Ctrl-C.

    While it runs, the daemon sees edits of config.yaml and of source files within seconds. It makes, checks and
    releases the assets that depend on them; adapters and the embedding model are trained only on request.

    A page of another site that is open in the same browser can start and change nothing: a guard refuses its requests.

    \b
    Example: ft ui --port 3001
    """
    from ft_assets.definitions import PAGE_VARIABLE
    from ft_assets.graph.instance import open_instance
    from ft_assets.web.app import create_app, import_ahead
    from ft_assets.web.serve import Server, serve

    project = Project.here()
    _ = project.settings  # an invalid config.yaml is reported here, not in the log of the UI
    os.environ["FT_CONFIG"] = str(project.config)
    os.environ["FT_STATE_DIR"] = str(project.state)
    page_port = page_port or (port + 1 if port < LAST_PORT else port - 1)
    if page_port == port:
        raise click.UsageError(f"--page-port {page_port} is that of Dagster's UI (--port). Choose another one.")
    os.environ[PAGE_VARIABLE] = f"http://{name_of(host)}:{page_port}"  # the code server links its assets to it
    log = None if verbose else project.state / LOG_FILE
    server = Server(host, port, hosts, read_only, workspace and workspace.resolve(), log)
    dagster_url, terminal = f"http://{name_of(host)}:{port}", os.fdopen(os.dup(1), "w")

    def show_links() -> None:
        threading.Thread(target=import_ahead, daemon=True).start()
        click.echo(f"Dagster: {dagster_url}\nPage:    http://{name_of(host)}:{page_port}", file=terminal)

    click.echo(f"State:   {project.state}" + (f"\nLog:     {log}" if log else ""), file=terminal)
    with open_instance(project.state) as instance:
        page = create_app(cast("ShownProject", project), read_only=read_only, dagster_port=port)
        serve(server, instance, ROOT, {page_port: page}, show_links)


def name_of(host: str) -> str:
    """Return the name for links to an address that we listen on: no browser opens 0.0.0.0, and IPv6 needs brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host or "localhost"
    if address.is_unspecified:
        return "localhost"
    return f"[{host}]" if address.version == IPV6 else host
