"""The protocol of an engine: the calls that building, checking, serving and moving a collection need, and no more.

Three engines keep this protocol: `local` and `server` through qdrant-client (client.py), `edge` in process (edge.py).
The same tests run on all of them (tests/resources/test_engines.py).
"""

# numpy's shapes are not typed here
# pyright: basic
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from expectations.contracts.embedding import Fusion, Serving
from expectations.violations import Refused, violation

if TYPE_CHECKING:
    import numpy as np

DENSE, SPARSE = "dense", "sparse"
Arm = Literal["dense", "sparse", "fused"]
PayloadType = Literal["text", "texts", "whole", "number", "bool"]
"""Type of a payload field that filters name: a text, a list of texts, a whole number, a number, true or false."""
TokenWeights = tuple["Sequence[int] | np.ndarray", "Sequence[float] | np.ndarray"]
"""Token ids and their weights, as arrays or lists."""
OpenJson = dict[str, Any]
"""A JSON object with keys that only its writer knows: a payload, or the metadata of a collection."""
Term = TypeVar("Term")
"""One part of a formula, as the engine's own library types it."""


@dataclass(frozen=True)
class Points:
    """Some points, column by column. `ids` are UUIDs as text; `dense` is [B, D] float32.

    Read from an engine, a missing dense vector is a row of NaN, a missing sparse one is empty.
    """

    ids: list[str]
    dense: np.ndarray
    sparse: list[tuple[np.ndarray, np.ndarray]]
    payloads: list[OpenJson]


class Condition(NamedTuple):
    """A condition on a payload field. `sign` is `=`, or one of `>=`, `>`, `<=`, `<` for a number."""

    field: str
    sign: str
    value: str | float | bool


@dataclass(frozen=True)
class Query:
    """One question. `fusion` and `distance` are needed for the fused arm; `ids` limits the answer to these points;
    `where` to those that meet every condition, in each arm before the fusion. `exact` compares with every point, where
    an index would be faster and nearly as good. `oversampling`: see Storage."""

    dense: list[float]
    sparse: TokenWeights
    arm: Arm
    limit: int
    payload: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None
    fusion: Fusion | None = None
    distance: str = "cosine"
    exact: bool = False
    where: tuple[Condition, ...] = ()
    oversampling: float | None = None


class Scored(NamedTuple):
    """One answer of an engine: the point's id, its score, the payload that was requested."""

    id: str
    score: float
    payload: OpenJson
    rerank: float | None = None
    """The score of the cross-encoder, for a point that was ranked again."""


class VectorClient(Protocol):
    """An opened engine. `name` is always a collection's own name, never an alias."""

    @property
    def copies(self) -> bool:
        """True if this engine has a cheaper way to copy a collection than upserting its points."""
        ...

    def names(self) -> list[str]:
        """Return every collection."""
        ...

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        ...

    def create(self, name: str, serving: Serving, metadata: Mapping[str, object]) -> None:
        """Create an empty collection with the named vectors `dense` and `sparse`."""
        ...

    def copy(self, source: str, name: str, serving: Serving, metadata: Mapping[str, object]) -> bool:
        """Create a collection with the points of `source`. Return False, with nothing made, if that is impossible."""
        ...

    def settle(self, name: str) -> None:
        """End a copy into this collection that was interrupted, so that its points may be written."""
        ...

    def drop(self, name: str) -> None:
        """Delete a collection. Raises Refused (FT-QDR-005) while an alias names it."""
        ...

    def serving(self, name: str) -> Serving | None:
        """Return dimension and distance of `dense`, as the engine is configured; None if there is no such vector."""
        ...

    def metadata(self, name: str) -> OpenJson: ...

    def set_metadata(self, name: str, changes: Mapping[str, object]) -> None:
        """Write these keys in one step: a reader sees all old or all new values."""
        ...

    def count(self, name: str, holding: str | None = None) -> int:
        """Return the exact number of points, or of those that have the vector `holding`."""
        ...

    def upsert(self, name: str, points: Points) -> None:
        """Write points, which survive a kill once this returns.

        Raises Refused (FT-QDR-006) on vectors that no engine should accept.
        """
        ...

    def upload(self, name: str, batches: Iterable[Points]) -> Iterator[int]:
        """Write many batches, and yield the number of points of each that survives a kill. Raises Refused as `upsert`.

        Batches may be written at the same time: no point may be in two of them.
        """
        ...

    def delete(self, name: str, ids: Sequence[str]) -> None: ...

    def set_payloads(self, name: str, payloads: Mapping[str, OpenJson]) -> None:
        """Replace the whole payload of these points, and leave their vectors as they are."""
        ...

    def index_payload(self, name: str, fields: Mapping[str, PayloadType]) -> None:
        """Build an index for filters on these fields, where the engine has one. Does nothing where it exists."""
        ...

    def retrieve(self, name: str, ids: Sequence[str]) -> Points:
        """Return those of these points that exist."""
        ...

    def scroll(self, name: str, batch: int = 256) -> Iterator[Points]:
        """Yield every point, `batch` at a time."""
        ...

    def payloads(self, name: str, keys: Sequence[str] | None = None) -> Iterator[dict[str, OpenJson]]:
        """Yield the payloads of every point, or these fields of them, by point id, some thousand at a time."""
        ...

    def field(self, name: str, key: str) -> OpenJson:
        """Return one payload field of every point, by point id."""
        ...

    def query(self, name: str, queries: Sequence[Query]) -> list[list[Scored]]:
        """Return the answers to each query, best first."""
        ...

    def index(self, name: str) -> None:
        """Return when every point is in the index that it belongs into; after the last write, before the first query.

        Raises Refused (FT-QDR-013) if the engine does not build it.
        """
        ...

    def point(self, alias: str, name: str) -> None:
        """Let `alias` name this collection, in one step: at no moment does it name none."""
        ...

    def close(self) -> None: ...


