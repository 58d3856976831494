"""Moves what serves: the intent, then the fusion in the collection's metadata, the alias in one call, the record.

Each step is atomic and the order is safe: if the process is killed between two steps, the alias names a whole
collection with a contract, and whoever opens next finishes the move or withdraws it (`settle`). The caller holds
`Releases.exclusive("collection")`, so that no other release comes in between.
"""

from __future__ import annotations

import os
import time

import msgspec

from expectations.contracts.embedding import Fusion
from expectations.violations import Refused, Violation, violation
from ft_assets.retrieval.choose_fusion import CHOICE_FILE, SWEEP, choice_of
from ft_assets.retrieval.collection import CHOICE_KEY, FLOOR_KEY, is_ours, set_fusion, stored_contract
from ft_assets.retrieval.jobs import read_collection_file
from ft_assets.retrieval.rerank import require_here
from resources import faults
from resources.artifacts import ArtifactStore
from resources.engines.protocol import OpenJson, VectorClient
from resources.qdrant import QdrantEngine, aliased
from resources.releases import Intent, Release, ReleaseBook, Releases, require_kept

NEW_HISTORY = "FT_NEW_HISTORY"
"""Environment variable: the alias for which a release may begin a record, although it serves already."""
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
        details |= _notes_on(store, fusion)
        settle(client, releases, engine.alias)
        serving = releases.current("collection")
        if serving is None and os.environ.get(NEW_HISTORY) != engine.alias:
            unrecorded = without_record(engine.alias, aliased(client, engine.alias))
            if unrecorded:
                raise Refused(f"releasing under {engine.alias}", unrecorded)
        if serving and releases.is_withheld("collection", recipes, details):
            return serving
        return _move(client, releases, engine.alias, releases.plan_release("collection", recipes, details))


def without_record(alias: str, name: str | None) -> list[Violation]:
    """Return the violation (FT-REL-004) of an alias that names a collection although there is no record of releases.

    The record is lost, or is another state's: a release would not be compared with what serves, and have no way back.
    """
    if name is None:
        return []
    return [violation("FT-REL-004", where=alias, field="record", found=name, expected="a record of its release")]


def _notes_on(store: ArtifactStore, fusion: Fusion) -> OpenJson:
    """Return who chose this fusion and why, and the score below which a search says that nothing was found.

    Empty as far as the fusion is configured, and the current sweep is of other vectors or found no such score.
    """
    sweep, vectors = store.require(SWEEP), store.require("passage_vectors")
    if (
        CHOICE_FILE not in sweep.manifest.files
        or sweep.manifest.recipe.inputs["passage_vectors"] != vectors.data_version
    ):
        return {}
    choice = choice_of(sweep)
    if choice.fusion != fusion.without_rerank():
        return {}
    notes: OpenJson = {FLOOR_KEY: msgspec.to_builtins(choice.floor)} if choice.floor else {}
    if choice.by == "auto":
        notes[CHOICE_KEY] = {"by": choice.by, "questions": choice.questions, "reason": choice.reason}
    return notes


def rollback_collection(
    store: ArtifactStore, releases: Releases, engine: QdrantEngine, to: str | None, *, who: str, why: str
) -> Intent:
    """Make an earlier release serve again, with its collection and its fusion, and return the move.

    Raises Refused: FT-REL-001 there is no such release, FT-REL-002 its artifacts are gone, FT-RET-015 its rerank
    model is, and as `serve` does.
    """
    with engine.open() as client:
        settle(client, releases, engine.alias)  # first: a release that is finished here is the one to leave
        target = releases.target("collection", to)
        require_kept(store, target)
        if rerank := msgspec.convert(target.details["fusion"], Fusion).rerank:
            require_here(rerank, store.root.parent)
        intent = releases.plan_rollback("collection", target, who=who, why=why)
        _move(client, releases, engine.alias, intent)
    return intent


def settle(client: VectorClient, releases: Releases, alias: str) -> None:
    """Finish a move that was interrupted after the alias had moved; withdraw one that was interrupted before."""
    intent = releases.announced("collection")
    if intent is None:
        return
    if is_served(client, alias, intent.release):
        releases.commit("collection", intent)
    else:
        releases.withdraw("collection")


def is_served(client: VectorClient, alias: str, release: Release) -> bool:
    """Return whether the alias names the release's collection, and that collection has the release's fusion."""
    name = aliased(client, alias)
    if name is None or name != release.details["collection"]:
        return False
    return msgspec.to_builtins(stored_contract(client, name).fusion) == release.details["fusion"]


def _move(client: VectorClient, releases: Releases, alias: str, intent: Intent) -> Release:
    details = intent.release.details
    releases.announce("collection", intent)
    fusion = msgspec.convert(details["fusion"], Fusion)
    serve(client, alias, details["collection"], fusion, details)
    faults.point("release.record")
    return releases.commit("collection", intent)


def serve(client: VectorClient, alias: str, name: str, fusion: Fusion, details: OpenJson | None = None) -> None:
    """Write the fusion into the collection's contract, then move the alias to it in one call.

    `details`: those of the release, whose notes on the fusion go into the collection's metadata.

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
    notes: OpenJson = {key: (details or {}).get(key, {}) for key in (CHOICE_KEY, FLOOR_KEY)}
    stored = client.metadata(name)
    if served != contract or any(notes[key] != (stored.get(key) or {}) for key in notes):
        faults.point("release.fusion")
        set_fusion(client, name, served, notes)
    faults.point("release.alias")
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
            faults.point("retire.drop")
            client.drop(name)
    return sorted(retired)


def _may_be_under_build(metadata: OpenJson, released: bool) -> bool:
    if released and metadata.get("whole"):
        return False
    return time.time() - float(metadata.get("touched", 0.0)) < _BUILD_SECONDS
