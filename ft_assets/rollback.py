"""A rollback: an earlier release serves again. The command line and Dagster's job `rollback` both call `roll_back`.

A rollback is an event on the asset `released_<kind>`, with the version that serves then: Dagster's page shows it, and
what was made from the release that was left becomes stale.
"""

# the signature of dg.job is partly untyped
# pyright: reportUnknownMemberType=false
import getpass
from enum import Enum
from typing import TYPE_CHECKING

import dagster as dg

from ft_assets.adapters.assets import RELEASED_ADAPTER
from ft_assets.graph.gates import as_metadata
from ft_assets.retrieval.assets import RELEASED_COLLECTION
from ft_assets.retrieval.release import rollback_collection
from resources.artifacts import ArtifactStore
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.qdrant import QdrantEngine
from resources.releases import Intent, Move, ReleaseKind, Releases, require_kept

if TYPE_CHECKING:
    from ft_assets.web.project import ShownProject

_SPECS = {"adapter": RELEASED_ADAPTER, "collection": RELEASED_COLLECTION}


def roll_back(
    kind: ReleaseKind,
    store: ArtifactStore,
    releases: Releases,
    engine: QdrantEngine,
    *,
    to: str | None,
    who: str,
    why: str,
) -> Intent:
    """Make the release `to` serve again (None: the one before the current) and return the move.

    Raises Refused: FT-REL-001 there is no such release, FT-REL-002 its artifacts are gone, and as `serve` does.
    """
    with releases.exclusive(kind):
        if kind == "collection":
            return rollback_collection(store, releases, engine, to, who=who, why=why)
        target = releases.target(kind, to)
        require_kept(store, target)
        intent = releases.plan_rollback(kind, target, who=who, why=why)
        releases.commit(kind, intent)
        return intent


def roll_back_and_record(
    kind: ReleaseKind, project: "ShownProject", *, to: str | None, who: str, why: str
) -> tuple[Move, str]:
    """Roll back as `roll_back` does, and record it in Dagster. Return the move, and a note if Dagster could not."""
    intent = roll_back(kind, project.store, project.releases, project.engine, to=to, who=who, why=why)
    try:
        project.instance.report_runless_asset_event(as_event(kind, project.store, intent))
    except Exception as error:  # a damaged database of Dagster: the rollback is done all the same
        return intent.move, f"the rollback is done, but Dagster could not record it: {error}"
    return intent.move, ""


def as_event(kind: ReleaseKind, store: ArtifactStore, intent: Intent) -> dg.AssetMaterialization:
    """Return the event of a rollback. Its tags give the versions that the release was made from."""
    spec, release, move = _SPECS[kind], intent.release, intent.move
    tags = {"dagster/data_version": release.version, "dagster/code_version": spec.code_version}
    for asset, recipe in release.artifacts.items():
        if artifact := store.find(asset, recipe):
            tags[f"dagster/input_data_version/{asset}"] = artifact.data_version
    figures = {"version": release.version, "rolled_back_from": move.before, "who": move.who, "why": move.why or "-"}
    return dg.AssetMaterialization(
        asset_key=spec.name,
        description=f"rollback from {move.before} to {move.after}",
        metadata=as_metadata({**figures, **release.details}),
        tags=tags,
    )


def current_user() -> str:
    """Return the name of the person who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return "unknown"


class Kind(Enum):
    """The two kinds of releases."""

    ADAPTER = "adapter"
    COLLECTION = "collection"


class RollbackConfig(dg.Config):
    """The configuration of the job `rollback`."""

    kind: Kind
    to: str = ""
    """The version to serve; empty: the one before the current."""
    why: str = ""


@dg.op(description="Make an earlier release serve again, in one step.")
def move_release(
    context: dg.OpExecutionContext, config: RollbackConfig, artifacts: ArtifactsResource, qdrant: QdrantResource
) -> None:
    kind: ReleaseKind = "adapter" if config.kind is Kind.ADAPTER else "collection"
    store = artifacts.store()
    who = f"{current_user()}, Dagster run {context.run_id}"
    intent = roll_back(
        kind, store, artifacts.releases(), qdrant.engine(), to=config.to or None, who=who, why=config.why
    )
    context.log_event(as_event(kind, store, intent))
    context.log.info("%s: %s -> %s", kind, intent.move.before or "none", intent.move.after)


@dg.job(
    description="Make an earlier release of the adapter or the collection serve again. `ft rollback` does the same."
)
def rollback() -> None:
    move_release()
