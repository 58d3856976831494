"""Generated pages are current, links lead somewhere, commands exist, and the layout page shows the tree as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ft_assets.config.model import GeneratorSettings

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/automation.md",
    "docs/bring-your-own-data.md",
    "docs/dialects.md",
    "docs/configuration.md",
    "docs/engines.md",
    "docs/estimate.md",
    "docs/export.md",
    "docs/gate-another-repo.md",
    "docs/make-preferences.md",
    "docs/grow-to-a-gpu.md",
    "docs/integrity.md",
    "docs/grow-to-a-ray-cluster.md",
    "docs/make-training-data.md",
    "docs/page.md",
    "docs/performance.md",
    "docs/release-and-rollback.md",
    "docs/retrieval.md",
    "docs/rules.md",
    "docs/scale.md",
    "docs/security.md",
    "docs/share-a-state.md",
    "docs/use-a-server.md",
    "docs/while-it-trains.md",
]
PACKAGES = ("ft_assets", "resources", "expectations")


def test_generated_pages_are_current(project: Path):
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


def test_settings_of_a_server_in_the_docs_are_accepted(project: Path):
    blocks = re.findall(r"```yaml\n(.*?)```", (project / "docs/use-a-server.md").read_text("utf-8"), re.DOTALL)
    sections = [YAML(typ="safe").load(block)["generator"] for block in blocks]
    endpoint = GeneratorSettings.model_validate({name: value for one in sections for name, value in one.items()})
    assert endpoint.kind == "endpoint" and endpoint.price and endpoint.max_tokens_total


def test_make_targets_in_the_readme_exist(project: Path):
    named = set(re.findall(r"^make (\S+)", (project / "README.md").read_text("utf-8"), flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=project, capture_output=True, check=True)


def layout_paths(project: Path) -> Iterator[str]:
    """Yield every path of the Layout section of docs/architecture.md. Four spaces of indentation are one folder."""
    text = (project / "docs/architecture.md").read_text("utf-8")
    block = text.partition("## Layout")[2].split("```")[1]
    parents: list[str] = []
    for line in block.strip("\n").splitlines():
        name = line.split()[0].rstrip(",")
        depth = (len(line) - len(line.lstrip())) // 4
        parents = [*parents[:depth], name.rstrip("/")]
        yield "/".join(parents)


def test_every_path_of_the_layout_exists(project: Path):
    missing = [path for path in layout_paths(project) if not list(project.glob(path))]
    assert missing == []


def test_every_folder_with_code_is_in_the_layout(project: Path):
    layout = set(layout_paths(project))
    for package in PACKAGES:
        folders = {path.parent.relative_to(project).as_posix() for path in (project / package).rglob("*.py")}
        assert folders - layout == set()


def test_a_line_of_the_layout_is_one_phrase(project: Path):
    text = (project / "docs/architecture.md").read_text("utf-8")
    lines = text.partition("## Layout")[2].split("```")[1].strip("\n").splitlines()
    assert [line for line in lines if len(line.split()) < 3 or ". " in line.split(maxsplit=1)[1]] == []


def test_hooks_for_commits_need_no_network(project: Path):
    hooks = YAML(typ="safe").load(project / ".pre-commit-config.yaml")["repos"]
    assert {repository["repo"] for repository in hooks} == {"local"}
    assert {hook["language"] for hook in hooks[0]["hooks"]} <= {"system", "pygrep"}
