"""The fusion that serves next: the configured one, or the weights that the validation questions choose.

The choice is the middle of the best weights over many draws of the questions, not the best weight on all of them: on
20 to 100 questions that one is often the best by chance (measured by benchmarks/fusion.py).
"""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from expectations.contracts.embedding import Fusion, Serving
from expectations.violations import Refused, violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import RetrievalSettings
from ft_assets.retrieval.jobs import ScoreFloor
from ft_assets.retrieval.rerank import rerank_of
from resources.artifacts import Artifact, ArtifactStore

CHOICE_FILE = "fusion.json"
SWEEP = "fusion_sweep"
SPARSE_TO_DENSE = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Ratios of the weights; the lexical arm alone comes after them. The larger weight is 1, as consumers limit both."""
LEAST_QUESTIONS = 5
_DRAWS = 200


class FusionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Content of fusion.json: the fusion that serves next, who chose it, and why."""

    by: Literal["config", "auto"]
    fusion: Fusion
    questions: int
    """Validation questions that it was chosen on."""
    reason: str
    floor: ScoreFloor | None = None
    """Below it a search says that nothing was found; None where the questions give none."""


def configured_fusion(settings: RetrievalSettings) -> Fusion:
    """Return the fusion that the settings name; for `auto` the weights that count until questions choose others."""
    return Fusion(
        fusion="weighted_sum" if settings.fusion == "auto" else settings.fusion,
        dense_weight=settings.dense_weight,
        sparse_weight=settings.sparse_weight,
        prefetch_limit=settings.prefetch_limit,
    )


def sweep_settings(settings: RetrievalSettings, serving: Serving) -> dict[str, Any]:
    """Return the settings that a sweep depends on, as its recipe holds them."""
    values = {
        "fusion": configured_fusion(settings),
        "auto": settings.fusion == "auto",
        "serving": serving,
        "nothing_found_share": settings.nothing_found_share,
    }
    return msgspec.to_builtins(values)


def served_fusion_of(store: ArtifactStore) -> Fusion:
    """Return the fusion that is evaluated and served next, with the rerank model that the settings name.

    Raises Refused as `fusion_of` and `rerank_of` do.
    """
    rerank = rerank_of(settings_of(store, "retrieval").rerank, store.root.parent)
    return msgspec.structs.replace(fusion_of(store), rerank=rerank)


def fusion_of(store: ArtifactStore) -> Fusion:
    """Return the fusion of the two arms that is evaluated and served next, before any rerank model.

    Raises Refused (FT-RET-014) if it is chosen by `fusion_sweep`, and that has made no choice yet.
    """
    settings = settings_of(store, "retrieval")
    return choice_of(store.require(SWEEP)).fusion if settings.fusion == "auto" else configured_fusion(settings)


def choice_of(sweep: Artifact) -> FusionChoice:
    """Return the choice in a `fusion_sweep` artifact. Raises Refused (FT-RET-014) if an earlier version made it."""
    if CHOICE_FILE not in sweep.manifest.files:
        none = violation("FT-RET-014", where=SWEEP, field="choice", found="none", expected=CHOICE_FILE)
        raise Refused("choosing the fusion", [none])
    return msgspec.convert(sweep.json(CHOICE_FILE), FusionChoice)


def label(fusion: Fusion) -> str:
    """Return the name of a fusion in the sweep: its method, or the weights of a weighted sum."""
    if fusion.fusion != "weighted_sum":
        return fusion.fusion
    return f"{fusion.dense_weight} / {fusion.sparse_weight:g}"


def weighted_sums(configured: Fusion) -> list[Fusion]:
    """Return the weighted sums to choose from, from the dense arm alone to the lexical arm alone."""
    change = partial(msgspec.structs.replace, configured, fusion="weighted_sum")
    mixed = [
        change(dense_weight=round(1 / max(ratio, 1), 4), sparse_weight=min(ratio, 1.0)) for ratio in SPARSE_TO_DENSE
    ]
    return [*mixed, change(dense_weight=0.0, sparse_weight=1.0)]


def choose(configured: Fusion, results: Mapping[str, Sequence[float]], questions: int) -> FusionChoice:
    """Return the weighted sum to serve. `results`: nDCG@10 of every question for each fusion, by its label."""
    kept = partial(FusionChoice, by="auto", questions=questions)
    if questions < LEAST_QUESTIONS:
        few = f"{label(configured)} as configured: {questions} validation questions are too few to choose"
        return kept(fusion=configured, reason=f"{few} (at least {LEAST_QUESTIONS})")
    fusions = weighted_sums(configured)
    scores = np.asarray([results[label(fusion)] for fusion in fusions])
    chosen = fusions[middle_of_best(scores)]
    means = {name: sum(results[name]) / questions for name in map(label, (chosen, configured, fusions[0], fusions[-1]))}
    names = {label(fusions[0]): "dense alone", label(fusions[-1]): "lexical alone"}
    figures = ", ".join(f"{names.get(name, name)} {mean:.4f}" for name, mean in means.items())
    reason = (
        f"{label(chosen)} is the middle of the best weights over {_DRAWS} draws of {questions} validation questions"
    )
    ends = {fusions[0]: ", so the lexical arm does not count", fusions[-1]: ", so the dense arm does not count"}
    return kept(fusion=chosen, reason=f"{reason}{ends.get(chosen, '')}; nDCG@10: {figures}")


def middle_of_best(scores: np.ndarray) -> int:
    """Return the row of `scores` [weights, questions] that is the mean of the best rows of many draws of the questions.

    A row counts with the one before and the one after it, so that no single lucky weight is best. Of equal rows the
    middle one counts: where a wide range of weights is best, its edges are the uncertain part.
    """
    questions = scores.shape[1]
    draws = np.random.default_rng(0).multinomial(questions, np.full(questions, 1 / questions), size=_DRAWS)
    means = np.pad(scores @ draws.T / questions, ((1, 1), (0, 0)), mode="edge")
    smooth = (means[:-2] + means[1:-1] + means[2:]) / 3
    best = smooth >= smooth.max(axis=0) - 1e-9
    positions = (np.arange(len(scores))[:, None] * best).sum(axis=0) / best.sum(axis=0)
    return int(np.floor(positions.mean() + 0.5))
