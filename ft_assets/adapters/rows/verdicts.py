"""Rows of KTO: pairs as two rows with a verdict each, the mismatched answers of its KL term, and its two weights."""

# pyright: basic
# rows come from Parquet as plain values
from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from expectations.rules.training import VERDICTS, TokenisedRow
from ft_assets.config.model import DpoSettings

_BALANCED = (1.0, 4 / 3)
"""Weighted desirable answers for each undesirable one, as the KTO paper recommends (arXiv 2402.01306, equation 8)."""


def split_pairs(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows with a verdict: a pair becomes two, its chosen answer as a desirable one and then the other."""
    for row in rows:
        if "desirable" in row:
            yield dict(row)
            continue
        for side, desirable in (("chosen", True), ("rejected", False)):
            yield {**row, "answer": row[side], "desirable": desirable}


def side_of(row: Mapping[str, Any]) -> str:
    """Return the name of a row's verdict."""
    return VERDICTS[not row["desirable"]]


def count_verdicts(rows: Sequence[TokenisedRow]) -> dict[str, int]:
    """Return the number of desirable and of undesirable answers."""
    return {side: sum(row.side == side for row in rows) for side in VERDICTS}


def choose_weights(settings: DpoSettings, counts: Mapping[str, int]) -> tuple[float, float]:
    """Return the weights of desirable and of undesirable answers.

    Where config.yaml leaves both open and the verdicts are not balanced, the rarer kind weighs more, just enough.
    """
    given = settings.desirable_weight, settings.undesirable_weight
    desirable, undesirable = (counts[side] for side in VERDICTS)
    if given != (None, None) or not (desirable and undesirable):
        return given[0] or 1.0, given[1] or 1.0
    ratio, (least, most) = desirable / undesirable, _BALANCED
    return max(least / ratio, 1.0), max(ratio / most, 1.0)


def pair_mismatched(rows: Sequence[TokenisedRow]) -> list[int]:
    """Return for each row the number of a row with another prompt, whose answer is paired with this row's prompt.

    KTO estimates its KL term on these pairs. TRL takes the answer of the neighbour in the micro-batch; here the pairs
    depend on the rows alone, so that the reference can be computed once and the result is the same for every size of
    the micro-batch. Unless one prompt has more than half of the rows, each answer is used once.
    """
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(array("i", row.serving).tobytes(), []).append(number)
    order = list(chain.from_iterable(groups.values()))
    shift = max(map(len, groups.values()), default=0)
    partners, start = [0] * len(rows), 0
    for group in groups.values():
        others = len(rows) - len(group)
        for place, number in enumerate(group):
            # the row that is `shift` places before, and always one before this group
            partners[number] = order[start - 1 - (shift - 1 - place) % others]
        start += len(group)
    return partners