class Algebra(NamedTuple, Generic[Term]):
    """The functions that build one engine's formula out of its terms."""

    constant: Callable[[float], Term]
    variable: Callable[[str], Term]
    add: Callable[[list[Term]], Term]
    multiply: Callable[[list[Term]], Term]


def weighted_sum(fusion: Fusion, distance: str, a: Algebra[Term]) -> tuple[Term, dict[str, float]]:
    """Return the formula over both raw scores, and the score that counts where an arm has none for a candidate.

    That is a point without a token in common, whose lexical score is 0: each arm scores the candidates of both arms.
    Every engine writes this formula in its own words, so the ranking is equal (fusion.py has it in numpy).
    """
    score, missing = a.variable("$score[0]"), 0.0
    if distance == "euclid":
        # unit vectors: the cosine is 1 - d²/2, so that a smaller distance counts more
        score = a.add([a.constant(1.0), a.multiply([a.constant(-0.5), score, score])])
        missing = math.sqrt(2)
    arms = [(fusion.dense_weight, score), (fusion.sparse_weight, a.variable("$score[1]"))]
    formula = a.add([a.multiply([a.constant(weight), arm]) for weight, arm in arms])
    return formula, {"$score[0]": missing, "$score[1]": 0.0}


def one_by_one(client: VectorClient, name: str, batches: Iterable[Points]) -> Iterator[int]:
    """Write batches as `VectorClient.upload` does, for an engine that has one writer."""
    for points in batches:
        client.upsert(name, points)
        yield len(points.ids)


def one_field(pages: Iterator[dict[str, OpenJson]], key: str) -> OpenJson:
    """Return one field of payloads that come in pages, by point id."""
    values: OpenJson = {}
    for page in pages:
        values |= {point: payload.get(key) for point, payload in page.items()}
    return values


def dense_rows(rows: Sequence[Sequence[float] | None]) -> np.ndarray:
    """[B, D] float32; a row of NaN where there is no vector."""
    import numpy as np

    missing = [float("nan")] * max((len(row) for row in rows if row is not None), default=0)
    return np.asarray([missing if row is None else row for row in rows], dtype=np.float32)


def require_sound(where: str, points: Points, dimension: int) -> None:
    """Raise Refused (FT-QDR-006) on another dimension, NaN or an infinity, or a token id that is there twice.

    The engines differ in which of these they accept silently; here all refuse them.
    """
    import numpy as np

    if points.dense.shape[1:] != (dimension,):
        raise _unsound(where, "dimension", points.dense.shape[-1], dimension)
    if not np.isfinite(points.dense).all():
        raise _unsound(where, "dense", "NaN or an infinity", "finite numbers")
    lengths = [len(ids) for ids, _ in points.sparse]
    if not any(lengths):
        return
    # all rows at once: a token id and its row make one number
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64) << 32, lengths)
    pairs = np.sort(rows + np.concatenate([ids for ids, _ in points.sparse]))
    if lengths != [len(values) for _, values in points.sparse] or (pairs[1:] == pairs[:-1]).any():
        raise _unsound(where, "sparse", "a token id twice, or without its weight", "one weight a token id")
    if not np.isfinite(np.concatenate([values for _, values in points.sparse])).all():
        raise _unsound(where, "sparse", "NaN or an infinity", "finite numbers")


RANGES = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
"""Sign of a condition -> its name in Qdrant's ranges."""


def range_of(condition: Condition) -> dict[str, float] | None:
    """Return a condition as Qdrant's range; None for a text, a whole number or a bool, which are matched."""
    if condition.sign in RANGES:
        return {RANGES[condition.sign]: float(condition.value)}
    return {"gte": condition.value, "lte": condition.value} if isinstance(condition.value, float) else None


def require_unaliased(name: str, aliases: Mapping[str, str]) -> None:
    """Raise Refused (FT-QDR-005) if an alias names the collection."""
    if serving := sorted(alias for alias, collection in aliases.items() if collection == name):
        refusal = violation("FT-QDR-005", where=name, field="alias", found=serving, expected="none")
        raise Refused(f"deleting {name}", [refusal])


def _unsound(where: str, field: str, found: object, expected: object) -> Refused:
    refusal = violation("FT-QDR-006", where=where, field=field, found=found, expected=expected)
    return Refused(f"writing to {where}", [refusal])
