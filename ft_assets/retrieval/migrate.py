"""Moves collections from one engine to another and proves that both say the same. The alias moves last.

Nothing is deleted in the engine that is left. Interrupted, it goes on where it was: what stands already is not written
again.
"""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from expectations.contracts.embedding import EmbeddingContract, Fusion, Level, compare
from expectations.rules.retrieval import (
    collection_is_complete,
    collection_matches_contract,
    without_fusion,
)
from expectations.violations import Refused, Violation
from ft_assets.retrieval.collection import BATCH, Collection, inspect
from resources.engines.protocol import Arm, Points, Query, Scored, VectorClient
from resources.qdrant import QdrantEngine, aliased

TOLERANCE = 1e-4
LEAST_AGREEMENT = 0.95
DEPTH = 10
_ARMS: tuple[Arm, ...] = ("dense", "sparse", "fused")
_USUAL = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)


@dataclass(frozen=True)
class Moved:
    """One collection that stands in both engines. `agreement`: share of the best answers found alike, per arm."""

    name: str
    points: int
    upserted: int
    scores: int
    largest_difference: float
    agreement: dict[str, float]


@dataclass(frozen=True)
class Migration:
    """Everything that was moved, and what the alias names in both engines now (None: nothing is released)."""

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
    """Copy what the alias names and those of `released` that still stand, prove each, then point the target's alias.

    Raises Refused: FT-COL-001 or -003 the source itself is broken, FT-COL-005 another contract stands in the target
    under that name, FT-QDR-009 the target scores differently, FT-QDR-010 it ranks differently.
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
    found = inspect(old, name)
    _require_sound(found)
    if name in new.names():
        _require_same_contract(name, found.contract, inspect(new, name))
        new.set_metadata(name, {**new.metadata(name), "whole": ""})  # until it is whole again
    else:
        if found.contract.serving is None:
            raise ValueError(f"the contract of {name} does not say how it is served")
        new.create(name, found.contract.serving, {"contract": without_fusion(found.contract).to_json(), "whole": ""})
    wanted, standing = old.field(name, "version"), new.field(name, "version")
    gone = sorted(standing.keys() - wanted.keys())
    for start in range(0, len(gone), BATCH):
        new.delete(name, gone[start : start + BATCH])
    there = {key for key, version in wanted.items() if key in standing and standing[key] == version}
    upserted = 0
    for block in old.scroll(name, BATCH):
        rows = [n for n, key in enumerate(block.ids) if key not in there]
        if rows:
            new.upsert(name, _take(block, rows))
            upserted += len(rows)
        progress(name, len(there) + upserted, found.points)
    new.index(name)
    new.set_metadata(name, old.metadata(name))
    after = inspect(new, name)
    _require_sound(after, found.points)
    _require_same_contract(name, found.contract, after)
    scores, largest, agreement = _prove(old, new, name, found.contract, sorted(wanted), sample)
    return Moved(name, after.points, upserted, scores, largest, agreement)


def _prove(  # noqa: PLR0917
    old: VectorClient, new: VectorClient, name: str, contract: EmbeddingContract, ids: list[str], sample: int
) -> tuple[int, float, dict[str, float]]:
    """Ask both engines with stored vectors, without an index: every score the same, and every answer but for ties."""
    asked = old.retrieve(name, ids[:: max(len(ids) // sample, 1)][:sample])
    count, largest, agreement = 0, 0.0, dict[str, float]()
    for arm in _ARMS:
        queries = [_query(asked, n, arm, contract) for n in range(len(asked.ids))]
        mine, theirs = old.query(name, queries), new.query(name, queries)
        kept = total = 0
        for before, after in zip(mine, theirs, strict=True):
            there = {point.id: point.score for point in after}
            gaps = [abs(point.score - there[point.id]) for point in before if point.id in there]
            count += len(gaps)
            largest = max([largest, *gaps])
            kept += _kept(before, after)
            total += len(before)
        agreement[arm] = kept / total if total else 1.0
    if not largest <= TOLERANCE:  # a NaN must fail
        raise _refused("FT-QDR-009", name, "the two engines score differently.", "score difference", largest,
                       f"at most {TOLERANCE:g}")  # fmt: skip
    if min(agreement.values(), default=1.0) < LEAST_AGREEMENT:
        raise _refused("FT-QDR-010", name, "the two engines rank differently.", f"share of the best {DEPTH} alike",
                       agreement, f"at least {LEAST_AGREEMENT:g} of each arm")  # fmt: skip
    return count, largest, agreement


def _kept(before: list[Scored], after: list[Scored]) -> int:
    """How many of the best answers the other engine gives too; one of an equal score stands for another."""
    alike = {point.id for point in before} & {point.id for point in after}
    last = before[-1].score if before else 0.0
    tied = sum(abs(point.score - last) <= TOLERANCE for point in after if point.id not in alike)
    return min(len(alike) + tied, len(before))


def _query(points: Points, n: int, arm: Arm, contract: EmbeddingContract) -> Query:
    distance = contract.serving.distance if contract.serving else "cosine"
    fusion = contract.fusion or _USUAL
    return Query(points.dense[n].tolist(), points.sparse[n], arm, DEPTH, (), None, fusion, distance, exact=True)


def _take(points: Points, rows: list[int]) -> Points:
    return Points(
        [points.ids[n] for n in rows],
        points.dense[rows],
        [points.sparse[n] for n in rows],
        [points.payloads[n] for n in rows],
    )


def _require_sound(found: Collection, points: int | None = None) -> None:
    total = found.points if points is None else points
    violations = [
        *collection_is_complete(found.name, total, found.points, found.dense, found.sparse),
        *collection_matches_contract(found.name, found.contract, found.contract, found.config),
    ]
    if violations:
        raise Refused(f"migrating {found.name}", violations)


def _require_same_contract(name: str, wanted: EmbeddingContract, found: Collection) -> None:
    comparison = compare(without_fusion(found.contract), without_fusion(wanted))
    if comparison.level is not Level.IDENTICAL or found.config != wanted.serving:
        said, meant = f"{found.contract.index_fp} ({found.config})", f"{wanted.index_fp} ({wanted.serving})"
        message = "another contract stands in the target under this name."
        raise _refused("FT-COL-005", name, message, "index_fp", said, meant)


def _refused(code: str, where: str, message: str, field: str, found: Any, expected: Any) -> Refused:  # noqa: PLR0917
    violation = Violation(
        code=code, where=where, message=message, field=field, found=found, expected=expected,
        fix="delete that collection in the target engine, then ft migrate again",
    )  # fmt: skip
    return Refused(f"migrating {where}", [violation])
