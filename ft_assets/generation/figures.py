"""The figures of `kbalign_verified` from its files: its gate compares them with the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from expectations.rules.answer_scores import units
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import TRIALS_FILE, TrialRow
from ft_assets.graph.quarantine import count_quarantined
from resources.artifacts import Artifact, ArtifactStore
from resources.parquet import read_columns, read_rows


def reliability_of(trials: Iterable[TrialRow]) -> dict[str, int | float]:
    """Return the shares of right and of wrong answers that the judge accepts, by the names of the summary."""
    right, wrong = [0, 0], [0, 0]
    for one in trials:
        tried = right if one.is_right else wrong
        tried[0] += 1
        tried[1] += one.accepted
    return {
        "judge_right": right[0],
        "judge_wrong": wrong[0],
        "judge_recall": _share(right),
        "judge_false_accept": _share(wrong),
    }


def _share(tried: Sequence[int]) -> float:
    total, accepted = tried
    return round(accepted / total, 4) if total else 0.0


def median_units(answers: Sequence[str]) -> float:
    """Return the median length of answers, in words and Chinese characters; 0 without any."""
    return float(median(len(units(answer)) for answer in answers)) if answers else 0.0


def figures_of_verified(store: ArtifactStore, verified: Artifact) -> dict[str, object]:
    """Return the counts of rows, the length of their answers, and the figures of the judge."""
    rows = read_columns(verified.file(split_file("train")), ["answer", "closed_book"])
    trials = (TrialRow(**row) for row in read_rows(verified.file(TRIALS_FILE)))
    figures: dict[str, object] = {
        "train": len(rows["answer"]),
        "quarantined": count_quarantined(verified),
        "closed_book": sum(rows["closed_book"]),
        "answer_units": median_units(rows["answer"]),
        **reliability_of(trials),
    }
    written = store.find_version("instruction_splits", verified.manifest.recipe.inputs["instruction_splits"])
    if written:  # else it was deleted, and the gate of the lineage decides
        answers = read_columns(written.file(split_file("train")), ["answer"])["answer"]
        figures["hand_written_units"] = median_units(answers)
    return figures
