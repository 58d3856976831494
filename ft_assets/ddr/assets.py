"""DDR: several answers of a model to each training question, and the pairs for DPO that they make."""

from collections.abc import Mapping
from itertools import islice

import dagster as dg
import msgspec

from expectations.markdown import bar_table, histogram_table, markdown_cell, markdown_table
from expectations.violations import Refused, violation
from ft_assets.adapters.checks import GATES as ADAPTER_GATES
from ft_assets.adapters.prompt import prompt_of
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.checks import GATES as CORPUS_GATES
from ft_assets.datasets.checks import GATES as DATASET_GATES
from ft_assets.datasets.held_out import INPUTS as SPLIT_INPUTS
from ft_assets.ddr.answering import DPO, SFT, find_answering
from ft_assets.ddr.checks import GATES
from ft_assets.ddr.jobs import CandidatesSummary, SampleParams
from ft_assets.ddr.make_pairs import PairMaker, read_asked, rules_of
from ft_assets.ddr.plan import asked_parts
from ft_assets.embedding.lexical import bm25_settings
from ft_assets.generation.jobs import CANDIDATES, PAIRS, PairsSummary
from ft_assets.generation.pairs import read_pairs
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.produce import compute_params, generator_params, produce
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.retrieval.served_checks import GATES as SERVED_GATES
from resources.artifacts import Artifact, ArtifactStore, Staging
from resources.asker import identify
from resources.dagster_resources import ArtifactsResource, LauncherResource, QdrantResource

_COLLECTION = "released_collection"
_SAMPLES, _CELL = 8, 160
_OF_THE_ANSWERS = {"round", "held_out_passages"}
"""Settings of pairs that were decided when the answers were made: config.yaml may be ahead of them."""
DDR_CANDIDATES = AssetSpec(
    name=CANDIDATES,
    group="ddr",
    kinds={"huggingface", "parquet"},
    code_version="1",
    description="Answers of a model to training questions, with retrieved passages and without, at several "
    "temperatures, each with its scores.",
    inputs=("instruction_splits", *SPLIT_INPUTS, SFT, _COLLECTION),
    pinned=(DPO,),
    reads=("ddr_settings", "dataset_settings", "answer_settings", "retrieval_settings"),
    enforces=("instruction_splits", "passages", SFT, _COLLECTION),
    gates=(CORPUS_GATES, DATASET_GATES, ADAPTER_GATES, SERVED_GATES),
    worker="ft_assets.ddr.sample",
)
DDR_PREFERENCES = AssetSpec(
    name=PAIRS,
    group="ddr",
    kinds={"parquet"},
    code_version="1",
    description="Pairs for DPO: a right answer of the model over the wrong one that it gives most often. Questions "
    "without a pair are quarantined with their answers and scores.",
    inputs=(CANDIDATES, *SPLIT_INPUTS),
    reads=("ddr_settings", "dataset_settings"),
    enforces=(CANDIDATES,),
    gates=(GATES,),
)
SPECS = [DDR_CANDIDATES, DDR_PREFERENCES]


@DDR_CANDIDATES.asset
def ddr_candidates(
    context: dg.AssetExecutionContext, artifacts: ArtifactsResource, qdrant: QdrantResource, launcher: LauncherResource
) -> dg.MaterializeResult[object]:
    store, evidence = artifacts.store(), evidence_of(artifacts, qdrant)
    settings, datasets = settings_of(store, "ddr"), settings_of(store, "datasets")
    enforced = [name for name in DDR_CANDIDATES.enforces if DDR_CANDIDATES.has(context, name)]
    # not upstream, which would close a cycle: an adapter of these answers may be released
    DDR_CANDIDATES.enforce(evidence, [*enforced, *(["released_adapter"] if settings.asks_released else [])])
    answers, generator = settings_of(store, "answers"), generator_params(artifacts)
    prompt = prompt_of(answers)
    answering = find_answering(store, artifacts.releases(), settings, generator, prompt)
    params = SampleParams(
        settings=settings.model_dump(mode="json"),
        split=datasets.split.model_dump(mode="json"),
        top_k=settings.top_k or answers.top_k,
        max_new_tokens=settings.max_new_tokens or answers.max_new_tokens,
        parts=asked_parts(datasets),
        prompt=prompt,
        answering=answering.asset if answering else "",
        engine=evidence.qdrant.params if DDR_CANDIDATES.has(context, _COLLECTION) else None,
        bm25=bm25_settings(settings_of(store, "retrieval")),
        generator=generator,
        compute=compute_params(artifacts),
    )
    versions = {name: store.require(name).data_version for name in ("instruction_splits", *SPLIT_INPUTS)}
    if answering:
        versions[answering.asset] = answering.data_version
    if params.engine:
        versions[_COLLECTION] = artifacts.releases().require("collection", CANDIDATES, "FT-DDR-022").version
    material: dict[str, object] = {
        **settings.model_dump(
            mode="json",
            include={*_OF_THE_ANSWERS, "temperatures", "samples", "top_p", "seed", "max_questions"},
        ),
        "top_k": params.top_k,
        "max_new_tokens": params.max_new_tokens,
        "parts": params.parts,
        "prompt": msgspec.to_builtins(prompt),
        "group_by": datasets.split.group_by,
        "bm25": None if params.engine else msgspec.to_builtins(params.bm25),
        "generator": identify(generator, artifacts.state()).digest,
    }
    recipe = DDR_CANDIDATES.recipe_from(material, versions)
    return produce(
        artifacts, recipe, launch=DDR_CANDIDATES.launch(context, launcher, params), metadata=_show_candidates
    )


