"""Answer held-out questions from their own evidence: base, SFT, DPO and what is released."""

# pyarrow is untyped here
# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

from expectations.violations import Refused, Violation
from ft_assets.adapters.prompt import build_messages, prompt_of
from ft_assets.adapters.rows.tokenise import read_rows
from ft_assets.adapters.score_answers import ask_all, summarise, write_answers
from ft_assets.config.model import AnswerSettings
from resources import accelerator, models
from resources.artifacts import Artifact, ArtifactStore
from resources.generator import Generator
from resources.launcher import Job, run_worker
from resources.telemetry import Metrics


def main(job: Job) -> Artifact:
    """Answer with every model and publish answers.parquet. `params["adapters"]` maps a name to [asset, recipe id]."""
    settings = AnswerSettings.model_validate(job.params["answers"])
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
    replies = ask_all(load_generator(job), chats, settings, metrics)
    metrics.close()
    golds = [row["answer"] for row in rows]
    with job.artifacts().stage(job.recipe) as staging:
        shown = [{"record_id": row["record_id"], "question": row["question"]} for row in rows]
        write_answers(staging.path, shown, replies, golds)
        return staging.publish(summarise(replies, golds, settings.seed))


def held_out_rows(job: Job, most: int, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Up to `most` instruction rows of these parts, in their order. Raises Refused (FT-ANS-002) when there are none."""
    splits = job.input("instruction_splits")
    rows = [row for part in parts for row in read_rows(splits, part)][:most]
    if not rows:
        violation = Violation(
            code="FT-ANS-002", where="instruction_splits", message="no held-out question to answer.",
            field="rows", found=0, expected="at least 1", fix="add rows, or raise datasets.split",
        )  # fmt: skip
        raise Refused("evaluating adapters", [violation])
    return rows


def load_generator(job: Job) -> Generator:
    """The base and what the job names of all that was trained on it, in its published form."""
    store, params = job.artifacts(), job.params
    folder = models.locate(params["base_model"], Path(params["state_dir"]), params["revision"])
    adapters = {name: _published(store, *reference).folder() for name, reference in params["adapters"].items()}
    return Generator(folder, adapters, accelerator.choose(params["device"], params["dtype"]))


def _published(store: ArtifactStore, asset: str, recipe_id: str) -> Artifact:
    artifact = store.find(asset, recipe_id)
    if artifact is None:
        violation = Violation(
            code="FT-ART-001", where=f"{asset}/{recipe_id}", message="the adapter is not in the store.",
            fix=f"ft run --asset {asset}",
        )  # fmt: skip
        raise Refused("loading adapters", [violation])
    return artifact


def _passage_texts(passages: Artifact) -> dict[str, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(passages.file("passages.parquet"), columns=["passage_id", "content"])
    return dict(zip(table["passage_id"].to_pylist(), table["content"].to_pylist(), strict=True))


if __name__ == "__main__":
    run_worker(main)
