"""The companion page in a real browser: no console error, no fault of accessibility, and the four walks of a user."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_core_python.selenium import Axe
from click.testing import CliRunner
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from ft_assets.cli import cli
from ft_assets.commands.project import Project
from ft_assets.web.search import search_page
from resources.files import file_lock
from tests.ft_assets.retrieval.conftest import Graph
from tests.ft_assets.web.test_serve import launch, stop
from tests.page_state import run_folder

from .conftest import Site, serve_page

pytestmark = pytest.mark.slow
QUESTION = "What does GCM authenticate?"
PICTURES = {
    "page-comparison": ("/trainings", 1280, 1560),
    "page-search": ("/search?q=What+does+AES-GCM+authenticate%3F", 1280, 900),
}
DAGSTER_PICTURES = {
    "graph": ("/asset-groups", "kbalign", (542, 110, 1014, 850)),
    "asset": ("/assets/sft_adapter", "loss_curve", (240, 0, 920, 1000)),
}
"""Name -> the page, a text that is there when it is drawn, and the part of the window."""


def appear(browser: Chrome, *, width: int, height: int = 900, dark: bool) -> None:
    window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def open_page(browser: Chrome, address: str) -> None:
    browser.get("about:blank")  # the page before asks on, also of a server that is gone
    browser.get_log("browser")
    browser.get(address)
    assert browser.get_log("browser") == [], address


@contextmanager
def next_page(browser: Chrome) -> Generator[None]:
    """Wait for the page that the keys or the click inside open: the driver returns before it is there."""
    left = browser.find_element(By.TAG_NAME, "html")
    yield
    WebDriverWait(browser, 15).until(expected_conditions.staleness_of(left))
    WebDriverWait(browser, 15).until(lambda _: browser.execute_script("return document.readyState") == "complete")


def faults(browser: Chrome) -> list[str]:
    """Return what axe finds wrong on the page that is open, with everything unfolded."""
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    found: list[dict[str, Any]] = Axe().run(browser)["violations"]
    return [f"{one['id']}: {node['html']}: {node.get('failureSummary')}" for one in found for node in one["nodes"]]


def crawl(browser: Chrome, url: str, first: list[str]) -> dict[str, list[str]]:
    """Open these paths, and one page of every kind that a link leads to. Return path -> the faults of the page.

    Each is opened at a desk's width or a phone's, light or dark: all four in turn.
    """
    todo, seen = list(first), dict[str, list[str]]()
    kinds: set[str] = set()
    while todo:
        path = todo.pop(0)
        if _kind(path) in kinds or ".json" in path or "/download" in path:
            continue
        appear(browser, width=(1280, 400)[len(seen) % 2], dark=len(seen) // 2 % 2 == 1)
        open_page(browser, url + path)
        kinds.add(_kind(path))
        links = [link.get_attribute("href") or "" for link in browser.find_elements(By.CSS_SELECTOR, "a[href]")]
        todo += [link.removeprefix(url).partition("#")[0] for link in links if link.startswith(url)]
        wide = browser.execute_script("return document.documentElement.scrollWidth > innerWidth")
        # a report of a table gate is a file with its own style
        own = "/reports/tables/" in path
        seen[path] = [] if own else [*faults(browser), *(["wider than the window"] if wide else [])]
    return seen


def _kind(path: str) -> str:
    """Return a path without the names in it: `/trainings/sft_adapter/0f3a` and another training are one kind."""
    page, _, query = path.partition("?")
    names = page.split("/")[1:]
    verbs = {"compare", "rollback", "card", "tables", "embedding_model"}  # an encoder is shown in its own way
    return "/".join([names[0], *(name if name in verbs else "*" for name in names[1:])]) + f"?{'ids' in query}"


def test_every_page_opens_without_a_console_error_and_a_fault_of_accessibility(browser: Chrome, site: Site):
    old, new = (release.version for release in site.adapters.releases)
    first = [
        "/",
        f"/trainings?ids={site.adapters.first.recipe_id},{site.adapters.second.recipe_id}",
        f"/releases/adapter/compare?before={old}&after={new}",
        f"/search?q={QUESTION}&dense=2&sparse=1",
        "/data/instruction_splits?file=quarantine.jsonl",
    ]
    found = crawl(browser, site.url, first)
    pages = {urlsplit(path).path.split("/")[1] for path in found}
    assert pages == {"", "trainings", "releases", "search", "data", "reports", "lineage", "answers"}
    assert any(path.startswith("/trainings/embedding_model/") for path in found)
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_two_trainings_are_chosen_and_compared(browser: Chrome, site: Site):
    appear(browser, width=1280, dark=False)
    open_page(browser, f"{site.url}/trainings")
    button = browser.find_element(By.CSS_SELECTOR, "[data-compare]")
    assert not button.is_enabled()
    for recipe in (site.adapters.first.recipe_id, site.adapters.second.recipe_id):
        browser.find_element(By.CSS_SELECTOR, f"input[value='{recipe}']").click()
    with next_page(browser):
        button.click()
    text = browser.find_element(By.TAG_NAME, "main").text
    assert "training.learning_rate" in text and "0.0005" in text
    assert "character F1 on 4 questions" in text
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg.chart")) >= 4


def test_the_search_is_that_of_the_command_line_and_works_by_keyboard(
    browser: Chrome, site: Site, monkeypatch: pytest.MonkeyPatch
):
    open_page(browser, f"{site.url}/search")
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.text == "To the content"
    while browser.switch_to.active_element.get_attribute("id") != "q":
        press(browser, Keys.TAB)
    with next_page(browser):
        press(browser, QUESTION + Keys.ENTER)
    shown = [hit.get_attribute("data-id") for hit in browser.find_elements(By.CSS_SELECTOR, "article.hit")]
    assert browser.find_elements(By.CSS_SELECTOR, "mark")
    monkeypatch.setenv("FT_CONFIG", str(site.project.config))
    monkeypatch.setenv("FT_STATE_DIR", str(site.project.state))
    found = CliRunner().invoke(cli, ["search", QUESTION, "--json"], prog_name="ft")
    assert shown == [hit["passage_id"] for hit in json.loads(found.stdout)["hits"]] != []


def test_a_running_training_refreshes_itself_and_is_stopped(browser: Chrome, site: Site):
    folder = run_folder(site.project.state)
    with file_lock(folder / "lock"):
        open_page(browser, f"{site.url}/trainings/sft_adapter/{folder.name}")
        assert "Step 3 of 10" in browser.find_element(By.TAG_NAME, "main").text
        run_folder(site.project.state, steps=4)
        WebDriverWait(browser, 15).until(
            expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "main"), "Step 4 of 10")
        )
        assert faults(browser) == [] and browser.get_log("browser") == []
        browser.find_element(By.CSS_SELECTOR, "button.danger").send_keys(Keys.ENTER)
        WebDriverWait(browser, 15).until(lambda _: (folder / "control.yaml").is_file())
        assert (folder / "control.yaml").read_text() == "stop: true\n"
    shutil.rmtree(folder)


def test_a_candidate_of_other_weights_is_searched_next_to_what_serves(released: Graph, tmp_path: Path):
    graph = released.copy(tmp_path)
    graph.configure(retrieval={"dense_weight": 0.0, "sparse_weight": 1.0})
    graph.run("retrieval_settings")
    before = graph.artifacts.releases().current("collection")
    view = search_page(Project(config=graph.root / "config.yaml", state=graph.root / "state"), QUESTION)
    live, candidate = view.rankings
    assert (live.title, candidate.title) == ("Live", "Candidate")
    assert (live.fusion.dense_weight, candidate.fusion.dense_weight) == (1.0, 0.0)
    lexical = [hit.sparse for hit in candidate.hits]
    assert lexical == sorted(lexical, reverse=True) and any(part.found for part in candidate.hits[0].parts)
    assert graph.artifacts.releases().current("collection") == before


def test_a_rollback_by_keyboard_changes_what_serves_and_the_pages_say_so(browser: Chrome, site: Site):
    old, new = (release.version for release in site.adapters.releases)
    open_page(browser, f"{site.url}/releases")
    with next_page(browser):
        browser.find_element(By.CSS_SELECTOR, f"a[href$='rollback?to={old}']").send_keys(Keys.ENTER)
    browser.find_element(By.ID, "why").send_keys("wrong answers on keys")
    press(browser, Keys.TAB)
    with next_page(browser):
        press(browser, Keys.ENTER)
    release = site.project.releases.current("adapter")
    assert release is not None and release.version == old
    served = browser.find_element(By.TAG_NAME, "main").text
    assert f"Serves now: {old}" in served and "wrong answers on keys" in served
    open_page(browser, site.url)
    assert f"release {old}" in browser.find_element(By.TAG_NAME, "main").text
    assert new not in browser.find_element(By.TAG_NAME, "main").text


def press(browser: Chrome, keys: str) -> None:
    browser.switch_to.active_element.send_keys(keys)


@pytest.mark.skipif("PICTURES_OF" not in os.environ, reason="PICTURES_OF=STATE writes the pictures of docs/images")
def test_pictures_for_the_docs(browser: Chrome, project: Path):
    shown = Project(config=project / "config.yaml", state=Path(os.environ["PICTURES_OF"]))
    with serve_page(shown) as url:
        for name, (path, width, height) in PICTURES.items():
            appear(browser, width=width, dark=False)
            open_page(browser, url + path)
            if path == "/trainings":
                open_page(browser, url + _comparison(browser))
            _take_picture(browser, project, name, (0, 0, width, height), scale=0.75)
    ui = launch(shown.config, shown.state, "--read-only")  # without the daemon, which would request assets
    try:
        ui.wait(600)
        for name, (path, drawn, area) in DAGSTER_PICTURES.items():
            appear(browser, width=1600, height=1000, dark=False)
            browser.get(ui.address + path)
            WebDriverWait(browser, 120).until(
                expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "body"), drawn)
            )
            time.sleep(8)  # the graph moves into its place, and images are decoded
            _take_picture(browser, project, name, area)
    finally:
        stop(ui)


def _take_picture(
    browser: Chrome, project: Path, name: str, area: tuple[int, int, int, int], *, scale: float = 1
) -> None:
    clip = {**dict(zip(("x", "y", "width", "height"), area, strict=True)), "scale": scale}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    (project / "docs" / "images" / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))


def _comparison(browser: Chrome) -> str:
    """Return the link of the form with the newest DPO and SFT trainings chosen."""
    links = browser.find_elements(
        By.CSS_SELECTOR, "a[href*='/trainings/sft_adapter/'], a[href*='/trainings/dpo_adapter/']"
    )
    recipes = [str(link.get_attribute("href")).rpartition("/")[2] for link in links]
    return "/trainings?" + "&".join(f"ids={recipe}" for recipe in recipes[:2])
