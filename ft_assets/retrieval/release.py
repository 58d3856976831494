"""Moves what serves: fusion into the collection's metadata, then the alias in one call, then the pointer.

Each step is atomic and the order is safe: killed between any two, the alias names a whole collection with a contract,
and the next run ends where this one would have.
"""

from __future__ import annotations

from typing import Any

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Fusion
from expectations.violations import Refused, Violation
from ft_assets.retrieval.collection import set_fusion, stored_contract
from resources.artifacts import ArtifactStore
from resources.engines.protocol import VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Release, ReleaseBook, Releases

ASSETS = ("embedding_model", "passage_vectors", "qdrant_collection", "retrieval_evaluation")


def release_collection(store: ArtifactStore, releases: Releases, engine: QdrantEngine) -> Release:
    """Make the current candidate serve with the fusion it was evaluated with. The caller has enforced the gates."""
    standing = {asset: store.require(asset) for asset in ASSETS}
    name = str(standing["qdrant_collection"].json("collection.json")["collection"])
    fusion = msgspec.convert(standing["retrieval_evaluation"].manifest.recipe.settings["fusion"], Fusion)
    with engine.open() as client:
        contract = serve(client, engine.alias, name, fusion)
    details: dict[str, Any] = {
        "collection": name,
        "alias": engine.alias,
        "index_fp": contract.index_fp,
        "fusion": msgspec.to_builtins(fusion),
    }
    return releases.move("collection", {asset: artifact.recipe_id for asset, artifact in standing.items()}, details)


def rollback_collection(releases: Releases, engine: QdrantEngine, release: Release) -> None:
    """Make an earlier release serve again: its collection, its fusion. Raises Refused as `serve` does."""
    with engine.open() as client:
        serve(client, engine.alias, release.details["collection"], msgspec.convert(release.details["fusion"], Fusion))
    releases.point("collection", release)


def serve(client: VectorClient, alias: str, name: str, fusion: Fusion) -> EmbeddingContract:
    """Write the fusion into the collection's contract, then let the alias name it: one call, no moment without.

    Returns that contract. Raises Refused: FT-COL-006 the collection is gone, FT-COL-001 its build was interrupted (a
    retired one that is being built again, under the same name).
    """
    contract = stored_contract(client, name)
    if contract.serving is None:
        raise ValueError(f"the contract of {name} does not say how it is served")
    if client.metadata(name).get("whole") == "":
        violation = Violation(
            code="FT-COL-001", where=name, message="the collection is not whole: its build was interrupted.",
            field="whole", found="", expected="the version of passage_vectors",
            mend="ft run --asset qdrant_collection, or ft rollback collection --to another release",
        )  # fmt: skip
        raise Refused(f"serving {name}", [violation])
    served = contract.served(contract.serving, fusion)
    if served != contract:
        set_fusion(client, name, served)
    client.point(alias, name)
    return served


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
