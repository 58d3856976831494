"""Near-duplicate texts: MinHash bands propose pairs, exact Jaccard similarity of character 3-grams decides."""
# pyright: basic
# rensa has no type information.

from __future__ import annotations

from collections.abc import Iterator, Sequence

_PERMUTATIONS = 128
_SEED = 42
_BATCH = 10_000
_MAX_MISS = 1e-3  # chance that a pair exactly at the threshold shares no band
_MAX_FAMILIES = 16  # distinct families compared with each newcomer of one band; keeps a crowded band linear


def near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(i, j, Jaccard) of texts at least `threshold` alike; a family of n yields the n-1 links or more that join it.

    Texts are matching keys. Empty ones are nobody's twin. Memory: 512 bytes of signature a text.
    """
    import numpy as np

    positions = [n for n, text in enumerate(texts) if text]
    if len(positions) < 2:
        return
    signatures = _signatures([texts[n] for n in positions])
    rows = _rows_per_band(threshold)
    factors = np.random.default_rng(_SEED).integers(1, 2**63, _PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    families = Families(len(texts))
    for start in range(0, _PERMUTATIONS, rows):
        # one number a band; two bands that collide by chance are told apart by the exact comparison
        keys = (signatures[:, start : start + rows].astype(np.uint64) * factors[:rows]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        firsts = np.concatenate(([0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [len(order)]))
        for bucket in np.flatnonzero(np.diff(firsts) > 1):
            members = order[firsts[bucket] : firsts[bucket + 1]]
            yield from _link([positions[n] for n in members], texts, threshold, families)


def jaccard(left: str, right: str) -> float:
    """Share of the 3-grams of both texts that they have in common."""
    a, b = three_grams(left), three_grams(right)
    return len(a & b) / len(a | b)


def three_grams(text: str) -> set[str]:
    """Character 3-grams; a shorter text is its own only gram."""
    return {text[n : n + 3] for n in range(len(text) - 2)} or {text}


class Families:
    """Union-find over positions. The smallest position of a family stands for it."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, member: int) -> int:
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def join(self, left: int, right: int) -> int:
        """Make two families one; returns its root."""
        low, high = sorted((self.root(left), self.root(right)))
        self._parent[high] = low
        return low


def _link(
    bucket: list[int], texts: Sequence[str], threshold: float, families: Families
) -> Iterator[tuple[int, int, float]]:
    seen: dict[int, int] = {}  # family -> one member met in this bucket
    for member in sorted(bucket):
        if families.root(member) in seen:
            continue
        for other in list(seen.values()):
            similarity = _jaccard_at_least(texts[member], texts[other], threshold)
            if similarity:
                families.join(member, other)
                yield other, member, similarity
        if len(seen) < _MAX_FAMILIES:
            seen[families.root(member)] = member


def _jaccard_at_least(left: str, right: str, threshold: float) -> float:
    """The similarity, or 0 below the threshold; lengths far apart cannot reach it and are not compared."""
    shorter, longer = sorted((left, right), key=len)
    if len(three_grams(shorter)) < threshold * len(three_grams(longer)):
        return 0.0
    similarity = jaccard(left, right)
    return similarity if similarity >= threshold else 0.0


def _signatures(texts: Sequence[str]):
    """MinHash signatures [N, 128] (uint32), made in batches so that the 3-grams of only 10,000 texts are held."""
    import numpy as np
    from rensa.rensa import RMinHash

    parts = [
        np.asarray(
            RMinHash.digest_matrix_from_token_sets(
                [list(three_grams(text)) for text in texts[n : n + _BATCH]], _PERMUTATIONS, _SEED
            ).to_rows(),
            dtype=np.uint32,
        )
        for n in range(0, len(texts), _BATCH)
    ]
    return np.concatenate(parts)


def _rows_per_band(threshold: float) -> int:
    """The longest band that still finds a pair at the threshold: fewer false candidates to verify."""
    for rows in (8, 4, 2):
        if (1 - threshold**rows) ** (_PERMUTATIONS // rows) <= _MAX_MISS:
            return rows
    return 1
