"""Observed assets: the version is the hash of the contents of the files that config.yaml names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from ft_assets.config.load import accepted_settings
from ft_assets.config.model import Settings
from ft_assets.graph.source_files import files_version
from resources.dagster_resources import ArtifactsResource

FilesOf = Callable[[Settings, Path], list[Path]]
"""(settings, project folder) -> the files."""


def observed_files(name: str, files_of: FilesOf, *, group: str, kind: str, description: str) -> Any:
    """Return the asset `name`. Observing it hashes the files that config.yaml names at that time."""

    @dg.observable_source_asset(  # pyright: ignore[reportUnknownMemberType]
        name=name, group_name=group, tags={f"dagster/kind/{kind}": ""}, description=description
    )
    def files(artifacts: ArtifactsResource) -> dg.DataVersion:
        root = artifacts.project()
        settings = accepted_settings(Path(artifacts.config_path), artifacts.state())
        return dg.DataVersion(files_version(files_of(settings, root), root))

    return files
