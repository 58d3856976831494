"""The project that a command works on: its configuration and state, and what is opened from them when needed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ft_assets.config.load import config_path, load_settings, state_dir
from resources.artifacts import ArtifactStore, open_store
from resources.qdrant import QdrantEngine, engine_of_state
from resources.releases import Releases, open_releases

if TYPE_CHECKING:
    import dagster as dg

    from ft_assets.config.model import Settings


@dataclass(frozen=True)
class Project:
    """Everything is opened lazily: `ft search` needs no Dagster, `ft rollback --list` needs no Qdrant."""

    config: Path
    state: Path

    @classmethod
    def here(cls) -> Project:
        """Return the project that the environment and the working directory name (FT_CONFIG, FT_STATE_DIR)."""
        return cls(config=config_path(), state=state_dir())

    @cached_property
    def settings(self) -> Settings:
        """Raises SettingsError with every error of config.yaml."""
        return load_settings(self.config)

    @cached_property
    def store(self) -> ArtifactStore:
        return open_store(self.state / "artifacts")

    @cached_property
    def releases(self) -> Releases:
        return open_releases(self.state / "released")

    @cached_property
    def engine(self) -> QdrantEngine:
        qdrant = self.settings.qdrant
        return engine_of_state(
            self.state,
            kind=qdrant.engine,
            url=qdrant.url,
            alias=qdrant.collection,
            lock_timeout=qdrant.lock_timeout,
        )

    @cached_property
    def definitions(self) -> dg.Definitions:
        import dagster as dg

        with warnings.catch_warnings():
            # observable sources are beta in Dagster; we accept that, and a user need not see it
            warnings.simplefilter("ignore", dg.BetaWarning)
            from ft_assets.definitions import build_defs

            return build_defs(self.settings, state=self.state, config=self.config)

    @cached_property
    def not_configured(self) -> dict[str, str]:
        """Asset -> the key that it needs and that config.yaml does not have."""
        from ft_assets.definitions import not_configured

        return not_configured(self.settings)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        from ft_assets.graph.instance import open_instance

        return open_instance(self.state)