@DDR_PREFERENCES.asset
def ddr_preferences(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[object]:
    DDR_PREFERENCES.enforce(evidence_of(artifacts, qdrant))
    store = artifacts.store()
    versions = {name: store.require(name).data_version for name in DDR_PREFERENCES.inputs}
    candidates, split = store.require(CANDIDATES), settings_of(store, "datasets").split
    asked = {name: candidates.manifest.recipe.settings[name] for name in _OF_THE_ANSWERS}
    settings = settings_of(store, "ddr").model_copy(update=asked)
    material: dict[str, object] = {
        "rules": msgspec.to_builtins(rules_of(settings)),
        **settings.model_dump(mode="json", include={*_OF_THE_ANSWERS, "reward"}),
        "contamination": [split.contamination, *split.templates],
    }
    earlier = _earlier_pairs(store, candidates) if settings.round > 1 else None
    versions |= {PAIRS: earlier.data_version} if earlier else {}

    def compute(staging: Staging) -> dict[str, object]:
        return msgspec.to_builtins(PairMaker(store, candidates, settings, split, earlier).write(staging.path))

    recipe = DDR_PREFERENCES.recipe_from(material, versions)
    return produce(artifacts, recipe, compute=compute, metadata=_show_pairs)


ASSETS = [ddr_candidates, ddr_preferences]


def _earlier_pairs(store: ArtifactStore, candidates: Artifact) -> Artifact | None:
    """Return the pairs that the adapter of the round before was trained on; None if it was trained on others.

    Raises Refused (FT-ART-004) if the adapter or its pairs are not in the store.
    """
    version = _find_version(store, DPO, candidates.manifest.recipe.inputs[DPO]).manifest.recipe.inputs.get(PAIRS)
    return None if version is None else _find_version(store, PAIRS, version)


def _find_version(store: ArtifactStore, asset: str, version: str) -> Artifact:
    found = store.find_version(asset, version)
    if found is None:
        gone = violation("FT-ART-004", where=asset, field="data version", expected=version)
        raise Refused("the pairs of the round before", [gone])
    return found


def _show_candidates(artifact: Artifact) -> Mapping[str, str]:
    """Return the tables of the page: scores by temperature, with passages and without, and all answers to a few
    questions."""
    summary = artifact.summary_as(CandidatesSummary)
    rewards = [
        [
            "with" if one.with_passages else "without", f"{one.temperature:g}", str(one.answers),
            *(f"{value:.3f}" for value in (one.exact_match, one.f1, one.rouge_l)),
        ]
        for one in summary.rewards
    ]  # fmt: skip
    answers: list[list[str]] = []
    for asked in islice(read_asked(artifact), _SAMPLES):
        given = "; ".join(f"{one.answer} ({one.f1:.2g})" for one in asked.answers)
        answers.append(
            [
                markdown_cell(asked.question.question, _CELL),
                markdown_cell(asked.question.gold, _CELL),
                markdown_cell(given, 3 * _CELL),
            ]
        )
    return {
        "rewards": markdown_table(["passages", "temperature", "answers", "exact match", "F1", "ROUGE-L"], rewards),
        "kept_out": bar_table(summary.codes, "kept out of pairs", "answers"),
        "samples": markdown_table(["question", "right answer", "answers (F1)"], answers),
    }


def _show_pairs(artifact: Artifact) -> Mapping[str, str]:
    """Return the plots and tables of the page: what became of the questions, margins, pairs, and questions without."""
    summary = artifact.summary_as(PairsSummary)
    pairs = [
        [markdown_cell(text, _CELL) for text in (row.question, row.gold, row.chosen_answer, row.rejected_answer)]
        + [f"{row.chosen_score:.2g} / {row.rejected_score:.2g}"]
        for row in read_pairs(artifact, "train")[:_SAMPLES]
    ]
    without = [
        [one.code, markdown_cell(one.reason, _CELL), markdown_cell(one.raw, 3 * _CELL)]
        for one in islice(read_quarantine(artifact.file(QUARANTINE)), _SAMPLES)
    ]
    outcome = {"pair": summary.train, "validation pair": summary.validation, **summary.codes}
    return {
        "outcome": bar_table({name: count for name, count in outcome.items() if count}, "outcome", "questions"),
        "margins_plot": histogram_table(summary.margins, 0, 1, "margin", "pairs"),
        "pairs": markdown_table(["question", "right answer", "chosen", "rejected", "scores"], pairs),
        "without_pair": markdown_table(["code", "reason", "answers"], without),
    }
