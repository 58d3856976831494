"""Dagster's own pages in a real browser: an asset is made from there, and a gate that fails shows why."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from resources.artifacts import ArtifactStore
from tests.ft_assets.web.test_serve import Ui, start

pytestmark = pytest.mark.slow
RUNS = "{runsOrError {... on Runs {results {status tags {key}}}}}"
SECTION = "The cipher has a block of 128 bits and a key of 256 bits, and was published in 1998."
BUTTON = "//button[normalize-space()='Materialize']"


def launched(ui: Ui) -> list[str]:
    """Return the states of the runs that a person launched, not the daemon."""
    runs = ui.ask(RUNS).json()["data"]["runsOrError"]["results"]
    by_hand = [
        run for run in runs if not any("automation" in tag["key"] or "sensor" in tag["key"] for tag in run["tags"])
    ]
    return [run["status"] for run in by_hand]


def materialize(browser: Chrome) -> bool:
    """Click the button if it can be clicked; Dagster draws it again while it learns about the asset."""
    try:
        button = browser.find_element(By.XPATH, BUTTON)
        if button.is_enabled():
            button.click()
            return True
    except WebDriverException:
        pass
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_an_asset_is_made_from_its_page_and_a_gate_that_fails_shows_why(browser: Chrome, tmp_path: Path):
    ui = start(tmp_path)
    page = tmp_path / "kb/page.md"
    page.write_text(f"# A page\n\n{SECTION}\n")
    store = ArtifactStore(tmp_path / "state/artifacts")
    wait = WebDriverWait(browser, 60)
    try:
        ui.wait()
        wait_for(lambda: store.current("corpus_settings") is not None)  # the daemon makes it; without it Dagster asks
        browser.get(f"{ui.address}/assets/passages")
        wait.until(materialize)
        wait_for(lambda: launched(ui) == ["SUCCESS"])
        assert (made := store.current("passages")) and made.manifest.summary["passages"] == 1
        page.write_text("# A page\n\nShort.\n\n# Another\n\nToo.\n")
        wait.until(materialize)
        wait_for(lambda: sorted(launched(ui)) == ["FAILURE", "SUCCESS"])
        browser.get(f"{ui.address}/assets/passages?view=checks&checkDetail=few_sections_are_quarantined")
        wait.until(lambda opened: "FT-CORPUS" in opened.find_element(By.TAG_NAME, "body").text)
        text = browser.find_element(By.TAG_NAME, "body").text
        assert "max_quarantined_share" in text and "This is a blocking asset check." in text
    finally:
        ui.process.terminate()
        ui.process.wait(60)
