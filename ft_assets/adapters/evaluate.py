"""Worker: the base, SFT, DPO and released models answer held-out questions from the evidence of each question.

The best candidate is chosen on the validation questions; the figures of the test questions judge it.
"""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expectations.contracts.adapter import RagPrompt
from expectations.rules.answer_scores import Reply
from expectations.violations import Refused, violation
from ft_assets.adapters.jobs import EvaluateParams, TrainedRef
from ft_assets.adapters.prompt import build_messages, prompt_of
from ft_assets.adapters.rows.tokenise import Row, gold_of, read_rows
from ft_assets.adapters.score_answers import ask_all, measure, summarise_parts, write_answers
from ft_assets.corpus.collect import PASSAGES
from resources.artifacts import Artifact, ArtifactStore
from resources.asker import open_asker
from resources.launcher import Job, run_worker
from resources.parquet import read_columns
from resources.telemetry import Metrics
from resources.text_source import BASE, ChatMessage, GeneratorParams


def main(job: Job) -> Artifact:
    """Answer with every model, score, and publish answers.parquet."""
    params = job.params_as(EvaluateParams)
    settings = params.answer_settings()
    chosen_on, rows = _questions(job, settings.max_questions)
    texts = passage_texts(job.input("passages"))
    chats = [chat_of(prompt_of(settings), row, evidence_of(row, texts)) for row in rows]
    metrics = Metrics(job.folder())
    replies = answer_all(job, params, chats, metrics)
    metrics.close()
    golds = [gold_of(row) for row in rows]
    with job.artifacts().stage(job.recipe) as staging:
        shown = [{"record_id": row["record_id"], "question": row["question"]} for row in rows]
        write_answers(staging.path, shown, replies, golds)
        summary = summarise_parts(measure(replies, golds), chosen_on, settings.seed)
        return staging.publish(summary.as_manifest())


def _questions(job: Job, most: int) -> tuple[int, list[dict[str, Any]]]:
    """Return up to `most` held-out rows, half of them of validation if there are enough, and the number of these."""
    validation, test = (held_out_rows(job, (part,)) for part in ("validation", "test"))
    first = validation[: max(most // 2, most - len(test))]
    rows = [*first, *test[: most - len(first)]]
    refuse_none(job, rows)
    return len(first), rows


def held_out_rows(job: Job, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the questions with a right answer in these parts of the split that the recipe names."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += [row for row in read_rows(_splits(job), part) if row.get("desirable", True)]
    return rows


def refuse_none(job: Job, rows: Sequence[object]) -> None:
    """Refuse (FT-ANS-002) an evaluation without questions."""
    if not rows:
        empty = violation("FT-ANS-002", where=_splits(job).asset, field="rows", found=0, expected="at least 1")
        raise Refused("evaluating adapters", [empty])


def chat_of(prompt: RagPrompt, row: Row, passages: Sequence[str]) -> list[ChatMessage]:
    """Return the chat that asks a row's question with these passages."""
    return build_messages(prompt, row["question"], passages, row.get("system") or "", row.get("history"))


def evidence_of(row: Row, texts: Mapping[str, str]) -> list[str]:
    """Return the passages of a row itself, or those that its evidence names; none where it has neither."""
    return row["context"] or [texts[name] for name in row["evidence"] or () if name in texts]


def _splits(job: Job) -> Artifact:
    (name,) = (name for name in job.recipe.inputs if name.endswith("_splits"))
    return job.input(name)


def answer_all(
    job: Job, params: EvaluateParams, chats: Sequence[list[ChatMessage]], metrics: Metrics
) -> dict[str, list[Reply]]:
    """Return the replies of the base and of all trained models of the job. None is generated twice."""
    store, settings, named = job.artifacts(), params.answer_settings(), params.models
    trained = {name: _published(store, one) for name, one in named.trained.items()}
    generator = GeneratorParams(base_model=named.base_model, revision=named.revision, batch_size=settings.batch_size)
    with open_asker(generator, params.compute, trained, metrics) as asker:
        return ask_all(asker, [BASE, *trained], chats, settings.max_new_tokens)


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


def passage_texts(passages: Artifact) -> dict[str, str]:
    """Return the text of each passage by its id."""
    columns = read_columns(passages.table(PASSAGES), ["passage_id", "content"])
    return dict(zip(*columns.values(), strict=True))


if __name__ == "__main__":
    run_worker(main)
