"""Rows that a model made, next to the hand-made ones: their origin, and their share of an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from expectations.canonical import text_digest
from ft_assets.adapters.rows.shorten import Fitted
from ft_assets.adapters.rows.tokenise import Row, read_rows
from resources.artifacts import Artifact

HAND_MADE = "hand-made"
_ORIGIN = "origin"


def read_generated(generated: Sequence[Artifact], part: str) -> list[Row]:
    """Return the rows of one part of generated tables, marked with their asset. A table may lack the part."""
    rows: list[Row] = []
    for artifact in generated:
        if f"{part}.parquet" in artifact.manifest.files:
            rows += [{**row, _ORIGIN: artifact.asset} for row in read_rows(artifact, part)]
    return rows


def count_origins(rows: Sequence[Row]) -> dict[str, int]:
    """Return origin -> rows: `hand-made`, or the asset of generated ones."""
    return dict(Counter(_origin_of(row) for row in rows))


def limit_share(rows: Sequence[Row], most: float) -> list[Row]:
    """Return the rows with at most the share `most` (0 to 1) of generated ones. The hash of their ids chooses them, so
    that those which stay do not depend on the others."""
    made = [row for row in rows if _origin_of(row) != HAND_MADE]
    by_hand = len(rows) - len(made)
    count = len(made) if most >= 1 else int(by_hand * most / (1 - most) + 1e-9)
    kept = {id(row) for row in sorted(made, key=lambda row: text_digest(row["record_id"]))[:count]}
    return [row for row in rows if _origin_of(row) == HAND_MADE or id(row) in kept]


def limit_fitted(fitted: Fitted, most: float) -> Fitted:
    """Return `limit_share` of rows that were tokenised: the policy `too_long` may have dropped hand-made ones."""
    kept = {id(row) for row in limit_share(fitted.rows, most)}
    pairs = [pair for pair in zip(fitted.rows, fitted.tokenised, strict=True) if id(pair[0]) in kept]
    return replace(fitted, rows=[row for row, _ in pairs], tokenised=[answers for _, answers in pairs])


def _origin_of(row: Row) -> str:
    return row.get(_ORIGIN, HAND_MADE)
