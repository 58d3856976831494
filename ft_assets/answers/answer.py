"""Worker: the whole RAG system on held-out questions. The released retriever finds passages, then the base, SFT and DPO
models answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ft_assets.adapters.evaluate import (
    answer_all,
    chat_of,
    evidence_of,
    gold_of,
    held_out_rows,
    passage_texts,
    refuse_none,
)
from ft_assets.adapters.prompt import prompt_of
from ft_assets.adapters.score_answers import Replies, compare_readings, measure, summarise, write_answers
from ft_assets.answers.jobs import AnswerParams
from ft_assets.retrieval.search import Hit, Retriever
from resources.artifacts import Artifact
from resources.launcher import Job, run_worker
from resources.releases import open_releases
from resources.telemetry import Metrics


def main(job: Job) -> Artifact:
    """Retrieve, answer, score, and publish answers.parquet.

    Every question is also asked without passages, and with its evidence where it has some: the parts of retrieval and
    of the model in the result.
    """
    params = job.params_as(AnswerParams)
    settings = params.answer_settings()
    rows = held_out_rows(job, ("test",))[: settings.max_questions]
    refuse_none(job, rows)
    hits = _retrieve(job, params, [row["question"] for row in rows], settings.top_k)
    prompt, texts = prompt_of(settings), passage_texts(job.input("passages"))
    evidence = [evidence_of(row, texts) for row in rows]
    with_evidence = [n for n, passages in enumerate(evidence) if passages]
    chats = [chat_of(prompt, row, [hit.content for hit in found]) for row, found in zip(rows, hits, strict=True)]
    chats += [chat_of(prompt, rows[n], []) for n in with_evidence]
    chats += [chat_of(prompt, rows[n], evidence[n]) for n in with_evidence]
    metrics = Metrics(job.folder())
    replies = answer_all(job, params, chats, metrics)
    metrics.close()
    golds = [gold_of(row) for row in rows]
    shown = [_describe(row, found) for row, found in zip(rows, hits, strict=True)]
    retrieved = {model: given[: len(rows)] for model, given in replies.items()}
    summary = summarise(measure(retrieved, golds), settings.seed)
    known = [bool(row["evidence_retrieved"]) for row in shown if row["evidence"]]
    if known:
        summary = msgspec.structs.replace(summary, evidence_hit_rate=sum(known) / len(known))
    if with_evidence:
        count = len(with_evidence)
        readings: dict[str, Replies] = {
            "none": {model: given[-2 * count : -count] for model, given in replies.items()},
            "retrieved": {model: [given[n] for n in with_evidence] for model, given in retrieved.items()},
            "evidence": {model: given[-count:] for model, given in replies.items()},
        }
        figures, gains = compare_readings(readings, [golds[n] for n in with_evidence], settings.seed)
        summary = msgspec.structs.replace(summary, readings=figures, reading_gains=gains)
    with job.artifacts().stage(job.recipe) as staging:
        write_answers(staging.path, shown, retrieved, golds)
        return staging.publish(summary.as_manifest())


def _retrieve(job: Job, params: AnswerParams, questions: Sequence[str], top_k: int) -> list[list[Hit]]:
    # the engine reads its API key from the environment: a job file holds no secret
    releases = open_releases(Path(params.compute.state_dir) / "released")
    with Retriever.open(job.artifacts(), releases, params.engine.engine()) as retriever:
        return retriever.search(questions, top_k)


def _describe(row: dict[str, Any], hits: Sequence[Hit]) -> dict[str, object]:
    """Return the columns of a question that do not depend on the answers."""
    evidence: list[str] = row["evidence"] or []
    retrieved = [hit.passage_id for hit in hits]
    return {
        "record_id": row["record_id"],
        "question": row["question"],
        "evidence": evidence,
        "retrieved": retrieved,
        "evidence_retrieved": bool(set(evidence) & set(retrieved)),
    }


if __name__ == "__main__":
    run_worker(main)
