"""From vectors to the released collection: encode, build, evaluate, release. Declares; other modules compute.

A candidate collection is built next to the one that serves, which stays as it is until the release.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import msgspec

from expectations.contracts.embedding import EmbeddingContract, Fusion
from expectations.markdown import bar_table
from expectations.rules import retrieval as rules
from expectations.violations import Refused
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import EmbeddingSettings
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.embedding.assets import describe_scores
from ft_assets.embedding.checks import GATES as EMBEDDING_GATES
from ft_assets.embedding.lexical import bm25_settings
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import as_metadata, evidence_of
from ft_assets.graph.produce import compute_params, produce
from ft_assets.retrieval.checks import GATES
from ft_assets.retrieval.choose_fusion import (
    choice_of,
    configured_fusion,
    fusion_of,
    label,
    served_fusion_of,
    sweep_settings,
    weighted_sums,
)
from ft_assets.retrieval.collection import CHOICE_KEY, build, collection_name, points_version, serving_of, storage_of
from ft_assets.retrieval.jobs import (
    COLLECTION_FILE,
    CollectionFile,
    CollectionSummary,
    EncodeJob,
    ModelComparisonJob,
    RetrievalEvaluationJob,
    SweepJob,
    SweepSummary,
    VectorsSummary,
    read_collection_file,
)
from ft_assets.retrieval.release import release_collection, retire_collections
from ft_assets.retrieval.release_baseline import baseline, serves
from ft_assets.retrieval.vectors import contract_of
from resources import telemetry
from resources.artifacts import Artifact, Staging, write_json
from resources.charts import Line, line_image
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource
from resources.releases import Release

GATED = [
    "embedding_model", "embedding_evaluation", "passage_vectors", "fusion_sweep", "qdrant_collection",
    "retrieval_evaluation",
]  # fmt: skip
"""Every blocking gate on these must pass at the moment of a release."""

PASSAGE_VECTORS = AssetSpec(
    name="passage_vectors",
    group="retrieval",
    kinds={"parquet", "pytorch"},
    code_version="2",
    description="Dense and lexical vectors of every passage, full width; unchanged texts are taken from earlier runs.",
    inputs=("embedding_model", "passages"),
    reads=("retrieval_settings",),
    enforces=("embedding_model",),
    gates=(EMBEDDING_GATES,),
    worker="ft_assets.retrieval.encode",
)
BASE_VECTORS = AssetSpec(
    name="base_vectors",
    group="retrieval",
    kinds={"parquet", "pytorch"},
    code_version="1",
    description="Vectors of every passage by the base model, kept to compare the trained one with.",
    inputs=("passages",),
    reads=("embedding_model",),
    worker="ft_assets.retrieval.encode",
)
EMBEDDING_EVALUATION = AssetSpec(
    name="embedding_evaluation",
    group="retrieval",
    kinds={"parquet"},
    code_version="3",
    description="BM25, the base and the trained model on the test questions, by exact search: nDCG@10, recall and MRR.",
    inputs=("embedding_model", "passage_vectors", "base_vectors", "retrieval_splits", "passages"),
    reads=("retrieval_settings", "fusion_sweep"),
    enforces=("retrieval_splits", "embedding_model", "passage_vectors", "base_vectors", "fusion_sweep"),
    gates=(DATASET_GATES, EMBEDDING_GATES, GATES),
    worker="ft_assets.retrieval.compare_models",
)
QDRANT_COLLECTION = AssetSpec(
    name="qdrant_collection",
    group="retrieval",
    kinds={"qdrant"},
    code_version="2",
    description="A collection with both vectors of every passage, built next to the one that serves.",
    inputs=("passage_vectors", "passages"),
    reads=("retrieval_settings", "qdrant_settings"),
    enforces=("passage_vectors",),
    gates=(GATES,),
)
RETRIEVAL_EVALUATION = AssetSpec(
    name="retrieval_evaluation",
    group="retrieval",
    kinds={"qdrant", "parquet"},
    code_version="6",
    description="The candidate collection, queried through the engine as serving does, compared with the exact ranking "
    "and with what is live.",
    inputs=("qdrant_collection", "passage_vectors", "embedding_model", "passages", "retrieval_splits"),
    reads=("retrieval_settings", "fusion_sweep"),
    enforces=("retrieval_splits", "qdrant_collection", "fusion_sweep"),
    gates=(DATASET_GATES, GATES),
    worker="ft_assets.retrieval.evaluate",
)
FUSION_SWEEP = AssetSpec(
    name="fusion_sweep",
    group="retrieval",
    kinds={"parquet"},
    code_version="3",
    description="nDCG@10 of the validation questions over weights and methods, and the weights that `auto` serves.",
    inputs=("passage_vectors", "embedding_model", "passages", "retrieval_splits"),
    reads=("retrieval_settings",),
    enforces=("retrieval_splits", "passage_vectors"),
    gates=(DATASET_GATES, GATES),
    worker="ft_assets.retrieval.sweep",
)
RELEASED_COLLECTION = AssetSpec(
    name="released_collection",
    group="retrieval",
    kinds={"qdrant"},
    code_version="1",
    description="What serves: the alias names the candidate once every blocking check on its way has passed.",
    # All assets whose gates it enforces, so that `--upstream` brings them. And the engine's settings: a new engine
    # needs its alias, even if the collection's contents are the same.
    reads=(*GATED, "qdrant_settings"),
    enforces=tuple(GATED),
    gates=(EMBEDDING_GATES, GATES),
)
SPECS = [
    PASSAGE_VECTORS,
    BASE_VECTORS,
    EMBEDDING_EVALUATION,
    QDRANT_COLLECTION,
    RETRIEVAL_EVALUATION,
    FUSION_SWEEP,
    RELEASED_COLLECTION,
]
# settings of a training that change the vectors of the base model
_OF_THE_BASE = (
    "base_model", "revision", "pooling", "query_prompt", "passage_prompt", "query_max_tokens", "passage_max_tokens",
    "lexical_head", "matryoshka", "seed",
)  # fmt: skip


@PASSAGE_VECTORS.asset
def passage_vectors(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    PASSAGE_VECTORS.enforce(evidence_of(artifacts, qdrant))
    settings = settings_of(artifacts.store(), "retrieval")
    bm25 = None if settings.lexical == "learned" else bm25_settings(settings)
    factors = settings.lexical == "bm25_learned"
    values: dict[str, object] = {"bm25": msgspec.to_builtins(bm25)} if bm25 else {}
    recipe = PASSAGE_VECTORS.recipe(artifacts, {**values, "factors": True} if factors else values)
    params = EncodeJob(compute=compute_params(artifacts), bm25=bm25, factors=factors)
    return produce(artifacts, recipe, launch=PASSAGE_VECTORS.launch(context, launcher, params))


@BASE_VECTORS.asset
def base_vectors(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    base, version = _base_of(artifacts)
    masked = {"prompts": "masked"} if EmbeddingSettings.model_validate(base).masks_prompts else {}
    recipe = BASE_VECTORS.recipe(artifacts, {**base, "base_version": version, **masked})
    params = EncodeJob(compute=compute_params(artifacts), base=base)
    return produce(artifacts, recipe, launch=BASE_VECTORS.launch(context, launcher, params))


@EMBEDDING_EVALUATION.asset
def embedding_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    EMBEDDING_EVALUATION.enforce(evidence_of(artifacts, qdrant))
    settings = settings_of(artifacts.store(), "retrieval")
    (base, version), bm25, fusion = _base_of(artifacts), bm25_settings(settings), fusion_of(artifacts.store())
    values = {"base_version": version, "fusion": fusion}
    values |= {} if settings.lexical == "bm25" else {"bm25": bm25}
    recipe = EMBEDDING_EVALUATION.recipe(artifacts, msgspec.to_builtins(values))
    params = ModelComparisonJob(compute=compute_params(artifacts), base=base, bm25=bm25, fusion=fusion)
    return produce(
        artifacts, recipe, launch=EMBEDDING_EVALUATION.launch(context, launcher, params), metadata=describe_scores
    )


def _base_of(artifacts: ArtifactsResource) -> tuple[dict[str, Any], str]:
    """Return the settings that the model was trained with, as far as they make the base model, and the base's version.

    They may no longer be the current ones.
    """
    trained = artifacts.store().require("embedding_model").manifest.recipe.settings
    # a model of an earlier release has a head and no such setting
    base = {"lexical_head": True} | {name: trained[name] for name in _OF_THE_BASE if name in trained}
    return base, trained["base_version"]


@QDRANT_COLLECTION.asset
def qdrant_collection(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[object]:
    QDRANT_COLLECTION.enforce(evidence_of(artifacts, qdrant))
    store, engine = artifacts.store(), qdrant.engine()
    vectors, passages = store.require("passage_vectors"), store.require("passages")
    storage = storage_of(settings_of(store, "qdrant"))
    serving = serving_of(settings_of(store, "retrieval"), contract_of(vectors), storage)
    contract = contract_of(vectors).served(serving, None)
    name = collection_name(engine.alias, contract, points_version(vectors, passages))
    values = {**msgspec.to_builtins(serving), "engine": engine.address, "alias": engine.alias}
    inputs = {"passage_vectors": vectors.data_version, "passages": passages.data_version}
    recipe = QDRANT_COLLECTION.recipe_from(values, inputs)
    size = vectors.summary_as(VectorsSummary).passages
    if too_many := rules.local_engine_is_enough(QDRANT_COLLECTION.name, engine.kind, size):
        raise Refused(f"building {name}", too_many)
    # Always built, also when the artifact exists: the engine may have lost its folder. Free if the collection is whole.
    with engine.open() as client:
        built = build(client, name, contract, vectors, passages, progress=_report_points)
    cost = {"upserted": built.upserted, "copied": built.copied, "deleted": built.deleted}
    cost |= {"relabelled": built.relabelled} if built.relabelled else {}

    def compute(staging: Staging) -> dict[str, object]:
        described = CollectionFile(collection=name, contract=contract.to_json(), points=built.points)
        write_json(staging.path / COLLECTION_FILE, msgspec.to_builtins(described))
        return msgspec.to_builtins(CollectionSummary(points=built.points, collection=name, **cost))

    return produce(artifacts, recipe, compute=compute, metadata=lambda _: {**cost, **_describe_contract(contract)})


@RETRIEVAL_EVALUATION.asset
def retrieval_evaluation(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    RETRIEVAL_EVALUATION.enforce(evidence_of(artifacts, qdrant))
    store, releases = artifacts.store(), artifacts.releases()
    settings = settings_of(store, "retrieval")
    name, fusion = read_collection_file(store.require("qdrant_collection")).collection, served_fusion_of(store)
    params = RetrievalEvaluationJob(
        collection=name,
        fusion=fusion,
        evaluate_on=settings.evaluate_on,
        live=baseline(store, releases, name, fusion),
        must_compare=settings.tolerance < 1 and not serves(releases, name, fusion),
        bm25=bm25_settings(settings),
        rerank_batch_size=settings.rerank.batch_size if settings.rerank else 32,
        engine=qdrant.engine().params,
        compute=compute_params(artifacts),
    )
    values = {"collection": name, "fusion": fusion, "evaluate_on": params.evaluate_on, "live": params.live}
    values |= {} if settings.lexical == "bm25" else {"bm25": params.bm25}
    recipe = RETRIEVAL_EVALUATION.recipe(artifacts, msgspec.to_builtins(values))
    return produce(
        artifacts, recipe, launch=RETRIEVAL_EVALUATION.launch(context, launcher, params), metadata=describe_scores
    )


@FUSION_SWEEP.asset
def fusion_sweep(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    FUSION_SWEEP.enforce(evidence_of(artifacts, qdrant))
    store = artifacts.store()
    settings = settings_of(store, "retrieval")
    serving = serving_of(settings, contract_of(store.require("passage_vectors")))
    recipe = FUSION_SWEEP.recipe(artifacts, sweep_settings(settings, serving))
    params = SweepJob(
        fusion=configured_fusion(settings),
        auto=settings.fusion == "auto",
        serving=serving,
        nothing_found_share=settings.nothing_found_share,
        compute=compute_params(artifacts),
    )
    return produce(artifacts, recipe, launch=FUSION_SWEEP.launch(context, launcher, params), metadata=_describe_sweep)


@RELEASED_COLLECTION.asset
def released_collection(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[object]:
    store, releases, engine = artifacts.store(), artifacts.releases(), qdrant.engine()
    telemetry.emit(telemetry.Progress(asset=RELEASED_COLLECTION.name, kind="start"))
    with releases.exclusive("collection"):
        RELEASED_COLLECTION.enforce(evidence_of(artifacts, qdrant))
        before = releases.current("collection")
        release = release_collection(store, releases, engine)
        book = releases.book("collection")
        # read again: a run at the same time may have built another candidate since
        candidate = read_collection_file(store.require("qdrant_collection")).collection
        keep = settings_of(store, "retrieval").keep
        retired = retire_collections(engine, book, keep, candidate) if book else []
    reused = before is not None and before.version == release.version
    withheld = release.artifacts["retrieval_evaluation"] != store.require("retrieval_evaluation").recipe_id
    text = f"{engine.alias} -> {release.details['collection']}" + _describe_fusion(before, release)
    if withheld:
        text += "; candidate not released: it was rolled back earlier"
    telemetry.emit(telemetry.Progress(asset=RELEASED_COLLECTION.name, kind="reused" if reused else "made", text=text))
    figures = {
        "version": release.version,
        "reused": reused,
        "candidate_withheld": withheld,
        "retired": retired,
        **release.details,
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(release.version), metadata=as_metadata(figures))


def _describe_contract(contract: EmbeddingContract) -> dict[str, object]:
    """Return the contract as asset metadata, without its probes."""
    shown = {name: value for name, value in contract.to_json().items() if name != "probes"}
    return {"index_fp": contract.index_fp, "contract": shown}


def _report_points(done: int, total: int) -> None:
    text = f"points {done}/{total}"
    telemetry.emit(telemetry.Progress(asset=QDRANT_COLLECTION.name, kind="step", step=done, total=total, text=text))


def _describe_fusion(before: Release | None, release: Release) -> str:
    """Return what a release says of its fusion: what it was, what it is, and who chose it."""
    old, new = (_served(one) if one else "" for one in (before, release))
    chosen = release.details.get(CHOICE_KEY)
    who = f" ({chosen['by']}, {chosen['questions']} questions)" if chosen else ""
    return f"; fusion {old} -> {new}{who}" if old and old != new else f"; fusion {new}{who}"


def _served(release: Release) -> str:
    fusion = msgspec.convert(release.details["fusion"], Fusion)
    return label(fusion) + (f" ranked again by {fusion.rerank.model}" if fusion.rerank else "")


def _describe_sweep(artifact: Artifact) -> Mapping[str, object]:
    summary = artifact.summary_as(SweepSummary)
    means = summary.ndcg_at_10
    if not means:
        return {"advice": summary.advice}
    sums = weighted_sums(choice_of(artifact).fusion)
    curve = [(one.sparse_weight / (one.dense_weight + one.sparse_weight), means[label(one)]) for one in sums]
    line = Line("weighted sum", curve)
    return {
        "advice": summary.advice,
        "curve": line_image([line], "nDCG@10 by weights", x="share of the lexical arm", y="nDCG@10"),
        "methods": bar_table(dict(sorted(means.items(), key=lambda item: -item[1])), "fusion", "nDCG@10"),
    }


ASSETS = [
    passage_vectors,
    base_vectors,
    embedding_evaluation,
    qdrant_collection,
    retrieval_evaluation,
    fusion_sweep,
    released_collection,
]
