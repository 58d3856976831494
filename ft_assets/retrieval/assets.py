"""From vectors to what serves: encode, build beside, measure, release. Declares; the modules beside compute."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import msgspec

from expectations.contracts.embedding import EmbeddingContract
from ft_assets.config.from_artifact import settings_of
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.embedding.assets import describe_scores
from ft_assets.embedding.checks import GATES as EMBEDDING_GATES
from ft_assets.graph.gates import as_metadata, enforce, evidence_of
from ft_assets.graph.produce import compute_params, produce, recipe_for
from ft_assets.retrieval.checks import GATES
from ft_assets.retrieval.collection import build, collection_name, fusion_of, serving_of
from ft_assets.retrieval.release import release_collection, retire_collections
from ft_assets.retrieval.release_baseline import baseline, serves
from ft_assets.retrieval.vectors import contract_of
from resources import telemetry
from resources.artifacts import Artifact, Staging, write_json
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.plots import bars, sparkline
from resources.qdrant import QdrantEngine

_VECTORS_VERSION = "1"
_COLLECTION_VERSION = "2"
_EVALUATION_VERSION = "2"
_SWEEP_VERSION = "1"
_RELEASE_VERSION = "1"
_OWNERS = ["team:ft-assets"]
GATED = ["embedding_model", "embedding_evaluation", "passage_vectors", "qdrant_collection", "retrieval_evaluation"]
"""Every blocking gate on these must hold at the moment of a release."""


@dg.asset(
    deps=["embedding_model", "passages"],
    group_name="retrieval",
    kinds={"parquet", "pytorch"},
    owners=_OWNERS,
    code_version=_VECTORS_VERSION,
    description="Dense and lexical vectors of every passage, full width; unchanged texts are taken from earlier runs.",
)
def passage_vectors(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    enforce("passage_vectors", evidence_of(artifacts, qdrant), EMBEDDING_GATES, assets=["embedding_model"])
    recipe = recipe_for(artifacts, "passage_vectors", _VECTORS_VERSION, {}, ["embedding_model", "passages"])
    return produce(
        artifacts,
        recipe,
        launch=lambda made: launcher.run(context, "ft_assets.retrieval.encode", made, compute_params(artifacts)),
    )


@dg.asset(
    deps=["passage_vectors", "retrieval_settings", "qdrant_settings", "passages"],
    group_name="retrieval",
    kinds={"qdrant"},
    owners=_OWNERS,
    code_version=_COLLECTION_VERSION,
    description="A collection with both vectors of every passage, built beside the one that serves.",
)
def qdrant_collection(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store, engine = artifacts.store(), qdrant.engine()
    enforce("qdrant_collection", evidence_of(artifacts, qdrant), GATES, assets=["passage_vectors"])
    vectors, passages = store.require("passage_vectors"), store.require("passages")
    serving = serving_of(settings_of(store, "retrieval"), contract_of(vectors))
    contract = contract_of(vectors).served(serving, None)
    name = collection_name(engine.alias, contract, vectors.data_version)
    # always asked, and free when the collection is whole: the artifact may stand where the engine lost its folder
    with engine.open() as client:
        built = build(client, name, contract, vectors, passages, progress=_tell)
    cost = {"upserted": built.upserted, "copied": built.copied, "deleted": built.deleted}

    def compute(staging: Staging) -> dict[str, Any]:
        described = {"collection": name, "contract": contract.to_json(), "points": built.points}
        write_json(staging.path / "collection.json", described)
        return {"points": built.points, **cost, "collection": name}

    recipe = recipe_for(
        artifacts,
        "qdrant_collection",
        _COLLECTION_VERSION,
        {**msgspec.to_builtins(serving), "engine": engine.address, "alias": engine.alias},
        ["passage_vectors", "passages"],
    )
    return produce(artifacts, recipe, compute=compute, metadata=lambda _: {**cost, **_describe(contract)})


@dg.asset(
    deps=["qdrant_collection", "retrieval_splits", "retrieval_settings"],
    group_name="retrieval",
    kinds={"qdrant", "parquet"},
    owners=_OWNERS,
    code_version=_EVALUATION_VERSION,
    description="The candidate collection, asked through the engine as serving does, beside what is live now.",
)
def retrieval_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store, engine = artifacts.store(), qdrant.engine()
    evidence = evidence_of(artifacts, qdrant)
    enforce("retrieval_evaluation", evidence, DATASET_GATES, GATES, assets=["retrieval_splits", "qdrant_collection"])
    settings = settings_of(store, "retrieval")
    name = str(store.require("qdrant_collection").json("collection.json")["collection"])
    fusion = msgspec.to_builtins(fusion_of(settings))
    asked = {
        "collection": name,
        "fusion": fusion,
        "evaluate_on": settings.evaluate_on,
        "live": baseline(store, artifacts.releases(), name, fusion),
    }
    recipe = recipe_for(
        artifacts,
        "retrieval_evaluation",
        _EVALUATION_VERSION,
        asked,
        ["qdrant_collection", "embedding_model", "passages", "retrieval_splits"],
    )
    params = {
        **asked,
        "must_compare": settings.tolerance < 1 and not serves(artifacts.releases(), name, fusion),
        "engine": engine_params(engine),
        **msgspec.to_builtins(compute_params(artifacts)),
    }
    return produce(
        artifacts,
        recipe,
        launch=lambda made: launcher.run(context, "ft_assets.retrieval.evaluate", made, params),
        metadata=describe_scores,
    )


@dg.asset(
    deps=["qdrant_collection", "retrieval_splits"],
    group_name="retrieval",
    kinds={"parquet"},
    owners=_OWNERS,
    code_version=_SWEEP_VERSION,
    description="nDCG@10 of the validation questions over weights and fusion methods. Recommends, changes nothing.",
)
def fusion_sweep(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    enforce("fusion_sweep", evidence_of(artifacts, qdrant), GATES, assets=["qdrant_collection"])
    recipe = recipe_for(
        artifacts,
        "fusion_sweep",
        _SWEEP_VERSION,
        {},
        ["qdrant_collection", "passage_vectors", "embedding_model", "passages", "retrieval_splits"],
    )
    return produce(
        artifacts,
        recipe,
        launch=lambda made: launcher.run(context, "ft_assets.retrieval.sweep", made, compute_params(artifacts)),
        metadata=_describe_sweep,
    )


@dg.asset(
    # every asset whose gates the release enforces: what it asks for, `--upstream` must bring. Another engine has to be
    # pointed at a collection whose contents are the same.
    deps=[*GATED, "qdrant_settings"],
    group_name="retrieval",
    kinds={"qdrant"},
    owners=_OWNERS,
    code_version=_RELEASE_VERSION,
    description="What serves: the alias names the candidate once every blocking check on its way has passed.",
)
def released_collection(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store, releases, engine = artifacts.store(), artifacts.releases(), qdrant.engine()
    telemetry.emit(telemetry.Progress(asset="released_collection", kind="start"))
    enforce("released_collection", evidence_of(artifacts, qdrant), EMBEDDING_GATES, GATES, assets=GATED)
    before = releases.current("collection")
    release = release_collection(store, releases, engine)
    book = releases.book("collection")
    # what a run beside this one may have built since
    candidate = str(store.require("qdrant_collection").json("collection.json")["collection"])
    keep = settings_of(store, "retrieval").keep
    retired = retire_collections(engine, book, keep, candidate) if book else []
    reused = before is not None and before.version == release.version
    withheld = release.artifacts["retrieval_evaluation"] != store.require("retrieval_evaluation").recipe_id
    text = f"{engine.alias} -> {release.details['collection']}"
    if withheld:
        text += ", the candidate was rolled back from"
    telemetry.emit(telemetry.Progress(asset="released_collection", kind="reused" if reused else "made", text=text))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(release.version),
        metadata=as_metadata(
            {
                "version": release.version,
                "reused": reused,
                "candidate_withheld": withheld,
                "retired": retired,
                **release.details,
            }
        ),
    )


def engine_params(engine: QdrantEngine) -> dict[str, Any]:
    """How a worker reaches the engine; the API key travels in the environment, never in a job file."""
    return {
        "kind": engine.kind,
        "path": str(engine.path),
        "url": engine.url,
        "alias": engine.alias,
        "lock_timeout": engine.lock_timeout,
    }


def _describe(contract: EmbeddingContract) -> dict[str, Any]:
    """The contract as it travels in asset metadata, without its probes."""
    shown = {name: value for name, value in contract.to_json().items() if name != "probes"}
    return {"index_fp": contract.index_fp, "contract": shown}


def _tell(done: int, total: int) -> None:
    telemetry.emit(
        telemetry.Progress(
            asset="qdrant_collection", kind="step", step=done, total=total, text=f"points {done}/{total}"
        )
    )


def _describe_sweep(artifact: Artifact) -> Mapping[str, Any]:
    means: dict[str, float] = artifact.summary["ndcg_at_10"]
    curve = [value for name, value in means.items() if name.startswith("1.0 / ")]
    return {
        "curve": sparkline(curve, title="nDCG@10 over the sparse weight, 0 to 2"),
        "methods": bars(means, title="nDCG@10"),
    }


ASSETS = [passage_vectors, qdrant_collection, retrieval_evaluation, fusion_sweep, released_collection]
