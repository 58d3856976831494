"""Pages written from the code are fresh, links lead somewhere, and every command in the docs is one that exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = ["README.md", *(f"docs/{name}" for name in (
    "architecture.md", "automation.md", "bring-your-own-data.md", "configuration.md", "engines.md", "estimate.md",
    "export.md", "gate-another-repo.md", "grow-to-a-gpu.md", "performance.md", "release-and-rollback.md", "rules.md",
    "while-it-trains.md",
))]  # fmt: skip


def test_generated_pages_are_fresh(project: Path):
    done = subprocess.run(
        [sys.executable, "docs/build.py", "--check"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(project: Path, page: str):
    path = project / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_every_page_is_listed(project: Path):
    assert {f"docs/{path.name}" for path in (project / "docs").glob("*.md")} <= set(PAGES)


def test_make_targets_in_the_readme_exist(project: Path):
    named = set(re.findall(r"^make (\S+)", (project / "README.md").read_text("utf-8"), flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=project, capture_output=True, check=True)
