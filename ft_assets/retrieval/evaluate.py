"""Measures a candidate collection as it would serve, through the engine, beside what is live now."""

# what a job carries is untyped
# pyright: basic
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Fusion, Serving
from expectations.violations import Refused, Violation
from ft_assets.embedding.evaluate import no_questions
from ft_assets.embedding.model import Encoded, HybridEncoder
from ft_assets.embedding.pairs import read_passages, read_questions
from ft_assets.embedding.scores import FILE, Scores, gain, score_arms, summarise, write_scores
from ft_assets.retrieval.collection import stored_contract
from ft_assets.retrieval.query import ask
from ft_assets.retrieval.vectors import contract_of
from resources import accelerator
from resources.artifacts import Artifact
from resources.engines.protocol import Arm, VectorClient
from resources.launcher import Job, run_worker
from resources.qdrant import QdrantEngine
from resources.telemetry import Metrics

DEPTH = 100
COMPARED = ("ndcg_at_10", "recall_at_10")
_ARMS: tuple[Arm, ...] = ("dense", "sparse", "fused")


def main(job: Job) -> Artifact:
    """Publish `retrieval_evaluation`: scores of `candidate` and of `live`. Raises Refused (FT-RET-008) where something
    is live whose collection or model is gone, unless any loss is accepted or the candidate is what serves."""
    store = job.artifacts()
    compute = accelerator.choose(job.params["device"], job.params["dtype"])
    passages = read_passages(job.input("passages"))
    split = job.params["evaluate_on"]
    questions = read_questions(job.input("retrieval_splits"), split, passages)
    if not questions.ids:
        raise Refused("evaluating retrieval", [no_questions("retrieval_evaluation", split)])
    candidate = job.input("qdrant_collection")
    model = job.input("embedding_model")
    fusion = msgspec.convert(job.params["fusion"], Fusion)
    systems = [("candidate", str(candidate.json("collection.json")["collection"]), model, fusion)]
    live, missing = job.params["live"], ""
    if live:
        if live_model := store.find("embedding_model", live["model"]):
            systems.append(("live", live["collection"], live_model, msgspec.convert(live["fusion"], Fusion)))
        else:
            missing = "its model is no longer in the store"
    vectors = {}  # encoded before the engine is opened, so that its lock is held for the searching alone
    for _, _, artifact, _ in systems:
        if artifact.recipe_id not in vectors:
            encoder = HybridEncoder.load(artifact.folder(), compute)
            vectors[artifact.recipe_id] = (encoder.encode(questions.texts, "query"), contract_of(artifact))
    scores: Scores = {}
    metrics = Metrics(job.folder())
    with open_engine(job.params["engine"]).open() as client:
        if len(systems) > 1 and systems[1][1] not in client.names():
            del systems[1]
            missing = "its collection is no longer in the engine"
        if missing and job.params["must_compare"]:
            raise Refused("evaluating retrieval", [_incomparable(live, missing)])
        for step, (system, name, artifact, fused) in enumerate(systems, 1):
            queries, contract = vectors[artifact.recipe_id]
            rankings = _measure(client, name, contract, fused, queries)
            scores |= score_arms(system, rankings, questions.qrels)
            values = scores[system, "fused"]["ndcg_at_10"]
            metrics.log(f"evaluate {system}", step, len(systems), ndcg_at_10=sum(values) / len(values))
    metrics.close()
    with store.stage(job.recipe) as staging:
        write_scores(staging.path / FILE, questions.ids, scores)
        return staging.publish(
            {
                "questions": len(questions.ids),
                "unresolved": len(questions.unresolved),
                "collection": systems[0][1],
                "live": _compared(live, missing),
                **summarise(scores),
                **(
                    {f"gain_{m}": msgspec.to_builtins(gain(scores, "candidate", "live", m)) for m in COMPARED}
                    if len(systems) > 1
                    else {}
                ),
            }
        )


def open_engine(params: dict[str, Any]) -> QdrantEngine:
    """The engine that a job names; the API key travels in the environment, never in a job file."""
    return QdrantEngine(**{**params, "path": Path(params["path"])}, api_key=os.environ.get("QDRANT_API_KEY"))


def _measure(
    client: VectorClient, name: str, contract: EmbeddingContract, fusion: Fusion, queries: Encoded
) -> dict[str, list[list[str]]]:
    """Passage ids by each arm of what stands under `name`."""
    stored = stored_contract(client, name)
    served = contract.served(stored.serving or Serving(dimension=0, distance="cosine"), fusion)
    return {
        arm: [
            [str(p.payload["passage_id"]) for p in points]
            for points in ask(client, name, served, queries, arm, limit=DEPTH)
        ]
        for arm in _ARMS
    }


def _incomparable(live: dict[str, Any], missing: str) -> Violation:
    return Violation(
        code="FT-RET-008", where="retrieval_evaluation", message=f"what is live cannot be compared with: {missing}.",
        field="live", found=live["collection"], expected="the collection and the model of what is live",
        fix="ft rollback collection --to a release that stands, or set retrieval.tolerance: 1 (any loss is accepted) "
        "for this one; then ft run --asset released_collection --upstream",
    )  # fmt: skip


def _compared(live: dict[str, Any] | None, missing: str) -> str:
    if live is None:
        return "nothing is live yet"
    return f"{live['version']}: {missing}, not compared" if missing else live["version"]


if __name__ == "__main__":
    run_worker(main)
