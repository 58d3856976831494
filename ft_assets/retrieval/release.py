"""Moves what serves: fusion into the collection's metadata, then the alias in one call, then the pointer.

Each step is atomic and the order is safe: killed between any two, the alias names a whole collection with a contract,
and the next run ends where this one would have.
"""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.contracts.embedding import Fusion
from ft_assets.retrieval.collection import inspect, set_fusion
from resources.artifacts import ArtifactStore
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Release, ReleaseBook, Releases

ASSETS = ("embedding_model", "passage_vectors", "qdrant_collection", "retrieval_evaluation")


def release_collection(store: ArtifactStore, releases: Releases, engine: QdrantEngine, fusion: Fusion) -> Release:
    """Make the current candidate serve with `fusion`. The caller has enforced the gates."""
    artifacts = {asset: store.require(asset).recipe_id for asset in ASSETS}
    name = str(store.require("qdrant_collection").json("collection.json")["collection"])
    with engine.open() as client:
        contract = inspect(client, name).contract
        serve(client, engine.alias, name, fusion)
    details: dict[str, Any] = {
        "collection": name,
        "alias": engine.alias,
        "index_fp": contract.index_fp,
        "fusion": msgspec.to_builtins(fusion),
    }
    return releases.move("collection", artifacts, details)


def rollback_collection(store: ArtifactStore, releases: Releases, engine: QdrantEngine, release: Release) -> None:
    """Make an earlier release serve again: its collection, its fusion. Raises Refused (FT-COL-006) if it is gone."""
    del store  # the release names everything that is needed
    with engine.open() as client:
        serve(client, engine.alias, release.details["collection"], msgspec.convert(release.details["fusion"], Fusion))
    releases.point("collection", release)


def serve(client: VectorClient, alias: str, name: str, fusion: Fusion) -> None:
    """Write the fusion into the collection's contract, then let the alias name it: one call, no moment without."""
    contract = inspect(client, name).contract
    if contract.serving is None:
        raise ValueError(f"the contract of {name} does not say how it is served")
    set_fusion(client, name, contract.served(contract.serving, fusion))
    client.point(alias, name)


def retire_collections(engine: QdrantEngine, book: ReleaseBook, keep: int, candidate: str) -> list[str]:
    """Delete our collections beyond the `keep` last released ones. Returns their names.

    Never one that an alias names, the one released now, the candidate, or one that is not ours by its name.
    """
    released = list(dict.fromkeys(release.details["collection"] for release in reversed(book.history)))
    current = next(release.details["collection"] for release in book.history if release.version == book.current)
    safe = {*released[:keep], current, candidate}
    with engine.open() as client:
        safe |= set(client.aliases().values())
        retired = [name for name in client.names() if name.startswith(f"{engine.alias}__") and name not in safe]
        for name in retired:
            client.drop(name)
    return sorted(retired)
