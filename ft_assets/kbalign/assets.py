"""Questions and answers made from the knowledge base: the author, what it asks, and what is verified of it.

The rows join after the split ledger, as training rows only: see `sft.generated`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from msgspec import to_builtins

from expectations.markdown import bar_table
from ft_assets.adapters.assets import train_model
from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.adapters.jobs import TrainedRef
from ft_assets.adapters.release import released_asset
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import KbalignSettings, SftSettings
from ft_assets.corpus.assets import table_of
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.datasets.held_out import INPUTS as HELD_OUT_INPUTS
from ft_assets.datasets.split import split_file
from ft_assets.datasets.summaries import SplitsSummary
from ft_assets.embedding.lexical import bm25_settings
from ft_assets.generation.jobs import VERIFIED, VerifiedSummary
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.produce import compute_params, generator_params, produce
from ft_assets.graph.quarantine import QUARANTINE, quarantine_table
from ft_assets.kbalign.checks import GATES
from ft_assets.kbalign.jobs import (
    AUTHOR,
    GENERATED_FILE,
    LONG,
    RECORDS,
    RECORDS_FILE,
    SHORT,
    SPLITS,
    Dependency,
    GenerateParams,
    GenerateSummary,
    MergeSummary,
    VerifyParams,
)
from ft_assets.kbalign.merge import write_records
from ft_assets.kbalign.pages import coverage, funnel, show_samples
from ft_assets.kbalign.turn_round import write_turned
from ft_assets.retrieval.served_checks import GATES as SERVED_GATES
from resources.artifacts import Artifact, ArtifactStore, Staging
from resources.asker import identify
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

_COLLECTION = "released_collection"
_WORK = f"making {VERIFIED}"
_AUTHOR_BATCH = 8
"""Rows of a step of the author."""
_OF_SFT = {"base_model", "revision", "lora", "learning_rate", "max_length", "too_long", "optimizer", "seed", "oom",
           "gradient_checkpointing", "activation_offloading", "eval_steps", "save_steps", "logging_steps"}  # fmt: skip
"""The keys of `sft` that the author's training takes."""

_SPLITS = AssetSpec(
    name=SPLITS,
    group="kbalign",
    kinds={"parquet"},
    code_version="2",
    description="The hand-written rows turned round, to learn to ask: passage and answer -> question; and as they are, "
    "to learn to answer from one passage.",
    inputs=("instruction_splits", "passages"),
    enforces=("instruction_splits", "passages"),
    gates=(DATASET_GATES, CORPUS_GATES),
)
_AUTHOR = AssetSpec(
    name=AUTHOR,
    group="kbalign",
    kinds={"huggingface", "pytorch"},
    code_version="1",
    description="An adapter that asks questions about passages, and answers them. Trained on hand-written training "
    "rows only.",
    inputs=(SPLITS,),
    reads=("kbalign_settings", "sft_settings", "answer_settings"),
    enforces=(SPLITS,),
    gates=(GATES,),
    worker="ft_assets.adapters.train",
)


def _asking(dependency: Dependency, description: str) -> AssetSpec:
    return AssetSpec(
        name=f"kbalign_{dependency}",
        group="kbalign",
        kinds={"huggingface", "parquet"},
        code_version="1",
        description=f"{description} Nothing is asked about held-out documents.",
        inputs=(*HELD_OUT_INPUTS, "glossary", SPLITS, AUTHOR),
        reads=("kbalign_settings", "dataset_settings"),
        enforces=("passages", "split_ledger", SPLITS, AUTHOR),
        gates=(CORPUS_GATES, DATASET_GATES, GATES),
        worker="ft_assets.kbalign.generate",
    )


_ASKING = {
    "short": _asking("short", "Questions about single passages, each made for an answer in its passage."),
    "long": _asking("long", "Questions about two passages of a document, each made for an answer in the first one."),
}
_RECORDS = AssetSpec(
    name=RECORDS,
    group="kbalign",
    kinds={"parquet"},
    code_version="1",
    description="The generated questions, each once, without those that a person has written already in any split.",
    inputs=(SHORT, LONG, *(name for name in HELD_OUT_INPUTS if name.endswith("_records"))),
    reads=("kbalign_settings", "dataset_settings"),
    enforces=(SHORT, LONG),
    gates=(GATES,),
)
_VERIFIED = AssetSpec(
    name=VERIFIED,
    group="kbalign",
    kinds={"huggingface", "qdrant", "parquet"},
    code_version="2",
    description="The questions that a judge answers alike from the passage, that the released retriever finds the "
    "passage for, and that are apart from all held-out data.",
    inputs=(
        RECORDS,
        SHORT,
        LONG,
        *HELD_OUT_INPUTS,
        "instruction_splits",
        "preference_splits",
        AUTHOR,
        _COLLECTION,
    ),
    reads=("kbalign_settings", "dataset_settings", "answer_settings", "retrieval_settings"),
    enforces=(RECORDS, "instruction_splits", AUTHOR, _COLLECTION),
    gates=(GATES, DATASET_GATES, SERVED_GATES, ADAPTER_GATES),
    worker="ft_assets.kbalign.verify",
)
SPECS = [_SPLITS, _AUTHOR, *_ASKING.values(), _RECORDS, _VERIFIED]

