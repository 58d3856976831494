"""Rankings of the same questions by two systems: paired intervals of each metric, questions won and lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import msgspec

from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from ft_assets.embedding.scores import SCORES_FILE
from ft_assets.web.answers import Score, describe_difference, records_of
from ft_assets.web.differences import find_differences, flatten
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_rows

ENCODER = "embedding_model"
_BASE, _TRAINED = "base", "trained"  # the systems of an `embedding_evaluation`
_DECISIVE = "ndcg_at_10"
_CONDITIONS = ("passages", "retrieval_splits")


class Metric(NamedTuple):
    """A column of scores.parquet, of one arm."""

    arm: str
    column: str
    title: str


OF_RELEASES = (Metric("fused", _DECISIVE, "nDCG@10"), Metric("fused", "recall_at_10", "Recall@10"))
_OF_ENCODERS = (Metric("fused", _DECISIVE, "nDCG@10, fused"), Metric("dense", _DECISIVE, "nDCG@10, dense"))


class RankedSide(NamedTuple):
    """A system of an evaluation."""

    label: str
    evaluation: Artifact
    system: str


class RankingScore(Score, frozen=True, kw_only=True):
    """One metric of both sides on the questions that both ranked."""

    verdict: str


class RankedQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question that two systems rank differently."""

    query_id: str
    query: str
    before: float
    after: float


class RankingComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two systems on the held-out questions that both ranked. Questions are won and lost by the first metric."""

    before: str
    after: str
    scores: list[RankingScore]
    won: list[RankedQuestion]
    lost: list[RankedQuestion]
    equal: int
    note: str = ""
    """A reason to trust the figures less."""


def compare_rankings(
    store: ArtifactStore, before: RankedSide, after: RankedSide, metrics: Sequence[Metric], note: str = ""
) -> RankingComparison | None:
    """Return two systems on the questions that both ranked; None where there are none."""
    left, right = _values(before, metrics), _values(after, metrics)
    scores: list[RankingScore] = []
    for metric in metrics:
        shared = [query for query in left[metric] if query in right[metric]]
        if shared:
            values, others = ([side[metric][query] for query in shared] for side in (left, right))
            difference = paired_bootstrap(others, values)
            score = RankingScore(
                title=metric.title,
                before=bootstrap(values),
                after=bootstrap(others),
                difference=difference,
                verdict=describe_difference(difference, after.label, before.label, metric.title),
            )
            scores.append(score)
    decisive = metrics[0]
    shared = [query for query in left[decisive] if query in right[decisive]]
    if not shared:
        return None
    records = records_of(store, after.evaluation)
    rows = [
        RankedQuestion(
            query_id=query,
            query=str(records.get(query, {}).get("query", query)),
            before=left[decisive][query],
            after=right[decisive][query],
        )
        for query in shared
    ]
    lost = sorted((row for row in rows if row.after < row.before), key=lambda row: row.after - row.before)
    won = sorted((row for row in rows if row.after > row.before), key=lambda row: row.before - row.after)
    return RankingComparison(
        before=before.label,
        after=after.label,
        scores=scores,
        won=won,
        lost=lost,
        equal=len(rows) - len(won) - len(lost),
        note=note,
    )


def compare_encoders(
    store: ArtifactStore, before: tuple[str, Artifact], after: tuple[str, Artifact]
) -> RankingComparison | None:
    """Return two trained encoders (label, model) by their newest evaluations that agree; None where one has none."""
    older, newer = evaluations_of(store, before[1]), evaluations_of(store, after[1])
    pairs = list(product(older, newer))
    if not pairs:
        return None
    left, right = next((pair for pair in pairs if not _conditions(pair)), pairs[0])
    note = ""
    if others := _conditions((left, right)):
        note = (
            f"They were not evaluated alike ({', '.join(others)}): not all of the difference is that of the encoders."
        )
    sides = RankedSide(before[0], left, _TRAINED), RankedSide(after[0], right, _TRAINED)
    return compare_rankings(store, *sides, _OF_ENCODERS, note)


def compare_with_base(store: ArtifactStore, label: str, model: Artifact) -> RankingComparison | None:
    """Return the base model and the encoder trained from it, by its newest evaluation; None where there is none."""
    evaluation = next(iter(evaluations_of(store, model)), None)
    if evaluation is None:
        return None
    sides = RankedSide("base model", evaluation, _BASE), RankedSide(label, evaluation, _TRAINED)
    return compare_rankings(store, *sides, _OF_ENCODERS)


def evaluations_of(store: ArtifactStore, model: Artifact) -> list[Artifact]:
    """Return every evaluation of an encoder, newest first."""
    return [
        evaluation
        for evaluation in store.versions("embedding_evaluation")
        if evaluation.manifest.recipe.inputs.get(ENCODER) == model.data_version
    ]


def _conditions(evaluations: Iterable[Artifact]) -> list[str]:
    """Return the names of data and settings in which evaluations differ, other than by their encoders."""
    columns: list[dict[str, str]] = []
    for evaluation in evaluations:
        recipe = evaluation.manifest.recipe
        inputs = {name: recipe.inputs.get(name, "") for name in _CONDITIONS}
        columns.append(inputs | flatten({k: v for k, v in recipe.settings.items() if k != "base_version"}))
    return [one.name for one in find_differences(columns)]


def _values(side: RankedSide, metrics: Sequence[Metric]) -> dict[Metric, dict[str, float]]:
    """Return the value of each question, by metric."""
    columns = ["query_id", "system", "arm", *dict.fromkeys(metric.column for metric in metrics)]
    found: dict[Metric, dict[str, float]] = {metric: {} for metric in metrics}
    for row in read_rows(side.evaluation.file(SCORES_FILE), columns):
        for metric in metrics:
            if row["system"] == side.system and row["arm"] == metric.arm:
                found[metric][row["query_id"]] = float(row[metric.column])
    return found
