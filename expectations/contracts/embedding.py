"""The embedding contract: everything that a stored vector and a query must agree on, and what a difference costs.

The weights alone do not identify a model: pooling, prompts, token limits and the tokenizer change vectors as well. The
contract is saved in the model folder (without `serving` and `fusion`, which are decided when a collection is built and
released) and in the collection's metadata (with them). The probes find what no field names: a library upgrade that
shifts the vectors of unchanged weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from expectations.canonical import digest
from expectations.contracts.compare import Comparison, Difference, Level, differences
from expectations.violations import Refused, Violation, violation

FORMAT = "ft-embedding-contract/1"
CONTRACT_FILE = "contract.json"
DENSE_TOLERANCE = 0.999
SPARSE_TOLERANCE = 0.99


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the training started from. Provenance only: the hash of the weights is what counts."""

    name: str
    version: str
    revision: str | None = None


class Dense(msgspec.Struct, frozen=True, kw_only=True):
    """The dense head. `dimensions` are those that the model was trained for, the full one first."""

    dimensions: list[int]
    pooling: Literal["mean", "cls"]
    normalize: bool = True


class Sparse(msgspec.Struct, frozen=True, kw_only=True):
    """The tokenizer, and the lexical head: one weight for each token id, the largest where a token occurs more than
    once."""

    head_sha256: str | None
    """None where no head was trained: the lexical arm is then BM25."""
    tokenizer_sha256: str
    vocabulary: int
    masked_ids: list[int]
    prompts: Literal["masked"] | msgspec.UnsetType = msgspec.UNSET
    """The tokens of a prompt have no weight. Not set without prompts, or where an earlier release trained the head."""
    activation: str = "relu"
    aggregation: str = "max"


class Lexical(msgspec.Struct, frozen=True, kw_only=True):
    """The lexical arm by BM25 (expectations/lexical): the terms of a text, the weights of a passage, idf of a query.

    `average_length` is frozen, so that a new document changes no stored vector. The last two belong to the query alone.
    """

    kind: Literal["bm25", "bm25_learned"] = "bm25"
    """`bm25_learned`: the weights of a passage are multiplied by factors of the model (`factors_sha256`)."""
    language: str
    stop_words: list[str]
    terms_sha256: str
    """Fingerprint of the terms of a fixed text, as the libraries gave them."""
    k1: float
    b: float
    average_length: float
    """Terms of a passage, on average."""
    passages: int
    frequencies_sha256: str
    """The sha256 of the table of document frequencies, which lies next to the contract."""

    @property
    def passage_side(self) -> dict[str, object]:
        """Everything that changes what a passage stores."""
        sides: dict[str, object] = msgspec.to_builtins(self)
        return {name: value for name, value in sides.items() if name not in ("passages", "frequencies_sha256")}


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts put before texts, and the lengths they are cut to (tokens, special ones included)."""

    query_prompt: str
    passage_prompt: str
    query_max_tokens: int
    passage_max_tokens: int


class Storage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The way in which Qdrant keeps the dense vectors of a collection. None leaves a value to the engine."""

    on_disk: bool = False
    quantization: Literal["none", "int8", "binary"] = "none"
    oversampling: float | None = None
    """Candidates by the quantized vectors, as a multiple of the answers; the exact vectors then rank them."""
    hnsw_m: int | None = None
    hnsw_ef_construct: int | None = None
    shards: int | None = None
    replicas: int | None = None

    @property
    def shapes_index(self) -> bool:
        """True where the HNSW index is not as the engine makes it by itself."""
        return self.hnsw_m is not None or self.hnsw_ef_construct is not None or self.on_disk


