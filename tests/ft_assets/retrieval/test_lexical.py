"""The lexical arm by BM25 in a released collection: stored, queried, guarded, and compared with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from expectations.contracts.collection import guard_collection
from expectations.lexical.bm25 import FREQUENCIES_KEY, Bm25, Bm25Queries, DocumentFrequencies
from expectations.rules.bootstrap import Interval
from expectations.violations import Refused
from ft_assets.embedding import train_factors
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, plan_bm25
from ft_assets.embedding.pairs import read_passages
from ft_assets.embedding.scores import read_scores
from ft_assets.graph.gates import judge
from ft_assets.retrieval.checks import GATES
from ft_assets.retrieval.collection import point_id, stored_contract
from ft_assets.retrieval.migrate import migrate
from ft_assets.retrieval.search import Retriever
from ft_assets.retrieval.vectors import contract_of, frequencies_of, read_vectors
from resources.qdrant import QdrantEngine, aliased
from tests.ft_assets.retrieval.conftest import DATA_SIDE, RETRIEVAL_SIDE, Graph

pytestmark = pytest.mark.slow
SETTINGS = Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75)
QUESTION = "Which federal standard number did NIST give to AES?"


def broken(graph: Graph, gate: str) -> set[str]:
    (found,) = [one for one in GATES if one.name == gate]
    return {violation.code for violation in judge(found, graph.evidence).violations}


def test_a_point_stores_what_bm25_gives_its_passage_and_the_table_counts_all(released: Graph) -> None:
    vectors = released.artifact("passage_vectors")
    lexical = contract_of(vectors).lexical
    assert lexical is not None and (lexical.language, lexical.k1, lexical.b) == ("english", 1.2, 0.75)
    passages = read_passages(released.artifact("passages"))
    bm25, table = Bm25(lexical), DocumentFrequencies.from_text(frequencies_of(vectors) or "")
    assert table.passages == lexical.passages == len(passages.ids)
    counts: dict[int, int] = {}
    for row, text in zip(read_vectors(vectors), passages.contents, strict=True):
        wanted = bm25.passage(text)
        assert row.indices.tolist() == wanted.indices
        assert row.values == pytest.approx(np.float32(wanted.values))
        for number in wanted.indices:
            counts[number] = counts.get(number, 0) + 1
    assert table.counts == {number: count for number, count in counts.items() if count > 1}


def test_another_service_asks_with_the_metadata_alone(released: Graph, tmp_path: Path) -> None:
    local = QdrantEngine("local", tmp_path / "qdrant", None, "passages", None, 5.0)
    migrate(released.qdrant.engine(), local, [])
    with local.open() as client:
        name = str(aliased(client, "passages"))
        # the service has qdrant-client, the model folder and the metadata
        connection = client.client  # type: ignore[attr-defined]
        contract = guard_collection(connection, "passages", released.artifact("embedding_model").folder())
        assert contract.lexical is not None
        queries = Bm25Queries.from_metadata(connection.get_collection("passages").config.metadata, "passages")
    artifacts = released.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), released.qdrant.engine()) as retriever:
        (hits,) = retriever.search([QUESTION], 5)
        stored = retriever._client.retrieve(name, [point_id(hit.passage_id) for hit in hits])
    weights = dict(zip(*queries.vector(QUESTION), strict=True))
    for hit in hits:
        indices, values = stored.sparse[stored.ids.index(point_id(hit.passage_id))]
        score = sum(weights.get(int(number), 0.0) * value for number, value in zip(indices, values, strict=True))
        assert hit.sparse == pytest.approx(score, abs=1e-4)


def test_the_query_side_loads_neither_numpy_nor_torch() -> None:
    loaded = "import sys, expectations.lexical.bm25; print({'numpy', 'torch', 'stop_words'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "set()"


@pytest.mark.parametrize("table", ["", DocumentFrequencies(3, {5: 2}).to_text()], ids=["gone", "another"])
def test_a_collection_with_another_table_of_frequencies_neither_passes_nor_answers(graph: Graph, table: str) -> None:
    with graph.qdrant.engine().open() as client:
        client.set_metadata(str(aliased(client, "passages")), {FREQUENCIES_KEY: table})
    assert broken(graph, "collection_matches_contract") == {"FT-LEX-003"}
    artifacts = graph.artifacts
    with (
        pytest.raises(Refused, match="FT-LEX-003"),
        Retriever.open(artifacts.store(), artifacts.releases(), graph.qdrant.engine()),
    ):
        pass


def test_vectors_of_another_arm_than_the_configured_one_are_named(graph: Graph) -> None:
    for change in ({"lexical": "learned"}, {"bm25_k1": 0.5}, {"language": "german"}, {"stop_words": ["the"]}):
        graph.configure(
            retrieval={"lexical": "bm25", "bm25_k1": 1.2, "language": "auto", "stop_words": None, **change},
            embedding={"lexical_head": "lexical" in change},
        )
        graph.run("retrieval_settings")
        assert broken(graph, "lexical_arm_is_configured") == {"FT-VEC-008"}


def test_a_learned_arm_waits_for_the_training_of_the_head_and_then_serves(graph: Graph) -> None:
    assert contract_of(graph.artifact("embedding_model")).sparse.head_sha256 is None
    graph.configure(retrieval={"lexical": "learned", "sparse_weight": 0.3}, embedding={"lexical_head": True})
    graph.run("retrieval_settings", "embedding_settings")
    with pytest.raises(Refused, match="FT-EMB-022"):
        graph.run("passage_vectors")
    graph.run("embedding_model", *RETRIEVAL_SIDE)
    contract = contract_of(graph.artifact("passage_vectors"))
    assert contract.lexical is None and contract.sparse.head_sha256
    assert graph.artifact("base_vectors").summary["empty_sparse"] == 0


def test_bm25_serves_where_its_factors_gain_nothing_for_certain(graph: Graph) -> None:
    graph.configure(retrieval={"lexical": "bm25_learned"}, embedding={"bm25_factors": True})
    graph.run("retrieval_settings", "embedding_settings")
    with pytest.raises(Refused, match="FT-EMB-024"):  # they were not tried yet
        graph.run("passage_vectors")
    made = graph.run("embedding_model", "passage_vectors")
    assert made["embedding_model"]["bm25_factors"].startswith("BM25 serves as it is: its factors gain nothing certain")
    assert made["passage_vectors"]["encoded"] == 0  # the same weights of the encoder
    lexical = contract_of(graph.artifact("passage_vectors")).lexical
    assert lexical is not None and lexical.kind == "bm25"
    assert broken(graph, "lexical_arm_is_configured") == set()


def test_factors_that_are_taken_serve_and_each_change_costs_its_own(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    certain = Interval(0.02, 0.01, 0.03, 30)  # the examples are too few for it
    monkeypatch.setattr(train_factors, "paired_bootstrap", lambda *_: certain)
    graph.configure(retrieval={"lexical": "bm25_learned"}, embedding={"bm25_factors": True, "factor_penalty": 0.1})
    made = graph.run(*RETRIEVAL_SIDE)
    passages = made["qdrant_collection"]["points"]
    assert (made["passage_vectors"]["encoded"], made["qdrant_collection"]["upserted"]) == (passages, passages)
    contract = contract_of(graph.artifact("passage_vectors"))
    assert contract.lexical is not None and contract.lexical.kind == "bm25_learned" and contract.factors_sha256
    scores = read_scores(graph.artifact("retrieval_evaluation"))
    assert scores["bm25", "sparse"] != scores["candidate", "sparse"]  # the rival stays BM25
    assert broken(graph, "lexical_arm_is_configured") == broken(graph, "served_is_exact") == set()
    artifacts = graph.artifacts
    with Retriever.open(artifacts.store(), artifacts.releases(), graph.qdrant.engine()) as retriever:
        (hits,) = retriever.search([QUESTION], 5)
    rows = {row.passage_id: row for row in read_vectors(graph.artifact("passage_vectors"))}
    bm25, passages_read = Bm25(contract.lexical), read_passages(graph.artifact("passages"))
    texts = dict(zip(passages_read.ids, passages_read.contents, strict=True))
    factors = np.concatenate([rows[hit.passage_id].values / bm25.passage(texts[hit.passage_id]).values for hit in hits])
    assert factors.min() >= 0 and factors.max() <= 2 and factors.std() > 0.01
    # a document: its own passages alone
    (graph.root / "corpus/new.md").write_text("# AES in hardware\n\nAES rounds run in one cycle on the new chip.\n")
    made = graph.run(*DATA_SIDE, *RETRIEVAL_SIDE[3:])
    assert (made["passage_vectors"]["encoded"], made["qdrant_collection"]["upserted"]) == (1, 1)
    # k1: the factors are needed again
    graph.configure(retrieval={"bm25_k1": 0.9})
    made = graph.run("retrieval_settings", "passage_vectors")
    assert made["passage_vectors"]["encoded"] == passages + 1
    # back to BM25 as it is: its collection is still there and lacks the new document
    graph.configure(retrieval={"lexical": "bm25", "bm25_k1": 1.2})
    made = graph.run("retrieval_settings", "passage_vectors", "qdrant_collection")
    assert (made["passage_vectors"]["encoded"], made["qdrant_collection"]["upserted"]) == (0, 1)


def test_a_new_document_changes_idf_and_no_stored_point(graph: Graph) -> None:
    def points() -> dict[str, list[tuple[int, float]]]:
        with graph.qdrant.engine().open() as client:
            name = str(aliased(client, "passages"))
            pages = list(client.scroll(name))
        return {
            key: sorted(zip(ids.tolist(), values.tolist(), strict=True))
            for page in pages
            for key, (ids, values) in zip(page.ids, page.sparse, strict=True)
        }

    before, table = points(), frequencies_of(graph.artifact("passage_vectors"))
    (graph.root / "corpus/new.md").write_text("# AES in hardware\n\nAES rounds run in one cycle on the new chip.\n")
    made = graph.run(*DATA_SIDE, *RETRIEVAL_SIDE[3:])  # no training: it would mine the new passage
    assert (made["passage_vectors"]["encoded"], made["qdrant_collection"]["upserted"]) == (1, 1)
    assert frequencies_of(graph.artifact("passage_vectors")) != table
    after = points()
    assert len(after) == len(before) + 1 and {key: after[key] for key in before} == before
    with graph.qdrant.engine().open() as client:
        lexical = stored_contract(client, str(aliased(client, "passages"))).lexical
    assert lexical is not None and lexical.passages == len(after)


def test_the_average_length_is_frozen_until_the_corpus_changes_much(released: Graph) -> None:
    lexical = contract_of(released.artifact("passage_vectors")).lexical
    assert lexical is not None
    texts = ["word " * round(lexical.average_length * 1.1)]
    settings = msgspec.structs.replace(SETTINGS, language="english", k1=2.0)
    assert plan_bm25(settings, texts, [lexical]).average_length == lexical.average_length
    assert plan_bm25(settings, texts * 2, []).average_length != lexical.average_length
    longer = ["word " * round(lexical.average_length * 2)]
    assert plan_bm25(settings, longer, [lexical]).average_length == round(lexical.average_length * 2)


def test_both_evaluations_show_bm25_and_the_engine_ranks_as_it(released: Graph) -> None:
    served, models = (read_scores(released.artifact(name)) for name in ("retrieval_evaluation", "embedding_evaluation"))
    assert served["bm25", "sparse"]["ndcg_at_10"] == pytest.approx(
        served["candidate", "sparse"]["ndcg_at_10"], abs=1e-6
    )
    assert models["bm25", "sparse"] == models["trained", "sparse"] == models["base", "sparse"]
    assert models["base", "dense"] != models["trained", "dense"]
    for name in ("retrieval_evaluation", "embedding_evaluation"):
        summary = released.artifact(name).summary
        assert summary["gain_over_bm25"]["n"] == summary["gain_over_bm25_by_document"]["n"] == summary["questions"]
        # every judgement of the examples names a section
        assert summary.get("judged_on_documents", 0) == 0
    for metrics in [*served.values(), *models.values()]:
        assert all(document >= passage for document, passage in zip(*_reciprocal_ranks(metrics), strict=True))
    assert served["candidate", "fused"]["document_mrr_at_10"] != served["candidate", "fused"]["mrr_at_10"]


def _reciprocal_ranks(metrics: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    return metrics["document_mrr_at_10"], metrics["mrr_at_10"]


def test_the_base_is_encoded_once_whatever_is_trained(graph: Graph) -> None:
    assert graph.run("embedding_settings", "base_vectors")["base_vectors"]["reused"]
    graph.configure(embedding={"learning_rate": 1e-4})
    made = graph.run(*RETRIEVAL_SIDE)
    assert not made["embedding_model"]["reused"] and made["base_vectors"]["reused"]


def test_a_corpus_without_terms_has_an_index() -> None:
    vectors, queries = index_bm25(["?!", "…"], SETTINGS)
    assert [len(ids) for ids, _ in vectors] == [0, 0] and queries.vector("anything").values == [1.0]
