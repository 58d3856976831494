"""The lexical arm by BM25 over a corpus: its language and average length, its vectors, its document frequencies."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from expectations.canonical import text_digest
from expectations.contracts.embedding import EmbeddingContract, Lexical
from expectations.lexical.bm25 import Bm25, Bm25Queries, DocumentFrequencies
from expectations.lexical.terms import Terms, detect_language, usual_stop_words
from ft_assets.config.model import RetrievalSettings
from ft_assets.embedding.jobs import Bm25Settings
from ft_assets.embedding.sparse import SparseRows, SparseVector

if TYPE_CHECKING:
    from ft_assets.embedding.model import Encoded

FREQUENCIES_FILE = "document_frequencies.txt"
SAMPLED = 2048
"""Texts from which language and average length are read."""
_SAME_LENGTH = 0.2  # share by which the average may move before the stored weights are computed again


def bm25_settings(settings: RetrievalSettings) -> Bm25Settings:
    """Return the settings of BM25."""
    return Bm25Settings(
        language=settings.language, stop_words=settings.stop_words, k1=settings.bm25_k1, b=settings.bm25_b
    )


def plan_bm25(settings: Bm25Settings, texts: Sequence[str], earlier: Iterable[Lexical]) -> Lexical:
    """Return the passages' side of BM25 for a corpus of which `texts` are a sample; its frequencies are still empty.

    The average length is that of the first of `earlier` with the same terms, unless the corpus has changed by more than
    a fifth: so a new document changes no stored vector. Raises Refused (FT-LEX-001) for an unknown language.
    """
    language = detect_language(texts) if settings.language == "auto" else settings.language
    stop_words = usual_stop_words(language) if settings.stop_words is None else settings.stop_words
    terms = Terms(language, stop_words)
    measured = max(sum(len(terms.of(text)) for text in texts) / max(len(texts), 1), 1.0)
    planned = Lexical(
        language=language,
        stop_words=terms.stop_words,
        terms_sha256=terms.fingerprint,
        k1=settings.k1,
        b=settings.b,
        average_length=round(measured, 1),
        passages=0,
        frequencies_sha256="",
    )
    for other in earlier:
        same_terms = (other.language, other.stop_words) == (planned.language, planned.stop_words)
        if same_terms and abs(other.average_length - measured) <= _SAME_LENGTH * measured:
            return replace(planned, average_length=other.average_length)
    return planned


def sparse_passages(bm25: Bm25, texts: Sequence[str]) -> list[SparseVector]:
    """Return numbers of terms (int32, ascending) and weights (float32) of each passage."""
    return [_as_arrays(*bm25.passage(text)) for text in texts]


class FrequencyCounter:
    """Counts the passages of each term, from their sparse vectors, some passages at a time."""

    def __init__(self) -> None:
        self._passages = 0
        self._numbers, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, numbers: np.ndarray, passages: int, *, gone: bool = False) -> None:
        """Count the numbers of the terms of some passages, each once for each passage. `gone`: take them back."""
        fresh, counts = np.unique(numbers, return_counts=True)
        self.add_counts(fresh, -counts if gone else counts, -passages if gone else passages)

    def add_counts(self, numbers: np.ndarray, counts: np.ndarray, passages: int) -> None:
        """Add what was counted before."""
        self._passages += passages
        merged, positions = np.unique(np.concatenate([self._numbers, numbers]), return_inverse=True)
        totals = np.bincount(positions, np.concatenate([self._counts, counts]), len(merged))
        kept = totals > 0
        self._numbers, self._counts = merged[kept], totals[kept].astype(np.int64)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the terms (int64, ascending) and the number of passages of each."""
        return self._numbers, self._counts

    def result(self) -> DocumentFrequencies:
        """Return the frequencies of all terms that were counted."""
        return DocumentFrequencies(
            self._passages, dict(zip(self._numbers.tolist(), self._counts.tolist(), strict=True))
        )


def with_frequencies(lexical: Lexical, frequencies: str, passages: int) -> Lexical:
    """Return the contract's part with the query's side: this table of frequencies."""
    return replace(lexical, passages=passages, frequencies_sha256=text_digest(frequencies))


def query_side(contract: EmbeddingContract, frequencies: str | None, where: str) -> Bm25Queries | None:
    """Return the weights of queries to vectors with this contract; None where the lexical arm is the model's own.

    `frequencies`: the table that lies next to the contract. Raises Refused as `Bm25Queries`.
    """
    return Bm25Queries(contract.lexical, frequencies, where) if contract.lexical else None


def with_lexical_arm(queries: Encoded, texts: Sequence[str], bm25: Bm25Queries | None) -> Encoded:
    """Return the vectors that a model gave these texts, with BM25's in place of its lexical ones (see `query_side`)."""
    return queries if bm25 is None else queries._replace(sparse=sparse_queries(bm25, texts))


def sparse_queries(queries: Bm25Queries, texts: Sequence[str]) -> list[SparseVector]:
    """Return numbers of terms (int32, ascending) and weights (float32) of each query."""
    return [_as_arrays(*queries.vector(text)) for text in texts]


def index_bm25(texts: Sequence[str], settings: Bm25Settings) -> tuple[SparseRows, Bm25Queries]:
    """Return the vectors of passages, and the query side that belongs to them."""
    lexical = plan_bm25(settings, texts[:: max(-(-len(texts) // SAMPLED), 1)], ())
    bm25 = Bm25(lexical)
    vectors = SparseRows.of(_as_arrays(*bm25.passage(text)) for text in texts)
    counter = FrequencyCounter()
    counter.add(vectors.indices, len(vectors))
    table = counter.result().to_text()
    return vectors, Bm25Queries(with_frequencies(lexical, table, len(texts)), table, "bm25")


def _as_arrays(indices: Sequence[int], values: Sequence[float]) -> SparseVector:
    return np.asarray(indices, np.int32), np.asarray(values, np.float32)