class Serving(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The form of the vectors in a collection: dimension, distance, and how they are stored."""

    dimension: int
    distance: Literal["cosine", "dot", "euclid"]
    storage: Storage | None = None
    """None: as the engine stores them by itself."""

    @property
    def form(self) -> Serving:
        """Dimension and distance alone, which every engine states of a collection."""
        return msgspec.structs.replace(self, storage=None)


class Rerank(msgspec.Struct, frozen=True, kw_only=True):
    """The cross-encoder that puts the best `top_n` passages of the fused ranking in their final order."""

    model: str
    """Its name: of a hub model, a folder, or `package:NAME`."""
    revision: str | None
    version: str
    """Of its content: weights, tokenizer and configuration."""
    top_n: int
    max_tokens: int
    """Of question and passage together, special ones included; the rest of the passage is cut."""


class Fusion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The method that makes one ranking of the two arms. The weights count for `weighted_sum` only."""

    fusion: Literal["weighted_sum", "dbsf", "rrf"]
    dense_weight: float
    sparse_weight: float
    prefetch_limit: int
    rerank: Rerank | None = None
    """The model that ranks the best passages again; None: the fused ranking is what serves."""

    def without_rerank(self) -> Fusion:
        """Return the fusion alone."""
        return msgspec.structs.replace(self, rerank=None)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A text and the vectors (fp32) that the new model gave it. Sparse keys are token ids as text."""

    text: str
    kind: Literal["query", "passage"]
    dense: list[float]
    sparse: dict[str, float]


class EmbeddingContract(msgspec.Struct, frozen=True, kw_only=True):
    """The contract. `encode_fp` ⊂ `index_fp`: what changes a vector, and what changes its stored form."""

    weights_sha256: str
    base: Base
    dense: Dense
    sparse: Sparse
    texts: Texts
    lexical: Lexical | None = None
    """The lexical arm by BM25; None: the arm is the learned head (`sparse`)."""
    factors_sha256: str | msgspec.UnsetType = msgspec.UNSET
    """The model's factors of BM25's weights. Not set where none were trained, or none that gain certainly."""
    serving: Serving | None = None
    fusion: Fusion | None = None
    probes: list[Probe] = []
    libraries: dict[str, str] = {}
    format: str = FORMAT

    @property
    def encode_fp(self) -> str:
        """The sha256 of everything that changes the vector of a text. If it is equal, cached vectors may be reused."""
        # the trained dimensions decide how a vector may be cut, not its values
        dense = {
            "pooling": self.dense.pooling,
            "normalize": self.dense.normalize,
            "dimension": self.dense.dimensions[0],
        }
        parts = [self.weights_sha256, dense, msgspec.to_builtins(self.sparse), msgspec.to_builtins(self.texts)]
        return digest(parts)

    @property
    def index_fp(self) -> str:
        """The sha256 of everything that invalidates stored vectors: `encode_fp`, the served dimension, the distance,
        the storage, and the passages' side of BM25."""
        parts = [self.encode_fp, msgspec.to_builtins(self.serving)]
        return digest([*parts, self.lexical_side] if self.lexical_side else parts)

    @property
    def lexical_side(self) -> dict[str, object] | None:
        """Everything that changes what a passage stores for the lexical arm by BM25; None without that arm."""
        if self.lexical is None or self.lexical.kind == "bm25":
            return self.lexical and self.lexical.passage_side
        return {**self.lexical.passage_side, "factors": self.factors_sha256 or None}

    @property
    def fusion_fp(self) -> str:
        """The sha256 of weights, method, prefetch, rerank model, idf: a change costs an evaluation and no encoding."""
        fusion = msgspec.to_builtins(self.fusion)
        return digest([fusion, self.lexical.frequencies_sha256] if self.lexical else fusion)

    def served(self, serving: Serving, fusion: Fusion | None) -> EmbeddingContract:
        """Return this contract as a collection carries it."""
        return msgspec.structs.replace(self, serving=serving, fusion=fusion)

    def as_in(self, stored: EmbeddingContract) -> EmbeddingContract:
        """Return this model's contract with the parts that are chosen for a collection, as `stored` has them."""
        return msgspec.structs.replace(self, lexical=stored.lexical, serving=stored.serving, fusion=stored.fusion)

    def to_json(self) -> dict[str, Any]:
        """Return the contract as a JSON object."""
        return msgspec.to_builtins(self)


def read_contract(value: Mapping[str, Any], where: str) -> EmbeddingContract:
    """Return the contract in a JSON object. Raises Refused (FT-EMB-001) if this release cannot read it."""
    try:
        contract = msgspec.convert(dict(value), EmbeddingContract)
    except msgspec.ValidationError as error:
        raise _unreadable(where, str(error), value.get("format")) from error
    if contract.format != FORMAT:
        raise _unreadable(where, "the format is another one", contract.format)
    return contract


_FIXES = {
    Level.IDENTICAL: "",
    Level.REWEIGHT: "ft run --asset released_collection (with its upstream retrieval_evaluation)",
    Level.REINDEX: "ft run --group retrieval",
    Level.BROKEN: "install the library versions the contract names, or ft run --group embedding --group retrieval",
}


def compare(stored: EmbeddingContract, wanted: EmbeddingContract) -> Comparison:
    """Compare the contract of stored vectors with the wanted one. Base and libraries are provenance and do not count.

    The level is IDENTICAL, REWEIGHT, REINDEX or BROKEN.
    """
    differing = differences(stored, wanted, ignore=("base", "libraries", "probes"))
    if stored.index_fp != wanted.index_fp:
        level = Level.REINDEX
    elif drifted := probe_drift(stored.probes, wanted.probes):
        level, differing = Level.BROKEN, [*differing, *drifted]
    elif stored.fusion_fp != wanted.fusion_fp:
        level = Level.REWEIGHT
    else:
        level, differing = Level.IDENTICAL, []
    return Comparison(level, differing, "FT-EMB-002", _FIXES[level])


def guard(stored: EmbeddingContract, wanted: EmbeddingContract, where: str) -> None:
    """Refuse (raises Refused, FT-EMB-002) to query vectors that another model made, or this one in another form."""
    comparison = compare(stored, wanted)
    if comparison.level in (Level.REINDEX, Level.BROKEN):
        raise Refused(f"querying {where}", comparison.violations(where))


def probe_drift(stored: Sequence[Probe], now: Sequence[Probe]) -> list[Difference]:
    """Return the probes whose vectors are not the same now: dense cosine below 0.999 or sparse cosine below 0.99."""
    fresh = {(probe.kind, probe.text): probe for probe in now}
    drifted: list[Difference] = []
    for index, probe in enumerate(stored):
        other = fresh.get((probe.kind, probe.text))
        if other is None:
            drifted.append(Difference(f"probes.{index}", probe.text, None))
            continue
        dense, sparse = cosine(probe.dense, other.dense), _sparse_cosine(probe.sparse, other.sparse)
        if not dense >= DENSE_TOLERANCE:  # a NaN must fail
            drifted.append(Difference(f"probes.{index}.dense (cosine)", round(dense, 6), DENSE_TOLERANCE))
        if not sparse >= SPARSE_TOLERANCE:
            drifted.append(Difference(f"probes.{index}.sparse (cosine)", round(sparse, 6), SPARSE_TOLERANCE))
    return drifted


def dimension_violations(contract: EmbeddingContract, dimension: int, where: str) -> list[Violation]:
    """FT-EMB-003: the served dimension is one that the model was trained for."""
    trained = contract.dense.dimensions
    if dimension in trained:
        return []
    fix = f"Set retrieval.dimension to one of these, or add {dimension} to embedding.matryoshka and train again."
    return [
        violation("FT-EMB-003", where=where, field="retrieval.dimension", found=dimension, expected=trained, fix=fix)
    ]


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of two vectors; -1 where their lengths differ, 0 where one of them is empty."""
    if len(left) != len(right):
        return -1.0
    scale = math.hypot(*left) * math.hypot(*right)
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / scale if scale else 0.0


def _sparse_cosine(left: Mapping[str, float], right: Mapping[str, float]) -> float:
    if not left and not right:
        return 1.0
    keys = sorted(left.keys() | right.keys())
    return cosine([left.get(key, 0.0) for key in keys], [right.get(key, 0.0) for key in keys])


def _unreadable(where: str, reason: str, found: object) -> Refused:
    message = f"The embedding contract cannot be read: {reason}"
    unreadable = violation("FT-EMB-001", where=where, message=message, field="format", found=found, expected=FORMAT)
    return Refused(f"reading the contract of {where}", [unreadable])
