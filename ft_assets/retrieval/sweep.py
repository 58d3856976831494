"""The ranking of the validation questions under many weights and fusion methods, and the choice that `auto` serves."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from expectations.contracts.embedding import Fusion
from expectations.rules.bootstrap import bootstrap, paired_bootstrap
from expectations.rules.ranking_metrics import measure
from ft_assets.embedding.exact_search import Blocks, named, rank
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import Questions, read_passages, read_questions
from ft_assets.retrieval.choose_fusion import CHOICE_FILE, FusionChoice, choose, label, weighted_sums
from ft_assets.retrieval.exact import served_vectors
from ft_assets.retrieval.jobs import ScoreFloor, SweepJob, SweepSummary
from ft_assets.retrieval.score_floor import best_scores, calibrate
from resources import accelerator
from resources.artifacts import Artifact, write_json
from resources.launcher import Job, run_worker
from resources.parquet import write_table
from resources.telemetry import Metrics

SWEEP_FILE = "sweep.parquet"
_SPLIT = "validation"
_ALONE = {"1.0 / 0": "The lexical", "0.0 / 1": "The dense"}
_Z = 1.96  # standard errors in half of a 95 % interval


def main(job: Job) -> Artifact:
    """Publish `fusion_sweep`: nDCG@10 of each fusion with its interval, and the fusion that serves next."""
    params = job.params_as(SweepJob)
    passages = read_passages(job.input("passages"), contents=False)
    questions = read_questions(job.input("retrieval_splits"), _SPLIT, passages)
    served = _serve(job, params, questions) if questions.ids else None
    results: dict[str, list[float]] = {}
    if served:
        results = sweep(*served, questions.qrels, compared_fusions(params.fusion, params.serving.distance))
    metrics = Metrics(job.folder())
    for step, (name, values) in enumerate(results.items(), 1):
        metrics.log(f"sweep {name}", step, len(results), ndcg_at_10=_mean(values))
    metrics.close()
    configured, count = label(params.fusion), len(questions.ids)
    choice = FusionChoice(by="config", fusion=params.fusion, questions=count, reason=f"{configured} is configured")
    if params.auto:
        choice = choose(params.fusion, results, count)
    # only a weighted sum has scores that can be compared between questions
    if served and params.nothing_found_share and choice.fusion.fusion == "weighted_sum":
        scores = best_scores(*served, questions.qrels, documents=passages.document_of, fusion=choice.fusion)
        choice = msgspec.structs.replace(choice, floor=calibrate(*scores, params.nothing_found_share))
    summary = summarise(results, configured, len(questions.unresolved), choice)
    with job.artifacts().stage(job.recipe) as staging:
        _write(staging.path / SWEEP_FILE, results, configured)
        write_json(staging.path / CHOICE_FILE, msgspec.to_builtins(choice))
        return staging.publish(summary)


def _serve(job: Job, params: SweepJob, questions: Questions) -> tuple[Encoded, Blocks, Sequence[str]]:
    """Return queries and passages as they are served, and the ids of the passages."""
    compute = accelerator.choose(params.compute.device, params.compute.dtype)
    encoder = HybridEncoder.load(job.input("embedding_model").folder(), compute)
    queries = encoder.encode(questions.texts, "query")
    return served_vectors(queries, questions.texts, job.input("passage_vectors"), params.serving.dimension)


def compared_fusions(configured: Fusion, distance: str) -> list[Fusion]:
    """Return the fusions to compare: from one arm alone to the other, dbsf, rrf, the configured one."""
    change = partial(msgspec.structs.replace, configured)
    # the configuration refuses dbsf with distances, of which the smaller is the better one
    methods = [change(fusion=method) for method in ("dbsf", "rrf") if (method, distance) != ("dbsf", "euclid")]
    return [*weighted_sums(configured), *methods, configured]


def sweep(
    queries: Encoded, passages: Blocks, ids: Sequence[str], qrels: Sequence[dict[str, int]], fusions: Sequence[Fusion]
) -> dict[str, list[float]]:
    """Return nDCG@10 of every query for each fusion, by its label."""
    ranked = rank(queries, passages, {label(fusion): fusion for fusion in fusions}, 10)
    return {name: measure(qrels, named(rows, ids))["ndcg_at_10"] for name, rows in ranked.items()}


def summarise(results: dict[str, list[float]], configured: str, unresolved: int, choice: FusionChoice) -> SweepSummary:
    """Return the means, the fusion that serves next, and the best one with its gain."""
    means = {name: round(_mean(values), 6) for name, values in results.items()}
    # of equal means the configured one, else the first, which is the smallest change to the dense ranking
    found = max(means, key=lambda name: (means[name], name == configured)) if means else configured
    gain = paired_bootstrap(results[found], results[configured]) if means else None
    certain = gain is not None and gain.low > 0
    summary = SweepSummary(
        questions=choice.questions,
        unresolved=unresolved,
        configured=configured,
        chosen=label(choice.fusion),
        chosen_by=choice.by,
        best=found,
        recommended=found if certain and choice.by == "config" else label(choice.fusion),
        gain_over_configured=gain,
        gain_is_certain=certain,
        questions_needed=_questions_needed(results[found], results[configured]) if means else None,
        advice=choice.reason,
        floor=_describe_floor(choice.floor),
        ndcg_at_10=means,
    )
    return summary if choice.by == "auto" else msgspec.structs.replace(summary, advice=_advice(summary))


def _describe_floor(floor: ScoreFloor | None) -> str:
    if floor is None:
        return "none: these questions do not show from which score on a passage answers"
    return f"{floor.score:.4f}, above {floor.lost:.0%} of the questions with an answer and {floor.caught:.0%} without"


def _questions_needed(candidate: Sequence[float], baseline: Sequence[float]) -> int | None:
    """Return the number of questions on which the 95 % interval of such a gain would begin at 0."""
    differences = np.asarray(candidate) - np.asarray(baseline)
    if len(differences) < 2 or differences.mean() <= 0:
        return None
    return math.ceil((_Z * differences.std(ddof=1) / differences.mean()) ** 2)


def _advice(summary: SweepSummary) -> str:
    """Return in one or two sentences what to do about a fusion that is fixed in the configuration."""
    gain = summary.gain_over_configured
    if gain is None:
        return f"Keep {summary.configured}: there is no validation question to compare with."
    gained = f"nDCG@10 {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.n} questions"
    if summary.best == summary.configured:
        return f"Keep {summary.configured}: no other fusion ranks better."
    if summary.gain_is_certain:
        text = f"Take {summary.best} in place of {summary.configured}: {gained}. `fusion: auto` chooses the weights."
    else:
        text = f"Keep {summary.configured}. {summary.best} ranks best, but its gain may be chance: {gained}"
        text += f"; about {summary.questions_needed} questions would decide." if summary.questions_needed else "."
    if alone := _ALONE.get(summary.best):
        text += f" {alone} arm adds nothing here."
    return text


def _write(path: Path, results: dict[str, list[float]], configured: str) -> None:
    import pyarrow as pa

    names = ("ndcg_at_10", "low", "high", "gain", "gain_low", "gain_high")
    rows: list[dict[str, str | float]] = []
    for fusion, values in results.items():
        own, over = bootstrap(values), paired_bootstrap(values, results[configured])
        figures = (own.mean, own.low, own.high, over.mean, over.low, over.high)
        rows.append({"fusion": fusion, **dict(zip(names, figures, strict=True))})
    write_table(path, pa.schema([("fusion", pa.string()), *((name, pa.float64()) for name in names)]), rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run_worker(main)
