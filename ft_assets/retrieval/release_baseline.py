"""What a candidate is compared to: what serves now, or, once the candidate serves, what served before it."""

from __future__ import annotations

from typing import Any

from resources.artifacts import ArtifactStore
from resources.releases import Releases


def serves(releases: Releases, collection: str, fusion: dict[str, Any]) -> bool:
    """Whether this very collection is what serves, with this fusion."""
    release = releases.current("collection")
    return release is not None and (release.details["collection"], release.details["fusion"]) == (collection, fusion)


def baseline(
    store: ArtifactStore, releases: Releases, collection: str, fusion: dict[str, Any]
) -> dict[str, Any] | None:
    """Version, collection, fusion and model recipe of what the candidate has to stand beside; None if nothing was live.

    A released candidate keeps the baseline of its own evaluation, so that running again with nothing changed evaluates
    nothing.
    """
    release = releases.current("collection")
    if release is None:
        return None
    if serves(releases, collection, fusion):
        judged = store.find("retrieval_evaluation", release.artifacts["retrieval_evaluation"])
        return judged.manifest.recipe.settings["live"] if judged else None
    return {
        "version": release.version,
        "collection": release.details["collection"],
        "fusion": release.details["fusion"],
        "model": release.artifacts["embedding_model"],
    }
