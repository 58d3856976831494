"""The allowed imports between packages, light packages, and unique names. Read from the source, without loading it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path

import pytest

PACKAGES = ["expectations", "resources", "ft_assets"]
STAGES = [
    "settings",
    "corpus",
    "datasets",
    "generation",
    "adapters",
    "embedding",
    "retrieval",
    "kbalign",
    "ddr",
    "answers",
]
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


def forbidden_imports(
    project: Path, package: str, is_forbidden: Callable[[str], bool], allowed: AbstractSet[str] = frozenset()
) -> Iterator[str]:
    """Yield the forbidden imports of a package, except those of files with an `allowed` name."""
    for path in sources(project, package):
        if path.name not in allowed:
            yield from (f"{path.relative_to(project)} imports {name}" for name in imports(path) if is_forbidden(name))


@pytest.mark.parametrize(
    ("package", "above"), [("expectations", {"resources", "ft_assets"}), ("resources", {"ft_assets"})]
)
def test_packages_import_only_those_below_them(project: Path, package: str, above: set[str]):
    assert list(forbidden_imports(project, package, lambda name: name.split(".")[0] in above)) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_a_folder_of_ft_assets_uses_only_those_before_it(project: Path, layer: str):
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "commands", "cli", "definitions", "watcher", "web"}

    def is_above(name: str) -> bool:
        package, _, rest = name.partition(".")
        return package == "ft_assets" and rest.split(".")[0] in above

    assert list(forbidden_imports(project, f"ft_assets/{layer}", is_above)) == []


def test_the_page_does_not_use_the_commands(project: Path):
    above = ("ft_assets.commands", "ft_assets.cli")
    assert list(forbidden_imports(project, "ft_assets/web", lambda name: name.startswith(above))) == []


@pytest.mark.parametrize("stage", STAGES)
def test_modules_that_compute_do_not_import_dagster(project: Path, stage: str):
    declares = {
        "assets.py",
        "checks.py",
        "ddr_checks.py",
        "glossary_checks.py",
        "kbalign_checks.py",
        "served_checks.py",
    }

    def uses_dagster(name: str) -> bool:
        return name == "dagster" or name.startswith(
            ("dagster.", "resources.dagster_resources", "ft_assets.graph.gates")
        )

    assert list(forbidden_imports(project, f"ft_assets/{stage}", uses_dagster, declares)) == []


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
    paths = chain.from_iterable(sources(project, package) for package in (*PACKAGES, "benchmarks"))
    assert [path for path in paths if pattern in path.read_text("utf-8")] == []


def test_public_classes_have_unique_names(project: Path):
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for path in chain.from_iterable(sources(project, package) for package in PACKAGES):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(str(path.relative_to(project)))
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
