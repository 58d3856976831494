"""A headless Chromium, and the page on the state of the small retrieval graph with two released adapters."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from ft_assets.commands.project import Project
from ft_assets.web.app import create_app
from ft_assets.web.guard import Guard
from tests.ft_assets.retrieval.conftest import Graph, released
from tests.page_state import Adapters, build_adapters

__all__ = ["released"]  # the graph of the retrieval tests
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
)  # fmt: skip


@dataclass
class Site:
    """The page as a server, and what it shows."""

    url: str
    project: Project
    adapters: Adapters


@contextmanager
def serve_page(project: Project) -> Generator[str]:
    """Serve the page behind its guard, as `ft ui` does, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(Guard(create_app(project)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def site(released: Graph, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    graph = released.copy(tmp_path_factory.mktemp("site"))
    project = Project(config=graph.root / "config.yaml", state=graph.root / "state")
    adapters = build_adapters(project.state)
    with pytest.MonkeyPatch.context() as patch, serve_page(project) as url:
        patch.setenv("DAGSTER_HOME", "")  # restored afterwards: a rollback sets it
        yield Site(url, project, adapters)
        if "instance" in project.__dict__:
            project.instance.dispose()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[webdriver.Chrome]:
    """Chromium with an own profile. Its console is kept for `get_log`."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, Service(str(Path(driver))))
    opened.set_page_load_timeout(110)  # the driver gives up after 120
    yield opened
    opened.quit()
