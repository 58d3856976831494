"""A small state for the tests of the page: trainings, evaluations and releases of adapters, published as workers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.rules.answer_scores import Reply
from expectations.rules.ranking_metrics import DOCUMENT_METRICS, METRICS
from ft_assets.adapters.jobs import TrainSummary
from ft_assets.adapters.score_answers import measure, summarise, write_answers
from ft_assets.embedding.jobs import EpochFigures, ModelSummary
from ft_assets.embedding.scores import SCORES_FILE, write_scores
from ft_assets.retrieval.jobs import RetrievalEvaluationSummary
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.releases import Release, Releases
from resources.telemetry import METRICS_FILE, Metrics

HOSTILE = "<script>alert(1)</script>"
QUESTIONS = ["What is the tag for?", f"Which key? {HOSTILE}", "密钥有多长？", "What is a nonce?"]
GOLDS = ["integrity", "the session key", "256 位", "a number used once"]
IDS = ["q-1", f"q-2 {HOSTILE}", "q-3", "q-4"]
PARTS = ("train.parquet", "validation.parquet", "test.parquet")
PASSAGE = f"The tag of GCM proves integrity. {HOSTILE}"


@dataclass
class Adapters:
    """The artifacts that `build_adapters` published."""

    first: Artifact
    second: Artifact
    releases: list[Release]


def build_adapters(state: Path) -> Adapters:
    """Publish two SFT trainings that differ in their learning rate, an evaluation of each, and release both in turn."""
    store, releases = ArtifactStore(state / "artifacts"), Releases(state / "released")
    passages = _publish(store, "passages", point=False, files={"passages.parquet": _passages})
    splits = _publish(store, "instruction_splits", point=False, files=_splits())
    trained = [_train(store, rate, splits) for rate in (1e-4, 5e-4)]
    made: list[Release] = []
    for adapter, right in zip(trained, (1, 3), strict=True):
        evaluation = _evaluate(store, adapter, splits, passages, right)
        artifacts = {"sft_adapter": adapter.recipe_id, "adapter_evaluation": evaluation.recipe_id}
        details: dict[str, object] = {"contract": {"base": {"name": "tiny"}}, "metrics": {}}
        made.append(releases.commit("adapter", releases.plan_release("adapter", artifacts, details)))
    return Adapters(trained[0], trained[1], made)


@dataclass
class Encoders:
    """The artifacts that `build_encoders` published: the second ranks better, the third was not evaluated."""

    first: Artifact
    second: Artifact
    third: Artifact
    splits: Artifact


def build_encoders(state: Path) -> Encoders:
    """Publish three encoders, and evaluations of the first two."""
    store = ArtifactStore(state / "artifacts")
    rows = [{"query_id": f"r-{n}", "query": f"query {n} {HOSTILE}"} for n in range(40)]
    splits = _publish(store, "retrieval_splits", files=dict.fromkeys(PARTS, lambda path: _rows(path, rows)))
    models = [_train_encoder(store, rate, splits) for rate in (1e-5, 2e-5, 3e-5)]
    for model, fused in zip(models, (0.5, 0.9), strict=False):
        evaluate_encoder(store, model, splits, fused)
    return Encoders(*models, splits)


def evaluate_encoder(
    store: ArtifactStore, model: Artifact, splits: Artifact, fused: float, **settings: Any
) -> Artifact:
    """Publish an evaluation: `fused` of each question but the last, and a dense ranking that no model changes."""
    questions = [f"r-{n}" for n in range(40)]
    values = {"fused": [fused] * 39 + [1 - fused], "dense": [0.4 + 0.01 * (n % 2) for n in range(40)]}
    scores = {
        (system, arm): dict.fromkeys((*METRICS, *DOCUMENT_METRICS), ranked if system == "trained" else [0.3] * 40)
        for system in ("base", "trained")
        for arm, ranked in values.items()
    }
    return _publish(
        store,
        "embedding_evaluation",
        settings=settings,
        inputs={"embedding_model": model.data_version, "retrieval_splits": splits.data_version},
        files={SCORES_FILE: lambda path: write_scores(path, questions, scores)},
    )


def release_collection(state: Path, summary: RetrievalEvaluationSummary, fused: float = 0.5) -> Release:
    """Release a collection with this evaluation, which gives each question `fused`."""
    store, releases = ArtifactStore(state / "artifacts"), Releases(state / "released")
    scores = {("candidate", "fused"): dict.fromkeys((*METRICS, *DOCUMENT_METRICS), [fused] * 40)}
    questions = [f"r-{n}" for n in range(40)]
    evaluation = _publish(
        store,
        "retrieval_evaluation",
        settings={"collection": summary.collection},
        summary=summary,
        files={SCORES_FILE: lambda path: write_scores(path, questions, scores)},
    )
    details: dict[str, object] = {"collection": summary.collection, "fusion": {"dense_weight": 1, "sparse_weight": 2}}
    artifacts = {"retrieval_evaluation": evaluation.recipe_id}
    return releases.commit("collection", releases.plan_release("collection", artifacts, details))


def _train_encoder(store: ArtifactStore, rate: float, splits: Artifact) -> Artifact:
    summary = ModelSummary(
        questions=8, best_epoch=1, best_ndcg_at_10=0.5674956728017624, unresolved=0, steps=10, loss_first=2.0,
        loss_last=1.0, non_finite_losses=0, parameters_changed=1.0, dimension=8, device="cpu", dtype="float32",
        epochs=[EpochFigures(epoch=0, fused_ndcg_at_10=0.1234567, dense_ndcg_at_10=0.5)],
    )  # fmt: skip
    return _publish(
        store,
        "embedding_model",
        settings={"learning_rate": rate},
        inputs={"retrieval_splits": splits.data_version},
        summary=summary,
        files={METRICS_FILE: lambda path: _log(path.parent, 10, 10), "model.safetensors": str(rate).encode()},
    )


def _rows(path: Path, rows: list[dict[str, Any]]) -> None:
    kept = rows if path.stem == "test" else []
    pq.write_table(pa.Table.from_pylist(kept, schema=pa.Table.from_pylist(rows).schema), path)


def run_folder(state: Path, *, recipe: str = "0123456789abcdef", steps: int = 3) -> Path:
    """Write the folder of a run at `steps` of 10."""
    folder = state / "runs" / "sft_adapter" / recipe
    _log(folder, steps, total=10)
    described = msgspec.to_builtins(Recipe(asset="sft_adapter", code_version="1", settings={}))
    (folder / "job.json").write_text(json.dumps({"recipe": described, "params": {}}))
    (folder / "lock").touch()
    return folder


def _publish(
    store: ArtifactStore,
    asset: str,
    *,
    files: Mapping[str, bytes | Callable[[Path], None]],
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    summary: object = None,
    point: bool = True,
) -> Artifact:
    recipe = Recipe(asset=asset, code_version="1", settings=dict(settings or {}), inputs=dict(inputs or {}))
    with store.stage(recipe) as staging:
        for name, content in files.items():
            path = staging.path / name
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
        artifact = staging.publish(msgspec.to_builtins(summary))
    if point or store.current(asset) is None:
        store.point(artifact)
    return artifact


def _passages(path: Path) -> None:
    row = {"passage_id": "gcm#tag", "document_id": "gcm", "heading": "GCM", "text": PASSAGE, "content": PASSAGE,
           "source": "kb/gcm.md", "start": 0, "end": len(PASSAGE), "language": "en"}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), path)


def _splits() -> dict[str, bytes | Callable[[Path], None]]:
    rows = [
        {"record_id": name, "question": question, "context": [], "answer": gold, "evidence": ["gcm#tag"],
         "source": "data/qa.jsonl", "line_no": n + 1}
        for n, (name, question, gold) in enumerate(zip(IDS, QUESTIONS, GOLDS, strict=True))
    ]  # fmt: skip
    rejected = {"file": "data/qa.jsonl", "file_sha256": "", "line": 9, "offset": 0, "code": "FT-INST-003", "path": "$",
                "reason": "found an empty text", "raw": HOSTILE, "suggestion": "Write the answer."}  # fmt: skip

    return {
        **dict.fromkeys(PARTS, lambda path: _rows(path, rows)),
        "quarantine.jsonl": json.dumps(rejected).encode() + b"\n",
    }


def _log(folder: Path, steps: int, total: int) -> None:
    metrics = Metrics(folder)
    metrics.log("eval", 0, total, eval_loss=3.0)
    for step in range(1, steps + 1):
        metrics.log("train", step, total, loss=3.0 / step, learning_rate=1e-4, tokens_per_second=100.0, rss_gib=1.5)
    metrics.close()


def _train(store: ArtifactStore, rate: float, splits: Artifact) -> Artifact:
    summary = TrainSummary(
        steps=10,
        eval_loss_before=3.0,
        eval_loss_after=1.0,
        train_loss_first=3.0,
        train_loss_last=0.3,
        max_abs_adapter_delta=0.1,
        trainable_parameters=100,
        rows=8,
        validation_rows=2,
        supervised_tokens=64,
        device="cpu",
        dtype="float32",
        seconds=83.0,
    )
    gates = {"gates": [{"name": "rows_are_trainable", "passed": True, "figures": {}, "violations": []}]}
    return _publish(
        store,
        "sft_adapter",
        settings={"training": {"learning_rate": rate, "method": "lora", "lora": {"r": 8}}},
        inputs={"instruction_splits": splits.data_version},
        summary=summary,
        files={
            METRICS_FILE: lambda path: _log(path.parent, 10, 10),
            "preflight.json": json.dumps(gates).encode(),
            "adapter_model.safetensors": str(rate).encode(),
            "README.md": f"---\nlicense: none\n---\n# A card {HOSTILE}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".encode(),
            "contract.json": json.dumps({"base": {"name": "tiny"}}).encode(),
        },
    )


def _evaluate(store: ArtifactStore, adapter: Artifact, splits: Artifact, passages: Artifact, right: int) -> Artifact:
    replies = {"base": _replies(0), "sft": _replies(right)}
    rows = [{"record_id": name, "question": question} for name, question in zip(IDS, QUESTIONS, strict=True)]
    return _publish(
        store,
        "adapter_evaluation",
        inputs={
            "sft_adapter": adapter.data_version,
            "instruction_splits": splits.data_version,
            "passages": passages.data_version,
        },
        summary=summarise(measure(replies, GOLDS), 42).as_manifest(),
        files={"answers.parquet": lambda path: write_answers(path.parent, rows, replies, GOLDS)},
    )


def _replies(right: int) -> Sequence[Reply]:
    return [Reply(answer=gold if n < right else f"no idea {HOSTILE}") for n, gold in enumerate(GOLDS)]
