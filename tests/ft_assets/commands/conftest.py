"""The toy graph of toy.py in its own folder, with an instance that is opened as `ft` opens it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from ft_assets.cli import cli
from ft_assets.commands.project import Project
from ft_assets.graph.instance import open_instance

from . import toy

CONFIG = """
schema_version: 1
corpus: {files: [kb/*.md]}
sft: {base_model: ./model}
dpo: {base_model: ./model}
embedding: {base_model: ./model}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "numbers.json").write_text("[1, 2, 3]")
    (tmp_path / "limit.json").write_text('{"limit": 10}')
    return tmp_path


@pytest.fixture
def instance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # restored afterwards: open_instance changes it
    with open_instance(folder / "state") as opened:
        yield opened


@pytest.fixture
def ft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call `ft` on the toy graph as a person does; `ft(..., defs=...)` on another graph."""
    monkeypatch.setenv("FT_CONFIG", str(folder / "config.yaml"))
    monkeypatch.setenv("FT_STATE_DIR", str(folder / "state"))
    monkeypatch.setenv("DAGSTER_HOME", "")

    def call(*arguments: str, defs: dg.Definitions | None = None) -> Result:
        monkeypatch.setattr(Project, "definitions", defs or toy.build(folder))
        return CliRunner().invoke(cli, arguments, prog_name="ft")

    return call


@pytest.fixture
def write(folder: Path) -> Callable[[str, object], None]:
    """Replace one of the files of the toy graph."""
    return lambda name, value: (folder / name).write_text(json.dumps(value)) and None
