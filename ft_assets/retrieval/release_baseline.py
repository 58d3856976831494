"""The release that a candidate is compared with: what serves now, or, once the candidate serves, what served before."""

from __future__ import annotations

import msgspec

from expectations.contracts.embedding import Fusion
from ft_assets.retrieval.jobs import Baseline
from resources.artifacts import ArtifactStore
from resources.releases import Releases


def serves(releases: Releases, collection: str, fusion: Fusion) -> bool:
    """Return whether this collection serves now, with this fusion."""
    release = releases.current("collection")
    wanted = (collection, msgspec.to_builtins(fusion))
    return release is not None and (release.details["collection"], release.details["fusion"]) == wanted


def baseline(store: ArtifactStore, releases: Releases, collection: str, fusion: Fusion) -> Baseline | None:
    """Return the release that the candidate is compared with; None if there was none.

    A released candidate keeps the baseline of its own evaluation. So a run with nothing changed evaluates nothing.
    """
    release = releases.current("collection")
    if release is None:
        return None
    if serves(releases, collection, fusion):
        evaluation = store.find("retrieval_evaluation", release.artifacts["retrieval_evaluation"])
        recorded = evaluation.manifest.recipe.settings["live"] if evaluation else None
        return msgspec.convert(recorded, Baseline | None)
    return Baseline(
        version=release.version,
        collection=release.details["collection"],
        fusion=msgspec.convert(release.details["fusion"], Fusion),
        model=release.artifacts["embedding_model"],
    )
