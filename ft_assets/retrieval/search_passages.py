"""Passages for questions, without those that validation or test hold out: the next hit takes their place."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ft_assets.corpus.collect import PASSAGES
from ft_assets.embedding.exact_search import rank_lexical
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.lexical import index_bm25, sparse_queries
from ft_assets.retrieval.search import Retriever
from resources.artifacts import Artifact
from resources.launcher import Job
from resources.parquet import row_count, text_column
from resources.qdrant import EngineParams
from resources.releases import open_releases


class FoundPassage(NamedTuple):
    """A hit."""

    passage_id: str
    content: str


class Shown(NamedTuple):
    """The passages of a prompt, and how many better hits are held out."""

    passages: list[FoundPassage]
    held_out: int


Find = Callable[[Sequence[str], int], list[list[FoundPassage]]]
"""(questions, k) -> the best passages of each."""


@contextmanager
def open_search(job: Job, engine: EngineParams | None, bm25: Bm25Settings, state: Path) -> Generator[Find]:
    """Yield the search of the released collection; without an engine that of BM25 over the passages."""
    if engine is None:
        yield _bm25(job.input("passages"), bm25)
        return
    with Retriever.open(job.artifacts(), open_releases(state / "released"), engine.engine()) as retriever:

        def find(questions: Sequence[str], k: int) -> list[list[FoundPassage]]:
            hits = retriever.search(questions, k)
            return [[FoundPassage(hit.passage_id, hit.content) for hit in found] for found in hits]

        yield find


def _bm25(passages: Artifact, settings: Bm25Settings) -> Find:
    ids, contents = (text_column(passages.table(PASSAGES), name) for name in ("passage_id", "content"))
    index, bm25 = index_bm25(contents, settings)

    def find(questions: Sequence[str], k: int) -> list[list[FoundPassage]]:
        ranked = rank_lexical(sparse_queries(bm25, questions), index, k)
        return [[FoundPassage(ids[row], contents[row]) for row in rows.tolist()] for rows in ranked]

    return find


def show_passages(
    find: Find, questions: Sequence[str], held_out: Sequence[Collection[str]], k: int, most: int
) -> list[Shown]:
    """Return the `k` best allowed passages of each question.

    `held_out[n]`: the ids that question n must not see; `most`: the number of passages in the corpus.
    """
    shown: dict[int, Shown] = {}
    depth, missing = min(2 * k, most), list(range(len(questions)))
    while missing:
        for n, hits in zip(missing, find([questions[n] for n in missing], depth), strict=True):
            allowed = [place for place, hit in enumerate(hits) if hit.passage_id not in held_out[n]][:k]
            passed_over = (allowed[-1] + 1 if allowed else len(hits)) - len(allowed)
            if len(allowed) == k or depth >= most or len(hits) < depth:
                shown[n] = Shown([hits[place] for place in allowed], passed_over)
        missing = [n for n in missing if n not in shown]
        depth = min(4 * depth, most)
    return [shown[n] for n in range(len(questions))]


def corpus_size(passages: Artifact) -> int:
    """Return the number of passages."""
    return row_count(passages.table(PASSAGES))
