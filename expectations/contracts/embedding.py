"""The embedding contract: everything a stored vector and a query must agree on, and what a difference costs.

Weights alone are no identity: pooling, prompts, token limits and the tokenizer change vectors just as silently. The
contract travels in the model folder (without `serving` and `fusion`, which are decided when a collection is built and
released) and in the collection's metadata (with them). The probes catch what no field names: a library upgrade that
shifts the vectors of unchanged weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

import msgspec

from expectations.canonical import digest
from expectations.contracts.compare import Difference, differences
from expectations.violations import Refused, Violation

FORMAT = "ft-embedding-contract/1"
FILE = "contract.json"
DENSE_TOLERANCE = 0.999
SPARSE_TOLERANCE = 0.99


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """Where the training started. Provenance only: the weights' hash is what counts."""

    name: str
    version: str
    revision: str | None = None


class Dense(msgspec.Struct, frozen=True, kw_only=True):
    """The dense head. `dimensions` are those the model was trained for, the full one first."""

    dimensions: list[int]
    pooling: Literal["mean", "cls"]
    normalize: bool = True


class Sparse(msgspec.Struct, frozen=True, kw_only=True):
    """The lexical head: one weight a token id, the largest where a token occurs more than once."""

    head_sha256: str
    tokenizer_sha256: str
    vocabulary: int
    masked_ids: list[int]
    activation: str = "relu"
    aggregation: str = "max"


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """What is put before a text and where it is cut (tokens, special ones included)."""

    query_prompt: str
    passage_prompt: str
    query_max_tokens: int
    passage_max_tokens: int


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How vectors stand in the collection."""

    dimension: int
    distance: Literal["cosine", "dot", "euclid"]


class Fusion(msgspec.Struct, frozen=True, kw_only=True):
    """How the two arms become one ranking. The weights count for `weighted_sum` alone."""

    fusion: Literal["weighted_sum", "dbsf", "rrf"]
    dense_weight: float
    sparse_weight: float
    prefetch_limit: int


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A text and the vectors (fp32) that the model gave it when it was made. Sparse keys are token ids as text."""

    text: str
    kind: Literal["query", "passage"]
    dense: list[float]
    sparse: dict[str, float]


