"""Settings for the rest of the graph, read from the settings artifacts, so that lineage is exact."""

from __future__ import annotations

from typing import Any, Literal, overload

from ft_assets.config.model import (
    SETTINGS_ASSETS,
    AnswerSettings,
    ConfigSection,
    CorpusSettings,
    DatasetSettings,
    DdrSettings,
    DpoSettings,
    EmbeddingSettings,
    KbalignSettings,
    QdrantSettings,
    ReleaseSettings,
    RetrievalSettings,
    SftSettings,
    section_model,
)
from resources.artifacts import ArtifactStore

SETTINGS_FILE = "settings.json"


@overload
def settings_of(store: ArtifactStore, section: Literal["corpus"]) -> CorpusSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["datasets"]) -> DatasetSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["sft"]) -> SftSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["dpo"]) -> DpoSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["embedding"]) -> EmbeddingSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["retrieval"]) -> RetrievalSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["qdrant"]) -> QdrantSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["answers"]) -> AnswerSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["kbalign"]) -> KbalignSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["ddr"]) -> DdrSettings: ...
@overload
def settings_of(store: ArtifactStore, section: Literal["release"]) -> ReleaseSettings: ...
def settings_of(store: ArtifactStore, section: str) -> ConfigSection:
    """Return the typed section of the current settings artifact. Raises Refused if it was never materialized."""
    model: Any = section_model(section)
    return model.model_validate(store.require(SETTINGS_ASSETS[section]).json(SETTINGS_FILE))
