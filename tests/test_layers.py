"""Which package may import which, and which must stay light. Read from the source, so that nothing is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STAGES = ["settings", "corpus", "datasets", "adapters", "embedding", "retrieval", "answers"]
LAYERS = ["config", "graph", *STAGES]
"""The folders of ft_assets, each of which may use only those before it."""
HEAVY = ["torch", "dagster", "pandas", "pyarrow", "transformers", "great_expectations", "qdrant_client", "numpy"]


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(project: Path, package: str) -> list[Path]:
    return sorted((project / package).rglob("*.py"))


def test_packages_import_only_those_below_them(project: Path):
    forbidden = {"expectations": ("resources", "ft_assets"), "resources": ("ft_assets",)}
    broken = [
        f"{path.relative_to(project)} imports {name}"
        for package, above in forbidden.items()
        for path in sources(project, package)
        for name in imports(path)
        if name.split(".")[0] in above
    ]
    assert broken == []


def test_a_folder_of_ft_assets_uses_only_those_before_it(project: Path):
    above = ["commands", "cli", "definitions", "watcher"]
    broken = [
        f"{path.relative_to(project)} imports {name}"
        for number, layer in enumerate(LAYERS)
        for path in sources(project, f"ft_assets/{layer}")
        for name in imports(path)
        if name.split(".")[:1] == ["ft_assets"]
        and name.split(".")[1:2] != []
        and name.split(".")[1] in {*LAYERS[number + 1 :], *above}
    ]
    assert broken == []


def test_modules_that_compute_do_not_import_dagster(project: Path):
    declares = {"assets.py", "checks.py", "glossary_checks.py"}
    broken = [
        f"{path.relative_to(project)} imports {name}"
        for stage in STAGES
        for path in sources(project, f"ft_assets/{stage}")
        if path.name not in declares
        for name in imports(path)
        if name == "dagster" or name.startswith(("dagster.", "resources.dagster_resources", "ft_assets.graph.gates"))
    ]
    assert broken == []


def test_expectations_load_nothing_heavy(project: Path):
    modules = [
        ".".join(path.relative_to(project).with_suffix("").parts)
        for path in sources(project, "expectations")
        if path.name != "__init__.py"
    ]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_definitions_load_nothing_that_computes(project: Path):
    heavy = [name for name in HEAVY if name not in ("dagster", "numpy")]
    code = f"import sys\nimport ft_assets.definitions\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "pattern",
    ["trust_remote_code=True", "weights_only=False", "import pickle", "import yaml", "verify=False", "shell=True"],
)
def test_unsafe_calls_are_absent(project: Path, pattern: str):
    found = [
        path
        for package in ("ft_assets", "resources", "expectations", "benchmarks")
        for path in sources(project, package)
        if pattern in path.read_text("utf-8")
    ]
    assert found == []
