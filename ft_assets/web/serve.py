"""Serve Dagster's pages and ours from one process, each on its own port, both behind the guard.

Dagster's webserver is an ASGI application; here it runs inside our process, so there is no second port that would reach
it past the guard. The code server listens on a socket in a private folder, which no browser reaches.
"""

# the signature of create_app_from_workspace_process_context is partly untyped
# pyright: reportUnknownVariableType=false
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import uvicorn
from dagster._cli.proxy_server_manager import ProxyServerManager  # as `dagster dev` does; none of it is public
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.types import ASGIApp, Receive, Scope, Send

from ft_assets.web.guard import TOKEN_VARIABLE, Guard

_STOP_SECONDS = 60
_POLL_MS = 2000  # how often Dagster's pages ask for news


@dataclass(frozen=True)
class Server:
    """The address of the pages, and who may use them.

    `workspace`: a code server and a daemon elsewhere, not started here.
    """

    host: str
    port: int
    hosts: Collection[str] = ()
    read_only: bool = False
    workspace: Path | None = None
    log: Path | None = None
    """The file for what Dagster prints; None: the terminal, with all that it has to say."""

    @property
    def log_level(self) -> str:
        return "warning" if self.log else "info"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket with this address, for a server. Raises OSError with the port, before anything was started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        fix = "Choose other ones: --port, and --page-port for the companion page"
        raise OSError(f"port {port} of {host} cannot be used: {error.strerror}. {fix}.") from error
    return listener


def serve(
    server: Server,
    instance: dg.DagsterInstance,
    project: Path,
    others: Mapping[int, ASGIApp],
    is_ready: Callable[[], None],
) -> None:
    """Serve Dagster's pages at `server.port`, and `others` at their ports, until SIGINT or SIGTERM.

    `project`: the folder with workspace.yaml. `is_ready` is called when the pages can be opened.
    """
    # a process started with `&` ignores SIGINT; and SIGTERM must run what ends the daemon too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        ports = [server.port, *others]
        sockets = [stack.enter_context(bind(server.host, port)) for port in ports]
        if server.log:
            stack.enter_context(_printed_to(server.log))
        workspace = server.workspace
        if workspace is None:
            workspace = stack.enter_context(_code_server(instance, project, server.log_level))
            if not server.read_only:
                stack.enter_context(_daemon(workspace, server.log_level))
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        context = WorkspaceProcessContext(
            instance, WorkspaceFileTarget([str(workspace)]), version=dg.__version__, read_only=server.read_only
        )
        dagster = create_app_from_workspace_process_context(stack.enter_context(context), live_data_poll_rate=_POLL_MS)
        token = os.environ.get(TOKEN_VARIABLE)
        apps = _ByPort({server.port: dagster, **others}, dagster)
        guarded = Guard(apps, hosts=server.hosts, token=token, read_only=server.read_only)
        config = uvicorn.Config(guarded, log_level=server.log_level, timeout_graceful_shutdown=3, server_header=False)
        is_ready()
        uvicorn.Server(config).run(sockets=sockets)


class _ByPort:
    """Pass each request to the application of its port. The life of the server is that of `first`."""

    def __init__(self, apps: Mapping[int, ASGIApp], first: ASGIApp) -> None:
        self._apps = apps
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._first if scope["type"] == "lifespan" else self._apps[scope["server"][1]]
        await app(scope, receive, send)


@contextmanager
def _printed_to(log: Path) -> Generator[None]:
    """Write what this process and its children print into a file, which begins with each start."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with log.open("wb") as file:
        try:
            for stream, _ in kept:
                os.dup2(file.fileno(), stream)
            yield
        finally:
            for stream, before in kept:
                os.dup2(before, stream)
                os.close(before)


@contextmanager
def _code_server(instance: dg.DagsterInstance, project: Path, log_level: str) -> Generator[Path]:
    """Start one code server for webserver and daemon; yield the workspace file that names it."""
    os.chdir(project)
    target = WorkspaceFileTarget([str(project / "workspace.yaml")])
    with (
        ProxyServerManager(instance, target, code_server_log_level=log_level.upper()) as servers,
        tempfile.TemporaryDirectory() as folder,
    ):
        workspace = Path(folder) / "workspace.yaml"
        workspace.write_text(json.dumps({"load_from": servers.get_code_server_specs()}))
        yield workspace


@contextmanager
def _daemon(workspace: Path, log_level: str) -> Generator[None]:
    words = ["-m", "dagster._daemon", "run", "--log-level", log_level, "--workspace", str(workspace)]
    daemon = subprocess.Popen([sys.executable, *words])
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
