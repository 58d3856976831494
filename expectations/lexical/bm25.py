"""BM25 as a product of two sparse vectors: what a passage stores, and what a query weighs it with.

A passage stores its saturated term frequencies, tf (k1 + 1) / (tf + k1 (1 - b + b · length / average)). A query weighs
each of its terms with its share of the query's idf. So a score lies between 0 and k1 + 1, and equal scores mean the
same for short and for long questions. What changes with every document (idf) is on the query's side alone: no stored
vector changes with it.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from expectations.canonical import text_digest
from expectations.contracts.embedding import Lexical, read_contract
from expectations.lexical.terms import Terms
from expectations.violations import Refused, Violation, violation

FREQUENCIES_KEY = "document_frequencies"
"""The key of a collection's metadata that holds `DocumentFrequencies`."""
_MOST_TERMS = 500_000


class SparseWeights(NamedTuple):
    """A sparse vector: numbers of terms, ascending, and their weights."""

    indices: list[int]
    values: list[float]


class TermWeight(NamedTuple):
    """A term of a query, with its number and its weight."""

    term: str
    number: int
    weight: float


class DocumentFrequencies(NamedTuple):
    """The number of passages that have a term, for all terms that more than one has, and the number of passages."""

    passages: int
    counts: Mapping[int, int]

    def idf(self, number: int) -> float:
        """Return the inverse document frequency of a term, above 0; a term of no passage counts as one of one."""
        count = self.counts.get(number, 1)
        return math.log(1 + (self.passages - count + 0.5) / (count + 0.5))

    def to_text(self) -> str:
        """Return the table as text: the numbers' differences and the counts, 4 bytes each, compressed, as base64."""
        frequent = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_TERMS]
        kept = sorted((number, count) for number, count in frequent if count > 1)
        terms = [number for number, _ in kept]
        steps = [number - before for number, before in zip(terms, [0, *terms], strict=False)]
        numbers = [self.passages, *steps, *(count for _, count in kept)]
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        return base64.b64encode(zlib.compress(packed, 6)).decode()

    @classmethod
    def from_text(cls, text: str) -> DocumentFrequencies:
        """Return the table that `to_text` wrote. Raises ValueError on another text."""
        try:
            packed = zlib.decompress(base64.b64decode(text, validate=True))
            passages, *rest = struct.unpack(f"<{len(packed) // 4}I", packed)
        except (ValueError, zlib.error, struct.error) as error:
            raise ValueError("this is no table of document frequencies") from error
        half = len(rest) // 2
        return cls(passages, dict(zip(accumulate(rest[:half]), rest[half:], strict=True)))


class Bm25:
    """The terms of a contract with their weights, for passages.

    Raises Refused (FT-LEX-002) if the libraries here do not give the terms that the contract records.
    """

    def __init__(self, lexical: Lexical, where: str = "bm25") -> None:
        self.lexical = lexical
        self.terms = Terms(lexical.language, lexical.stop_words)
        if self.terms.fingerprint != lexical.terms_sha256:
            found, expected = self.terms.fingerprint[:12], lexical.terms_sha256[:12]
            other = violation("FT-LEX-002", where=where, field="terms", found=found, expected=expected)
            raise Refused(f"reading terms for {where}", [other])

    def passage(self, text: str) -> SparseWeights:
        """Return what a passage stores."""
        numbers = self.terms.numbers(self.terms.of(text))
        k1, b = self.lexical.k1, self.lexical.b
        norm = k1 * (1 - b + b * len(numbers) / self.lexical.average_length)
        counts = sorted(Counter(numbers).items())
        return SparseWeights(
            [number for number, _ in counts], [count * (k1 + 1) / (count + norm) for _, count in counts]
        )


def frequencies_are_of_contract(where: str, lexical: Lexical | None, frequencies: str | None) -> list[Violation]:
    """FT-LEX-003: the table of document frequencies is the one that the contract names (none for a learned head)."""
    expected = lexical.frequencies_sha256 if lexical else None
    found = None if frequencies is None else text_digest(frequencies)
    if found == expected:
        return []
    return [violation("FT-LEX-003", where=where, field=FREQUENCIES_KEY, found=found, expected=expected)]


class Bm25Queries:
    """The lexical part of queries to one collection.

    A service needs nothing else than the base install and the metadata of the collection that it queries:

        metadata = client.get_collection("kb").config.metadata
        queries = Bm25Queries.from_metadata(metadata, "kb")
        indices, values = queries.vector("error code E-4102")

    Raises Refused: FT-LEX-002 as `Bm25`, FT-LEX-003 the table of frequencies is not the contract's.
    """

    def __init__(self, lexical: Lexical, frequencies: str | None, where: str) -> None:
        if others := frequencies_are_of_contract(where, lexical, frequencies):
            raise Refused(f"querying {where}", others)
        self.bm25 = Bm25(lexical, where)
        """The passages' side, without the factors of a model."""
        self._terms = self.bm25.terms
        self._frequencies = DocumentFrequencies.from_text(frequencies or "")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> Bm25Queries:
        """Return the query side of a collection with this metadata.

        Raises Refused: FT-EMB-001 there is no contract, FT-LEX-004 the lexical arm of this collection is not BM25.
        """
        lexical = read_contract(metadata.get("contract") or {}, where).lexical
        if lexical is None:
            learned = violation("FT-LEX-004", where=where, field="lexical", found="learned", expected="bm25")
            raise Refused(f"querying {where}", [learned])
        return cls(lexical, metadata.get(FREQUENCIES_KEY), where)

    def vector(self, text: str) -> SparseWeights:
        """Return the sparse vector of a query; without terms it is empty."""
        weighed = sorted((found.number, found.weight) for found in self.weights(text))
        return SparseWeights([number for number, _ in weighed], [weight for _, weight in weighed])

    def weights(self, text: str) -> list[TermWeight]:
        """Return the different terms of a query with their weights, which add up to 1, in the order of the text."""
        counts = Counter(self._terms.of(text))
        numbers = self._terms.numbers(list(counts))
        # two terms can share a number: their weights add up
        weights: dict[int, TermWeight] = {}
        for (term, count), number in zip(counts.items(), numbers, strict=True):
            weight = count * self._frequencies.idf(number)
            before = weights.get(number)
            weights[number] = TermWeight(term, number, weight + (before.weight if before else 0.0))
        total = math.fsum(found.weight for found in weights.values())
        return [found._replace(weight=found.weight / total) for found in weights.values()]
