"""Copies collections from one engine to another and checks that both answer alike. The alias moves last.

Nothing is deleted in the source engine. After an interruption, the next migration continues: points that were copied
already are not written again.
"""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from expectations.contracts.embedding import EmbeddingContract, Fusion, Level, compare
from expectations.rules.retrieval import (
    collection_is_complete,
    collection_matches_contract,
    without_fusion,
)
from expectations.violations import Refused, violation
from ft_assets.retrieval.collection import BATCH, Collection, inspect
from ft_assets.retrieval.query import TOLERANCE, count_equal
from ft_assets.retrieval.where import payload_fields
from resources.engines.protocol import Arm, Points, Query, VectorClient
from resources.qdrant import QdrantEngine, aliased

_LEAST_AGREEMENT = 0.95
_DEPTH = 10
_ARMS: tuple[Arm, ...] = ("dense", "sparse", "fused")
_USUAL = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)


@dataclass(frozen=True)
class Moved:
    """A collection that is now in both engines. `agreement`: share of the best answers that both give, for each arm."""

    name: str
    points: int
    upserted: int
    scores: int
    largest_difference: float
    agreement: dict[str, float]


@dataclass(frozen=True)
class Migration:
    """All collections that were copied, and the one that the alias names in both (None: nothing is released)."""

    moved: list[Moved]
    alias: str | None


def migrate(
    source: QdrantEngine,
    target: QdrantEngine,
    released: Sequence[str],
    *,
    sample: int = 32,
    progress: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> Migration:
    """Copy the collection behind the alias and those of `released` that still exist, then move the target's alias.

    Each copy is checked. Raises Refused: FT-COL-001 or -003 the source itself is broken, FT-COL-005 the target has
    another contract under that name, FT-QDR-009 the target scores differently, FT-QDR-010 it ranks differently.
    """
    with source.open() as old, target.open() as new:
        live = aliased(old, source.alias)
        names = [name for name in dict.fromkeys([*([live] if live else []), *released]) if name in old.names()]
        moved = [_move(old, new, name, sample, progress) for name in names]
        if live:
            new.point(target.alias, live)
    return Migration(moved, live)


def _move(
    old: VectorClient, new: VectorClient, name: str, sample: int, progress: Callable[[str, int, int], None]
) -> Moved:
    source = inspect(old, name)
    _require_sound(source)
    if name in new.names():
        _require_same_contract(name, source.contract, inspect(new, name))
        new.settle(name)
        new.set_metadata(name, {**new.metadata(name), "whole": ""})  # until it is whole again
    else:
        if source.contract.serving is None:
            raise ValueError(f"the contract of {name} does not say how it is served")
        new.create(name, source.contract.serving, {"contract": without_fusion(source.contract).to_json(), "whole": ""})
    new.index_payload(name, payload_fields(old.metadata(name)))
    wanted, copied = old.field(name, "version"), new.field(name, "version")
    gone = sorted(copied.keys() - wanted.keys())
    for start in range(0, len(gone), BATCH):
        new.delete(name, gone[start : start + BATCH])
    kept = {key for key, version in wanted.items() if key in copied and copied[key] == version}
    upserted = 0
    for block in old.scroll(name, BATCH):
        rows = [n for n, key in enumerate(block.ids) if key not in kept]
        if rows:
            new.upsert(name, _take(block, rows))
            upserted += len(rows)
        progress(name, len(kept) + upserted, source.points)
    new.index(name)
    new.set_metadata(name, old.metadata(name))
    target = inspect(new, name)
    _require_sound(target, source.points)
    _require_same_contract(name, source.contract, target)
    ids = sorted(wanted)
    scores, largest, agreement = _compare_answers(
        old, new, source, old.retrieve(name, ids[:: max(len(ids) // sample, 1)][:sample])
    )
    return Moved(name, target.points, upserted, scores, largest, agreement)


def _compare_answers(
    old: VectorClient, new: VectorClient, source: Collection, sampled: Points
) -> tuple[int, float, dict[str, float]]:
    """Query both engines with stored vectors, without an index, and require equal scores and equal answers.

    Returns the number of scores compared, the largest difference, and the share of equal answers of each arm. Answers
    of equal score may replace each other. Raises Refused (FT-QDR-009, FT-QDR-010).
    """
    name, count, largest, agreement = source.name, 0, 0.0, dict[str, float]()
    for arm in _ARMS:
        queries = [_query(sampled, n, arm, source.contract) for n in range(len(sampled.ids))]
        equal = total = 0
        for before, after in zip(old.query(name, queries), new.query(name, queries), strict=True):
            scores = {point.id: point.score for point in after}
            gaps = [abs(point.score - scores[point.id]) for point in before if point.id in scores]
            count += len(gaps)
            largest = max([largest, *gaps])
            equal += count_equal(before, after)
            total += len(before)
        agreement[arm] = equal / total if total else 1.0
    if not largest <= TOLERANCE:  # a NaN must fail
        _refuse("FT-QDR-009", name, "score difference", largest, f"at most {TOLERANCE:g}")
    if min(agreement.values(), default=1.0) < _LEAST_AGREEMENT:
        expected = f"at least {_LEAST_AGREEMENT:g} of each arm"
        _refuse("FT-QDR-010", name, f"share of the best {_DEPTH} that are equal", agreement, expected)
    return count, largest, agreement


def _query(points: Points, n: int, arm: Arm, contract: EmbeddingContract) -> Query:
    distance = contract.serving.distance if contract.serving else "cosine"
    fusion = contract.fusion or _USUAL
    return Query(points.dense[n].tolist(), points.sparse[n], arm, _DEPTH, (), None, fusion, distance, exact=True)


def _take(points: Points, rows: list[int]) -> Points:
    return Points(
        [points.ids[n] for n in rows],
        points.dense[rows],
        [points.sparse[n] for n in rows],
        [points.payloads[n] for n in rows],
    )


def _require_sound(collection: Collection, points: int | None = None) -> None:
    """Refuse (raises Refused) a collection that is not whole or not built as its contract says."""
    total = collection.points if points is None else points
    violations = [
        *collection_is_complete(collection.name, total, collection.points, collection.dense, collection.sparse),
        *collection_matches_contract(collection.name, collection.contract, collection.contract, collection.config),
    ]
    if violations:
        raise Refused(f"migrating {collection.name}", violations)


def _require_same_contract(name: str, wanted: EmbeddingContract, target: Collection) -> None:
    comparison = compare(without_fusion(target.contract), without_fusion(wanted))
    if comparison.level is not Level.IDENTICAL or target.config != (wanted.serving and wanted.serving.form):
        found, expected = f"{target.contract.index_fp} ({target.config})", f"{wanted.index_fp} ({wanted.serving})"
        _refuse("FT-COL-005", name, "index_fp", found, expected)


def _refuse(code: str, name: str, field: str, found: object, expected: str) -> NoReturn:
    """Raise Refused on the copy of a collection: for all of its rules the fix is to copy again."""
    fix = "delete that collection in the target engine, then ft migrate again"
    different = violation(code, where=name, field=field, found=found, expected=expected, fix=fix)
    raise Refused(f"migrating {name}", [different])
