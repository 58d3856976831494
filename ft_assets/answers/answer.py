"""The whole RAG system on held-out questions: question, released retriever, then the answer of base, SFT and DPO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_assets.adapters.evaluate import held_out_rows, load_generator
from ft_assets.adapters.prompt import build_messages, prompt_of
from ft_assets.adapters.score_answers import ask_all, summarise, write_answers
from ft_assets.config.model import AnswerSettings
from ft_assets.retrieval.search import Hit, Retriever
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.qdrant import QdrantEngine
from resources.releases import Releases
from resources.telemetry import Metrics


def main(job: Job) -> Artifact:
    """Retrieve, answer, score, publish answers.parquet. The Qdrant key is read here: a job file holds no secret."""
    settings = AnswerSettings.model_validate(job.params["answers"])
    rows = held_out_rows(job, settings.max_questions, ("test",))
    found = _retrieve(job, [row["question"] for row in rows], settings.top_k)
    prompt = prompt_of(settings)
    chats = [
        build_messages(prompt, row["question"], [hit.content for hit in hits], row["system"] or "", row.get("history"))
        for row, hits in zip(rows, found, strict=True)
    ]
    metrics = Metrics(job.folder())
    replies = ask_all(load_generator(job), chats, settings, metrics)
    metrics.close()
    golds = [row["answer"] for row in rows]
    shown = [_describe(row, hits) for row, hits in zip(rows, found, strict=True)]
    with job.artifacts().stage(job.recipe) as staging:
        write_answers(staging.path, shown, replies, golds)
        with_evidence = [row["evidence_retrieved"] for row in shown if row["evidence"]]
        hit_rate = {"evidence_hit_rate": sum(with_evidence) / len(with_evidence)} if with_evidence else {}
        return staging.publish({**summarise(replies, golds, settings.seed), **hit_rate})


def _retrieve(job: Job, questions: Sequence[str], top_k: int) -> list[list[Hit]]:
    fields: dict[str, Any] = {**job.params["engine"], "path": Path(job.params["engine"]["path"])}
    engine = QdrantEngine(**fields, api_key=os.environ.get("QDRANT_API_KEY"))
    releases = Releases(Path(job.params["state_dir"]) / "released")
    with Retriever.open(job.artifacts(), releases, engine) as retriever:
        return retriever.search(questions, top_k)


def _describe(row: dict[str, Any], hits: Sequence[Hit]) -> dict[str, Any]:
    """What is known of a question before anyone answers it."""
    retrieved = [hit.passage_id for hit in hits]
    return {
        "record_id": row["record_id"],
        "question": row["question"],
        "evidence": row["evidence"],
        "retrieved": retrieved,
        "evidence_retrieved": bool(set(row["evidence"]) & set(retrieved)),
    }


if __name__ == "__main__":
    run_worker(main)
