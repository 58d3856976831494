"""Worker: the base, SFT, DPO and released models answer held-out questions from the evidence of each question."""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

from expectations.violations import Refused, violation
from ft_assets.adapters.jobs import EvaluateParams, ModelParams, TrainedRef
from ft_assets.adapters.prompt import build_messages, prompt_of
from ft_assets.adapters.rows.tokenise import read_rows
from ft_assets.adapters.score_answers import ask_all, summarise, write_answers
from resources import accelerator, models
from resources.artifacts import Artifact, ArtifactStore
from resources.generator import Generator
from resources.launcher import ComputeParams, Job, run_worker
from resources.telemetry import Metrics


def main(job: Job) -> Artifact:
    """Answer with every model, score, and publish answers.parquet."""
    params = job.params_as(EvaluateParams)
    settings = params.answer_settings()
    rows = held_out_rows(job, settings.max_questions, ("validation", "test"))
    texts = _passage_texts(job.input("passages"))
    chats = [
        build_messages(
            prompt_of(settings),
            row["question"],
            row["context"] or [texts[name] for name in row["evidence"] if name in texts],
            row["system"] or "",
            row.get("history"),
        )
        for row in rows
    ]
    metrics = Metrics(job.folder())
    replies = ask_all(load_generator(job.artifacts(), params.models, params.compute), chats, settings, metrics)
    metrics.close()
    golds = [row["answer"] for row in rows]
    with job.artifacts().stage(job.recipe) as staging:
        shown = [{"record_id": row["record_id"], "question": row["question"]} for row in rows]
        write_answers(staging.path, shown, replies, golds)
        return staging.publish(summarise(replies, golds, settings.seed).as_manifest())


def held_out_rows(job: Job, most: int, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return up to `most` instruction rows of these parts, in their order. Raises Refused (FT-ANS-002) without any."""
    splits = job.input("instruction_splits")
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += read_rows(splits, part)
    if not rows[:most]:
        empty = violation("FT-ANS-002", where=splits.asset, field="rows", found=0, expected="at least 1")
        raise Refused("evaluating adapters", [empty])
    return rows[:most]


def load_generator(store: ArtifactStore, params: ModelParams, compute: ComputeParams) -> Generator:
    """Load the base model and all that was trained on it, in the form in which it was published."""
    base = models.locate(params.base_model, Path(compute.state_dir), params.revision)
    folders = {name: _published(store, trained).folder() for name, trained in params.trained.items()}
    return Generator(base, folders, accelerator.choose(compute.device, compute.dtype))


def _published(store: ArtifactStore, trained: TrainedRef) -> Artifact:
    artifact = store.find(trained.asset, trained.recipe_id)
    if artifact is None:
        missing = violation(
            "FT-ART-001",
            where=f"{trained.asset}/{trained.recipe_id}",
            message="The adapter is not in the store",
            fix=f"ft run --asset {trained.asset}",
        )
        raise Refused("loading adapters", [missing])
    return artifact


def _passage_texts(passages: Artifact) -> dict[str, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(passages.file("passages.parquet"), columns=["passage_id", "content"])
    return dict(zip(table["passage_id"].to_pylist(), table["content"].to_pylist(), strict=True))


if __name__ == "__main__":
    run_worker(main)