_ALWAYS = {"author", "max_passages", "max_tries", "target", "temperature", "top_p", "max_new_tokens", "seed"}
_ASKED_BY = {
    "short": _ALWAYS | {"short_per_passage"},
    "long": _ALWAYS | {"long_per_document"},
}
"""The keys of `kbalign` that decide the questions."""
_JUDGED_BY = {"judge", "max_new_tokens", "agree_f1", "found_in_top", "closed_book", "max_cloze_share"}
"""The keys of `kbalign` that decide what is verified."""


@_SPLITS.asset
def kbalign_splits(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _SPLITS.enforce(evidence_of(artifacts, qdrant))

    def compute(staging: Staging) -> Mapping[str, object]:
        splits = store.require("instruction_splits")
        configured = splits.summary_as(SplitsSummary).configured
        return to_builtins(write_turned(splits, store.require("passages"), staging.path, configured=configured))

    return produce(artifacts, _SPLITS.recipe(artifacts, {}), compute=compute)


@_AUTHOR.asset
def kbalign_author(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _AUTHOR.enforce(evidence_of(artifacts, qdrant))
    settings = author_settings(settings_of(store, "sft"), settings_of(store, "kbalign"))
    # it learns to answer at once: a model that reasons first would need its tokens for that
    return train_model(context, artifacts, launcher, _AUTHOR, settings=settings, inputs=(SPLITS,), thinking="strip")


def author_settings(sft: SftSettings, kbalign: KbalignSettings) -> SftSettings:
    """Return the settings of the author's training: the model, the adapter and the limits of `sft`, and its own length.

    The rest of `sft` is left at its defaults, so that tuning SFT does not train the author again, which asks all again.
    """
    values = sft.model_dump(mode="json", include=_OF_SFT) | {
        "method": "lora" if sft.method == "full" else sft.method,
        "max_steps": kbalign.author_steps,
        "global_batch_size": _AUTHOR_BATCH,
        "max_empty_thinking_share": 1.0,
    }
    if sft.method == "full":  # its rate is for all weights
        del values["learning_rate"]
    return SftSettings.model_validate(values)


def _asking_asset(dependency: Dependency) -> dg.AssetsDefinition:
    spec = _ASKING[dependency]

    @spec.asset
    def generated(
        context: dg.AssetExecutionContext,
        artifacts: ArtifactsResource,
        qdrant: QdrantResource,
        launcher: LauncherResource,
    ) -> dg.MaterializeResult[Any]:
        store = artifacts.store()
        settings, split = settings_of(store, "kbalign"), settings_of(store, "datasets").split
        made_by = AUTHOR if settings.author == "tuned" else SPLITS
        spec.enforce(evidence_of(artifacts, qdrant), ["passages", "split_ledger", made_by])
        generator = generator_params(artifacts)
        material: dict[str, object] = {
            "kbalign": settings.model_dump(mode="json", include=_ASKED_BY[dependency]),
            "group_by": split.group_by,
            "generator": identify(generator, artifacts.state()).digest,
        }
        if settings.author == "prompted":
            material["few_shot"] = settings.few_shot
        if dependency == "short":
            material["cloze"] = settings.max_cloze_share > 0
        params = GenerateParams(
            settings=settings.model_dump(mode="json"),
            split=split.model_dump(mode="json"),
            generator=generator,
            compute=compute_params(artifacts),
            dependency=dependency,
        )
        recipe = spec.recipe(artifacts, material, (*HELD_OUT_INPUTS, "glossary", made_by))
        return produce(artifacts, recipe, launch=spec.launch(context, launcher, params), metadata=_show_generated)

    return generated


@_RECORDS.asset
def kbalign_records(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _RECORDS.enforce(evidence_of(artifacts, qdrant))
    near_duplicate = settings_of(store, "datasets").split.near_duplicate
    share = settings_of(store, "kbalign").references_share

    def compute(staging: Staging) -> Mapping[str, object]:
        summary = write_records(store.require, staging.path, near_duplicate=near_duplicate, references_share=share)
        return to_builtins(summary)

    recipe = _RECORDS.recipe(artifacts, {"near_duplicate": near_duplicate, "references_share": share})
    return produce(artifacts, recipe, compute=compute, metadata=_show_records)


@_VERIFIED.asset
def kbalign_verified(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[Any]:
    store, evidence = artifacts.store(), evidence_of(artifacts, qdrant)
    settings, answers = settings_of(store, "kbalign"), settings_of(store, "answers")
    split, retrieval = settings_of(store, "datasets").split, settings_of(store, "retrieval")
    searched = [_COLLECTION] if _VERIFIED.has(context, _COLLECTION) else []
    judged_by = [AUTHOR] if settings.judge == "author" else []
    # not upstream, which would close a cycle: an adapter trained on these rows may be released
    released = ["released_adapter"] if settings.judge == "released" else []
    _VERIFIED.enforce(evidence, [RECORDS, "instruction_splits", *judged_by, *released, *searched])
    generator, judge = generator_params(artifacts), _find_judge(artifacts, settings)
    made = [name for name in _VERIFIED.inputs if name not in {_COLLECTION, AUTHOR}]
    versions = {name: store.require(name).data_version for name in (*made, *judged_by)}
    if searched:
        versions[_COLLECTION] = artifacts.releases().require("collection", _WORK, "FT-ANS-004").version
    material: dict[str, object] = {
        "kbalign": settings.model_dump(mode="json", include=_JUDGED_BY),
        "answers": answers.model_dump(mode="json", include={"system", "prompt", "passage_separator", "top_k"}),
        "split": split.model_dump(mode="json", include={"group_by", "contamination", "templates"}),
        "generator": identify(generator, artifacts.state()).digest,
        "judge": to_builtins(judge),
        "bm25": None if searched else to_builtins(bm25_settings(retrieval)),
    }
    params = VerifyParams(
        settings=settings.model_dump(mode="json"),
        split=split.model_dump(mode="json"),
        generator=generator,
        compute=compute_params(artifacts),
        answers=answers.model_dump(mode="json"),
        judge=judge,
        engine=evidence.qdrant.params if searched else None,
        bm25=bm25_settings(retrieval),
    )
    recipe = _VERIFIED.recipe_from(material, versions)
    launch = _VERIFIED.launch(context, launcher, params)
    return produce(artifacts, recipe, launch=launch, metadata=lambda artifact: _show_verified(artifact, store))


def _find_judge(artifacts: ArtifactsResource, settings: KbalignSettings) -> TrainedRef | None:
    """Return the adapter that judges; None for the generator as it is."""
    if settings.judge == "author":
        return TrainedRef(asset=AUTHOR, recipe_id=artifacts.store().require(AUTHOR).recipe_id)
    if settings.judge == "generator":
        return None
    release = artifacts.releases().require("adapter", _WORK, "FT-ANS-004")
    asset = released_asset(release)
    return TrainedRef(asset=asset, recipe_id=release.artifacts[asset])


def _show_generated(artifact: Artifact) -> Mapping[str, object]:
    summary = artifact.summary_as(GenerateSummary)
    return {
        "dagster/row_count": summary.kept,
        **table_of(artifact.file(GENERATED_FILE)),
        "funnel": bar_table({"candidates": summary.candidates, "kept": summary.kept}, "step", "questions"),
        "quarantined_by_code": bar_table(summary.codes, "code", "candidates"),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }


def _show_records(artifact: Artifact) -> Mapping[str, object]:
    return {
        "dagster/row_count": artifact.summary_as(MergeSummary).kept,
        **table_of(artifact.file(RECORDS_FILE)),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }


def _show_verified(artifact: Artifact, store: ArtifactStore) -> Mapping[str, object]:
    summary = artifact.summary_as(VerifiedSummary)
    before = [store.require(name).summary_as(GenerateSummary) for name in (SHORT, LONG)]
    merged = store.require(RECORDS).summary_as(MergeSummary)
    passages = store.require("passages")
    return {
        "dagster/row_count": summary.train,
        **table_of(artifact.file(split_file("train"))),
        "funnel": bar_table(funnel(before, merged, summary), "after the step", "candidates left"),
        "quarantined_by_code": bar_table(summary.codes, "code"),
        "samples": show_samples(artifact, passages),
        "passages_with_rows": coverage(artifact),
        "passages_asked": max(each.asked for each in before),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }


ASSETS: list[Any] = [
    kbalign_splits,
    kbalign_author,
    _asking_asset("short"),
    _asking_asset("long"),
    kbalign_records,
    kbalign_verified,
]