class EmbeddingContract(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `encode_fp` ⊂ `index_fp`: what changes a vector, and what changes the stored form of it."""

    weights_sha256: str
    base: Base
    dense: Dense
    sparse: Sparse
    texts: Texts
    serving: Serving | None = None
    fusion: Fusion | None = None
    probes: list[Probe] = []
    libraries: dict[str, str] = {}
    format: str = FORMAT

    @property
    def encode_fp(self) -> str:
        """sha256 over whatever changes the vector of a text. Equal: a cached vector may be used again."""
        # the trained dimensions say how a vector may be cut, not what it is
        dense = {
            "pooling": self.dense.pooling,
            "normalize": self.dense.normalize,
            "dimension": self.dense.dimensions[0],
        }
        parts = [self.weights_sha256, dense, msgspec.to_builtins(self.sparse), msgspec.to_builtins(self.texts)]
        return digest(parts)

    @property
    def index_fp(self) -> str:
        """sha256 over whatever invalidates stored vectors: `encode_fp`, the dimension served, the distance."""
        return digest([self.encode_fp, msgspec.to_builtins(self.serving)])

    @property
    def fusion_fp(self) -> str:
        """sha256 over weights, method and prefetch: a change costs an evaluation and no encoding."""
        return digest(msgspec.to_builtins(self.fusion))

    def served(self, serving: Serving, fusion: Fusion | None) -> EmbeddingContract:
        """This contract as a collection carries it."""
        return msgspec.structs.replace(self, serving=serving, fusion=fusion)

    def to_json(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


def read_contract(value: Mapping[str, Any], where: str) -> EmbeddingContract:
    """The contract in a JSON object. Raises Refused (FT-EMB-001) if it is none this release can read."""
    try:
        contract = msgspec.convert(dict(value), EmbeddingContract)
    except msgspec.ValidationError as error:
        raise _unreadable(where, str(error), value.get("format")) from error
    if contract.format != FORMAT:
        raise _unreadable(where, "the format is another one.", contract.format)
    return contract


class Level(StrEnum):
    """What a difference between a stored and a wanted contract costs."""

    IDENTICAL = "IDENTICAL"
    REWEIGHT = "REWEIGHT"
    """Only the fusion differs: evaluate and release again, encode nothing."""
    REINDEX = "REINDEX"
    """Stored vectors do not fit: build a new collection beside this one."""
    BROKEN = "BROKEN"
    """The fields agree and the vectors do not: something changed that no field names."""


_FIXES = {
    Level.IDENTICAL: "",
    Level.REWEIGHT: "ft run --asset released_collection (with its upstream retrieval_evaluation)",
    Level.REINDEX: "ft run --group retrieval",
    Level.BROKEN: "install the library versions the contract names, or ft run --group embedding --group retrieval",
}


class Comparison(msgspec.Struct, frozen=True):
    """The level, every differing field with both values, and the command that fixes it."""

    level: Level
    differences: list[Difference]
    fix: str

    def violations(self, where: str, code: str = "FT-EMB-002") -> list[Violation]:
        """One violation for each difference (none when identical)."""
        return [
            Violation(
                code=code, where=where, message=f"{self.level}: the contracts differ.", field=difference.field,
                found=difference.stored, expected=difference.expected, fix=self.fix,
            )
            for difference in self.differences
        ]  # fmt: skip


def compare(stored: EmbeddingContract, wanted: EmbeddingContract) -> Comparison:
    """How the contract of stored vectors stands to the one that is wanted. Base and libraries are provenance only."""
    found = differences(stored, wanted, ignore=("base", "libraries", "probes"))
    if stored.index_fp != wanted.index_fp:
        level = Level.REINDEX
    elif drifted := probe_drift(stored.probes, wanted.probes):
        return Comparison(Level.BROKEN, [*found, *drifted], _FIXES[Level.BROKEN])
    else:
        level = Level.REWEIGHT if stored.fusion_fp != wanted.fusion_fp else Level.IDENTICAL
    return Comparison(level, found if level is not Level.IDENTICAL else [], _FIXES[level])


def guard(stored: EmbeddingContract, wanted: EmbeddingContract, where: str) -> None:
    """Refuse (raises Refused, FT-EMB-002) to query what was not made by this very model in this very form."""
    comparison = compare(stored, wanted)
    if comparison.level in (Level.REINDEX, Level.BROKEN):
        raise Refused(f"querying {where}", comparison.violations(where))


def probe_drift(stored: Sequence[Probe], now: Sequence[Probe]) -> list[Difference]:
    """Probes whose vectors are no longer the same: dense cosine below 0.999 or sparse cosine below 0.99."""
    fresh = {(probe.kind, probe.text): probe for probe in now}
    found: list[Difference] = []
    for index, probe in enumerate(stored):
        other = fresh.get((probe.kind, probe.text))
        if other is None:
            found.append(Difference(f"probes.{index}", probe.text, None))
            continue
        dense, sparse = cosine(probe.dense, other.dense), _sparse_cosine(probe.sparse, other.sparse)
        if not dense >= DENSE_TOLERANCE:  # a NaN must fail
            found.append(Difference(f"probes.{index}.dense (cosine)", round(dense, 6), DENSE_TOLERANCE))
        if not sparse >= SPARSE_TOLERANCE:
            found.append(Difference(f"probes.{index}.sparse (cosine)", round(sparse, 6), SPARSE_TOLERANCE))
    return found


def dimension_violations(contract: EmbeddingContract, dimension: int, where: str) -> list[Violation]:
    """A served dimension that the model was not trained for (FT-EMB-003)."""
    if dimension in contract.dense.dimensions:
        return []
    return [
        Violation(
            code="FT-EMB-003", where=where, message="the model was not trained for this dimension.",
            field="retrieval.dimension", found=dimension, expected=contract.dense.dimensions,
            fix=f"set retrieval.dimension to one of these, or add {dimension} to embedding.matryoshka and train again",
        )
    ]  # fmt: skip


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Cosine of two vectors; -1 where their lengths differ, 0 where one of them is empty."""
    if len(left) != len(right):
        return -1.0
    scale = math.hypot(*left) * math.hypot(*right)
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / scale if scale else 0.0


def _sparse_cosine(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    if not left and not right:
        return 1.0
    keys = sorted(left.keys() | right.keys())
    return cosine([left.get(key, 0.0) for key in keys], [right.get(key, 0.0) for key in keys])


def _unreadable(where: str, message: str, found: Any) -> Refused:
    violation = Violation(
        code="FT-EMB-001", where=where, message=f"no embedding contract this release can read: {message}",
        field="format", found=found, expected=FORMAT, fix="ft run --group embedding --group retrieval",
    )  # fmt: skip
    return Refused(f"reading the contract of {where}", [violation])
