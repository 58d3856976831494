"""A rerank model decides the order of the best passages, the same one in evaluation and search, or is refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from expectations.contracts.embedding import Rerank
from expectations.rules.ranking_metrics import measure
from expectations.violations import Refused
from ft_assets.config.model import RerankSettings, RetrievalSettings
from ft_assets.embedding.pairs import read_passages, require_questions
from ft_assets.graph.gates import judge
from ft_assets.retrieval.checks import GATES
from ft_assets.retrieval.choose_fusion import served_fusion_of
from ft_assets.retrieval.query import Reranking, rank_again
from ft_assets.retrieval.release import rollback_collection
from ft_assets.retrieval.rerank import load_reranker, rerank_of
from ft_assets.retrieval.search import Retriever
from ft_assets.retrieval.served_checks import judge_served
from resources.accelerator import Compute
from resources.engines.protocol import Scored
from tests.ft_assets.retrieval.conftest import Graph
from tests.ft_assets.retrieval.cross_encoder import VOCABULARY, build_cross_encoder

EXACT = Compute("cpu", "float32")
QUESTION = "Which federal standard number did NIST give to AES?"
TEXTS = [
    "AES is FIPS 197.", "密钥长度是 128 位。", "A nonce is used once.", "AES is FIPS 197.", "GCM authenticates.",
    "Bread needs yeast.",
]  # fmt: skip
AFTER_RERANK = ("retrieval_settings", "passage_vectors", "fusion_sweep", "embedding_evaluation", "qdrant_collection",
                "retrieval_evaluation")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cross_encoder(tmp_path_factory.mktemp("rerank"))


def rerank(folder: Path, state: Path, **values: int) -> Rerank:
    made = rerank_of(RerankSettings.model_validate({"model": str(folder), **values}), state)
    assert made
    return made


def points(texts: list[str]) -> list[Scored]:
    return [Scored(str(n), 1.0 - n / 10, {"content": text}) for n, text in enumerate(texts)]


def test_the_first_passages_are_in_the_order_of_the_model_and_the_others_stay(model: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    reranker = load_reranker(rerank(model, tmp_path), tmp_path, EXACT)
    pairs = [(QUESTION, text) for text in TEXTS[:4]]
    scores = CrossEncoder(str(model), device="cpu").predict(pairs)  # with a sigmoid, in the same order
    wanted = np.argsort(-scores, kind="stable").tolist()
    assert wanted != [0, 1, 2, 3]
    asked = Reranking(reranker, [QUESTION, "什么是 nonce?", "no candidates"], batch_size=3)
    first, second, third = rank_again([points(TEXTS), points(TEXTS[:2]), []], 4, asked)
    assert [int(point.id) for point in first] == [*wanted, 4, 5]
    assert [point.rerank is None for point in first] == [False] * 4 + [True] * 2
    assert [point.score for point in first][4:] == [0.6, 0.5]
    assert [int(point.id) for point in first].index(0) < [int(point.id) for point in first].index(3), "equal texts"
    assert {point.id for point in second} == {"0", "1"} and third == []


def test_another_content_or_no_model_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    wanted = rerank(folder, tmp_path)
    load_reranker(wanted, tmp_path, EXACT)
    shutil.rmtree(folder)
    build_cross_encoder(folder, seed=1)
    with pytest.raises(Refused, match=rf"FT-RET-015.*{wanted.version}"):
        load_reranker(wanted, tmp_path, EXACT)
    shutil.rmtree(folder)
    with pytest.raises(Refused, match=r"FT-RET-015.*does not exist"):
        load_reranker(wanted, tmp_path, EXACT)


def test_only_a_trained_head_with_one_score_is_a_rerank_model(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    encoder = rerank_of(RerankSettings(model=VOCABULARY), tmp_path)
    classes = build_cross_encoder(tmp_path / "classes", labels=3)
    for other in (encoder, rerank(classes, tmp_path)):
        assert other
        with pytest.raises(Refused, match="FT-RET-017"):
            load_reranker(other, tmp_path, EXACT)
    headless = tmp_path / "headless"
    shutil.copytree(model, headless)
    weights = load_file(headless / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "classifier" not in name},
              headless / "model.safetensors", {"format": "pt"})  # fmt: skip
    with pytest.raises(Refused, match=r"FT-TRAIN-067.*classifier"):
        load_reranker(rerank(headless, tmp_path), tmp_path, EXACT)


def test_more_passages_than_candidates_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"rerank\.top_n \(101\) is larger than prefetch_limit \(100\)"):
        RetrievalSettings(rerank=RerankSettings(model="m", top_n=101))


@pytest.mark.slow
def test_a_model_of_no_use_is_measured_as_it_would_serve_and_held_back(graph: Graph, model: Path) -> None:
    graph.configure(retrieval={"rerank": {"model": str(model), "top_n": 20}})
    made = graph.run(*AFTER_RERANK)
    for asset in ("passage_vectors", "fusion_sweep", "embedding_evaluation", "qdrant_collection"):
        assert made[asset]["reused"], asset
    assert made["qdrant_collection"]["upserted"] == 0
    summary = graph.artifact("retrieval_evaluation").summary
    gain = summary["candidate_fused_ndcg_at_10"] - summary["candidate_before_rerank_ndcg_at_10"]
    assert summary["gain_by_rerank"]["mean"] == pytest.approx(gain, abs=1e-5) and gain < -0.2
    assert summary["gain_by_rerank_by_document"]["n"] == summary["questions"]
    assert summary["rerank_seconds"] > 0
    assert summary["candidate_before_rerank_ndcg_at_10"] == summary["live_fused_ndcg_at_10"]
    broken = {gate.name for gate in GATES if gate.asset == "retrieval_evaluation" and
              judge(gate, graph.evidence).violations}  # fmt: skip
    assert "rerank_is_worth_it" in broken and not broken & {"served_is_exact", "evaluation_is_current"}
    # the search ranks the test questions as the evaluation did
    store = graph.artifacts.store()
    passages = read_passages(graph.artifact("passages"), contents=False)
    questions = require_questions(graph.artifact("retrieval_splits"), "test", passages, "search")
    with graph.qdrant.engine().open() as client:
        name = str(graph.artifact("qdrant_collection").summary["collection"])
        retriever = Retriever.on(client, name, store).weighing(served_fusion_of(store))
        found = [[hit.passage_id for hit in hits] for hits in retriever.search(questions.texts, 10)]
    values = measure(questions.qrels, found)["ndcg_at_10"]
    assert np.mean(values) == pytest.approx(summary["candidate_fused_ndcg_at_10"], abs=2e-3)


@pytest.mark.slow
def test_it_is_released_and_another_one_costs_an_evaluation(graph: Graph, model: Path, tmp_path: Path) -> None:
    def release(folder: Path) -> Mapping[str, Mapping[str, Any]]:
        # one passage keeps its place: no model can make that worse
        graph.configure(retrieval={"rerank": {"model": str(folder), "top_n": 1}})
        return graph.run(*AFTER_RERANK, "released_collection")

    def search() -> list[float | None]:
        store, releases = graph.artifacts.store(), graph.artifacts.releases()
        with Retriever.open(store, releases, graph.qdrant.engine()) as retriever:
            assert retriever.answer([QUESTION], 2, arm="dense")[0].hits[0].rerank is None
            return [hit.rerank for hit in retriever.search([QUESTION], 2)[0]]

    assert not release(model)["released_collection"]["reused"]
    served = graph.artifacts.releases().current("collection")
    assert served and served.details["fusion"]["rerank"]["top_n"] == 1
    first, second = search()
    older = served.version
    assert first is not None and second is None
    other = build_cross_encoder(tmp_path / "other", seed=1)
    again = release(other)
    assert again["passage_vectors"]["reused"] and again["fusion_sweep"]["reused"]
    assert again["qdrant_collection"]["upserted"] == 0 and not again["retrieval_evaluation"]["reused"]
    assert search()[0] not in {first, None}
    # the model of what serves is replaced in its place
    shutil.rmtree(other)
    build_cross_encoder(other, seed=2)
    with pytest.raises(Refused, match="FT-RET-015"):
        search()
    with pytest.raises(Exception, match=r"FT-RET-008.*rerank model"):
        graph.run("retrieval_evaluation")
    store, releases, engine = graph.artifacts.store(), graph.artifacts.releases(), graph.qdrant.engine()
    assert "FT-RET-015" in {violation.code for violation in judge_served(graph.evidence, quick=True).violations}
    newer = releases.current("collection")
    rollback_collection(store, releases, engine, older, who="test", why="the model is gone")
    assert search()[0] == first and judge_served(graph.evidence, quick=True).violations == []
    with pytest.raises(Refused, match="FT-RET-015"):
        rollback_collection(store, releases, engine, newer and newer.version, who="test", why="back")
    assert search()[0] == first
