"""Moves what serves: the fusion into the collection's metadata, then the alias in one call, then the pointer.

Each step is atomic and the order is safe: if the process is killed between two steps, the alias names a whole
collection with a contract, and the next run completes the release.
"""

from __future__ import annotations

import time

import msgspec

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused, violation
from ft_assets.retrieval.collection import is_ours, set_fusion, stored_contract
from ft_assets.retrieval.jobs import read_collection_file
from resources.artifacts import ArtifactStore
from resources.engines.protocol import OpenJson, VectorClient
from resources.qdrant import QdrantEngine
from resources.releases import Release, ReleaseBook, Releases

_BUILD_SECONDS = 24 * 3600.0
_RELEASED_ASSETS = ("embedding_model", "passage_vectors", "qdrant_collection", "retrieval_evaluation")


def release_collection(store: ArtifactStore, releases: Releases, engine: QdrantEngine) -> Release:
    """Make the current candidate serve with the fusion it was evaluated with. The caller has enforced the gates.

    A candidate that a person rolled back earlier is not released: the release that serves now is kept and returned.
    """
    artifacts = {asset: store.require(asset) for asset in _RELEASED_ASSETS}
    recipes = {asset: artifact.recipe_id for asset, artifact in artifacts.items()}
    name = read_collection_file(artifacts["qdrant_collection"]).collection
    fusion = msgspec.convert(artifacts["retrieval_evaluation"].manifest.recipe.settings["fusion"], Fusion)
    with engine.open() as client:
        details: dict[str, object] = {
            "collection": name,
            "alias": engine.alias,
            "index_fp": stored_contract(client, name).index_fp,
            "fusion": msgspec.to_builtins(fusion),
        }
        serving = releases.current("collection")
        if serving and releases.is_withheld("collection", recipes, details):
            return serving
        serve(client, engine.alias, name, fusion)
    return releases.move("collection", recipes, details)


def rollback_collection(releases: Releases, engine: QdrantEngine, release: Release) -> None:
    """Make an earlier release serve again, with its collection and its fusion. Raises Refused as `serve` does."""
    with engine.open() as client:
        serve(client, engine.alias, release.details["collection"], msgspec.convert(release.details["fusion"], Fusion))
    releases.point("collection", release)


def serve(client: VectorClient, alias: str, name: str, fusion: Fusion) -> None:
    """Write the fusion into the collection's contract, then move the alias to it in one call.

    Raises Refused: FT-COL-006 the collection is gone, FT-COL-001 its build was interrupted (it may have been retired,
    and is being built again under the same name).
    """
    contract = stored_contract(client, name)
    if contract.serving is None:
        raise ValueError(f"the contract of {name} does not say how it is served")
    if client.metadata(name).get("whole") == "":
        interrupted = violation(
            "FT-COL-001",
            where=name,
            message="the collection is not whole: its build was interrupted.",
            field="whole",
            found="",
            expected="the version of passage_vectors",
            fix="ft run --asset qdrant_collection, or ft rollback collection --to another release",
        )
        raise Refused(f"serving {name}", [interrupted])
    served = contract.served(contract.serving, fusion)
    if served != contract:
        set_fusion(client, name, served)
    client.point(alias, name)


def retire_collections(engine: QdrantEngine, book: ReleaseBook, keep: int, candidate: str) -> list[str]:
    """Delete our collections except the `keep` last released ones. Returns the names of the deleted ones.

    It never deletes a collection that an alias names, the one released now, the candidate, or one whose name is not
    ours. On a server, another run may build a collection at the same time, without a lock: a collection that is not
    whole, or was never released, is left for a day after its last build began or ended.
    """
    released = list(dict.fromkeys(release.details["collection"] for release in reversed(book.history)))
    current = next(release.details["collection"] for release in book.history if release.version == book.current)
    safe = {*released[:keep], current, candidate}
    with engine.open() as client:
        safe |= set(client.aliases().values())
        old = [name for name in client.names() if is_ours(name, engine.alias) and name not in safe]
        retired = [name for name in old if not _may_be_under_build(client.metadata(name), name in released)]
        for name in retired:
            client.drop(name)
    return sorted(retired)


def _may_be_under_build(metadata: OpenJson, released: bool) -> bool:
    if released and metadata.get("whole"):
        return False
    return time.time() - float(metadata.get("touched", 0.0)) < _BUILD_SECONDS
