"""The parts of a project that the page reads. `ft_assets.commands.project.Project` has them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

from resources.artifacts import ArtifactStore
from resources.qdrant import QdrantEngine
from resources.releases import ReleaseKind, Releases

if TYPE_CHECKING:
    import dagster as dg

    from ft_assets.config.model import Settings


KINDS: tuple[ReleaseKind, ...] = get_args(ReleaseKind)


class ShownProject(Protocol):
    """A project as the page sees it."""

    @property
    def config(self) -> Path: ...

    @property
    def state(self) -> Path: ...

    @cached_property
    def settings(self) -> Settings: ...

    @cached_property
    def store(self) -> ArtifactStore: ...

    @cached_property
    def releases(self) -> Releases: ...

    @cached_property
    def engine(self) -> QdrantEngine: ...

    @cached_property
    def instance(self) -> dg.DagsterInstance: ...


class NotFound(Exception):
    """A link names a thing that does not exist. The text names what to open in its place."""


def asset_names(store: ArtifactStore) -> list[str]:
    """Return the assets of which the store has an artifact."""
    return store.assets()
