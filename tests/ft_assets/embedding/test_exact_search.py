"""Rankings block by block are those of all scores at once, in the order of the corpus where scores are equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from expectations.contracts.embedding import Fusion
from ft_assets.embedding import exact_search
from ft_assets.embedding.exact_search import (
    Top,
    in_blocks,
    lexical_scores,
    named,
    rank,
    rank_arms,
    rank_lexical,
    score_blocks,
)
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.embedding.model import Encoded
from ft_assets.embedding.sparse import SparseRows
from ft_assets.retrieval.score_floor import best_scores
from resources.engines.fusion import fuse

CORPUS = Path(__file__).parents[3] / "examples"
FUSION = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=20)
FUSIONS = {name: replace(FUSION, fusion=name) for name in ("weighted_sum", "dbsf", "rrf")}


def real_corpus() -> tuple[Encoded, Encoded, list[str]]:
    """Return questions, passages and ids: BM25 of real lines in two languages, many of them twice, and random vectors
    with ties."""
    lines = [
        line
        for path in sorted(CORPUS.glob("??/corpus/*.*"))
        for line in path.read_text("utf-8", errors="replace").splitlines()
        if len(line) > 20
    ]
    texts = (lines * 3)[:1500]
    sparse, bm25 = index_bm25(texts, Bm25Settings(language="auto", stop_words=None, k1=1.2, b=0.75))
    dice = np.random.default_rng(0)
    dense = dice.integers(-2, 3, (len(texts), 6)).astype(np.float32)  # small whole numbers: many equal scores
    asked = [line[:40] for line in lines[:: max(len(lines) // 30, 1)]]
    queries = Encoded(dice.integers(-2, 3, (len(asked), 6)).astype(np.float32), coarse(sparse_queries(bm25, asked)), 0)
    return queries, Encoded(dense, coarse(sparse), 0), [f"p{n}" for n in range(len(texts))]


def coarse(vectors: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Round weights to 1/64: their sums are exact, so a block that adds in another order ranks equal passages alike."""
    return [(ids, np.round(values * 64).astype(np.float32) / 64) for ids, values in vectors]


def best(scores: np.ndarray, ids: Sequence[str], depth: int = 100) -> list[list[str]]:
    """Return the ranking by definition: highest score first; equal scores stay in the corpus's order."""
    ranking = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return [[ids[column] for column in row] for row in ranking.tolist()]


def all_at_once(queries: Encoded, passages: Encoded) -> tuple[np.ndarray, np.ndarray]:
    return queries.dense @ passages.dense.T, lexical_scores(queries.sparse, passages.sparse)


@pytest.mark.parametrize("block", [7, 400, 4096])
def test_the_rankings_of_blocks_are_those_of_all_scores(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(exact_search, "BLOCK", block)
    monkeypatch.setattr(exact_search, "_QUERIES", 8)
    queries, passages, ids = real_corpus()
    dense, lexical = all_at_once(queries, passages)
    for name, fusion in FUSIONS.items():
        ranked = rank_arms(queries, in_blocks(passages), ids, fusion)
        depth = 100 if name == "weighted_sum" else 20
        fused = best(fuse(fusion, dense, lexical), ids, depth)
        assert [row[:depth] for row in ranked["fused"]] == fused, name
        assert ranked["dense"] == best(dense, ids)
        assert ranked["sparse"] == best(lexical, ids)
    assert named(rank_lexical(queries.sparse, SparseRows.of(passages.sparse), 10), ids) == best(lexical, ids, 10)


def test_several_methods_share_one_pass() -> None:
    queries, passages, ids = real_corpus()
    together = rank(queries, in_blocks(passages), FUSIONS, 10)
    for name, fusion in FUSIONS.items():
        alone = rank(queries, in_blocks(passages), {name: fusion}, 10)[name]
        assert named(together[name], ids) == named(alone, ids)


def test_a_depth_beyond_the_corpus_ranks_all_of_it() -> None:
    queries, passages, ids = real_corpus()
    few = Encoded(passages.dense[:5], passages.sparse[:5], 0)
    dense, _ = all_at_once(queries, few)
    assert rank_arms(queries, [few], ids, FUSION)["dense"] == best(dense, ids[:5])
    assert rank_arms(queries, [], ids, FUSION)["dense"] == [[] for _ in queries.sparse]


def test_the_floor_takes_whole_documents_away_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages, ids = real_corpus()
    documents = {name: f"d{n % 40}" for n, name in enumerate(ids)}
    relevant = [{f"p{n}": 1, f"p{n + 1}": 1} for n in range(len(queries.sparse))]
    fused = fuse(FUSION, *all_at_once(queries, passages))
    expected = fused.max(axis=1).tolist()
    for row, judged in zip(fused, relevant, strict=True):
        row[[n for n, name in enumerate(ids) if documents[name] in {documents[one] for one in judged}]] = -np.inf
    monkeypatch.setattr(exact_search, "BLOCK", 64)
    found = best_scores(queries, in_blocks(passages), ids, relevant, documents=documents, fusion=FUSION)
    assert found == (expected, fused.max(axis=1).tolist())


def test_scores_that_are_no_numbers_drop_no_passage() -> None:
    top = Top(1, 3)
    top.add(slice(0, 1), 0, np.array([[np.nan, np.nan, np.nan, 1, 2]], np.float32))
    assert [rows.tolist() for rows in top.rows()] == [[4, 3]]
    top.add(slice(0, 1), 5, np.array([[3, np.nan]], np.float32))
    assert [rows.tolist() for rows in top.rows()] == [[5, 4, 3]]


def test_what_is_kept_does_not_grow_with_the_corpus() -> None:
    top = Top(3, 10)
    for first in range(0, 5000, 50):
        top.add(slice(0, 3), first, np.tile(np.arange(50, dtype=np.float32), (3, 1)))
    assert top.scores.shape == (3, 10)
    # the highest score is in every block: the first ten of them
    assert [rows.tolist() for rows in top.rows()] == [[49 + 50 * n for n in range(10)]] * 3


def test_blocks_cover_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "BLOCK", 130)
    monkeypatch.setattr(exact_search, "_QUERIES", 7)
    queries, passages, ids = real_corpus()
    seen = np.zeros((len(queries.sparse), len(ids)), int)
    for block in score_blocks(queries, in_blocks(passages)):
        seen[block.queries, block.first : block.first + block.dense.shape[1]] += 1
    assert (seen == 1).all()


def test_sparse_rows_read_like_a_list() -> None:
    vectors = [(np.array(ids, np.int32), np.ones(len(ids), np.float32)) for ids in ([1, 5], [], [2], [5, 9])]
    rows = SparseRows.of(iter(vectors))
    assert [ids.tolist() for ids, _ in rows] == [[1, 5], [], [2], [5, 9]]
    assert [ids.tolist() for ids, _ in rows[1:3]] == [[], [2]]
    assert [ids.tolist() for ids, _ in rows[::2]] == [[1, 5], [2]]
    assert [ids.tolist() for ids, _ in rows.take([3, 0])] == [[5, 9], [1, 5]]
    assert rows.wide(np.array([5, 9])).tolist() == [[1, 0], [0, 0], [0, 0], [1, 1]]
    assert len(SparseRows.of([])) == 0 and rows[9:].wide(np.array([1])).shape == (0, 1)
