"""Find near-duplicate texts: an exact join on the Jaccard similarity of character 3-grams. It misses no pair.

Two texts that reach the threshold share one of their rarest grams (prefix filter), so a text is compared only with
texts that share a rare gram with it. Bitmaps of the grams show first how many grams two texts can share at most.
"""
# pyright: basic
# the shapes and dtypes of numpy are not declared here

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_BATCH = 2**14  # texts whose grams are held at once
_SLICE = 2**14  # candidate pairs that are compared at once
_HASH = 40  # bits of a gram's hash: with 16 of the text and 8 of the gram's frequency they fill one number
_SLOT_BITS = 20  # bits of the slot in which a gram is counted: its frequency need not be exact
_BITMAP = 512  # bits
_SLACK = 1e-9  # 0.8 * 35 is a little more than 28 in floating point


def near_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, Jaccard) of texts at least `threshold` alike; a family of n texts yields the n-1 links that join it.

    Texts are matching keys. An empty text is no near-duplicate. Time grows with the number of texts that share a rare
    gram: texts that all follow one template cost the square of their number (divided by what their slots differ in).
    """
    import numpy as np

    positions = [n for n, text in enumerate(texts) if text]
    if len(positions) < 2:
        return
    sketches = _sketch([texts[n] for n in positions], threshold)
    families = Families(len(positions))
    share = threshold / (1 + threshold)  # of the grams of both texts, counted separately, that both must have
    for left, right in _candidates(sketches, threshold, families):
        total = sketches.sizes[left] + sketches.sizes[right]
        apart = np.bitwise_count(sketches.bitmaps[left] ^ sketches.bitmaps[right]).sum(axis=1, dtype=np.int64)
        likely = total - apart >= 2 * share * total - _SLACK
        pairs: Iterator[tuple[int, int]] = zip(left[likely].tolist(), right[likely].tolist(), strict=True)
        for i, j in pairs:
            if families.root(i) != families.root(j):
                one, other = sorted((positions[i], positions[j]))
                if (similarity := jaccard(texts[one], texts[other])) >= threshold:
                    families.join(i, j)
                    yield one, other, similarity


def jaccard(left: str, right: str) -> float:
    """Return the share of the 3-grams of both texts that they have in common."""
    a, b = three_grams(left), three_grams(right)
    return len(a & b) / len(a | b)


def three_grams(text: str) -> set[str]:
    """Return the character 3-grams; a shorter text is its own only gram."""
    return {text[n : n + 3] for n in range(len(text) - 2)} or {text}


class Families:
    """Union-find over positions. The smallest position of a family is its root."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self.joins = 0

    def root(self, member: int) -> int:
        """Return the root of the family of a position."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def join(self, left: int, right: int) -> None:
        """Join two families."""
        low, high = sorted((self.root(left), self.root(right)))
        self._parent[high] = low
        self.joins += 1

    def roots(self) -> Any:
        """Return the root of every position (int64 [N])."""
        import numpy as np

        roots = np.array(self._parent)
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        return roots


class _Sketches(NamedTuple):
    """Sketches of N texts: enough to propose pairs, and to drop most pairs that are not alike."""

    sizes: Any
    """The number of different grams of each text (int64 [N])."""
    bitmaps: Any
    """The grams of each text, each as one of 512 bits (uint64 [N, 8])."""
    rare: Any
    """The rare grams, one entry for each text that has the gram among its rarest (uint64 [M])."""
    owners: Any
    """The texts of these entries (int64 [M])."""


def _sketch(texts: Sequence[str], threshold: float) -> _Sketches:
    import numpy as np

    batches = [texts[n : n + _BATCH] for n in range(0, len(texts), _BATCH)]
    slots = 2**_SLOT_BITS
    counts = np.zeros(slots, np.int64)
    for batch in batches:
        counts += np.bincount(_grams(batch)[0] >> np.uint64(_HASH - _SLOT_BITS), minlength=slots)
    # the approximate frequency of a gram in 8 bits; any order of all grams works, this one is the fastest
    common = np.minimum(12 * np.log2(np.maximum(counts, 1)), 255).astype(np.uint64)
    sizes, bitmaps, rare, owners = [], [], [], []
    for number, batch in enumerate(batches):
        grams, texts_of = _grams(batch)
        keys = texts_of << np.uint64(48) | common[grams >> np.uint64(_HASH - _SLOT_BITS)] << np.uint64(_HASH) | grams
        keys.sort()
        keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        texts_of = (keys >> np.uint64(48)).astype(np.int64)
        size = np.bincount(texts_of, minlength=len(batch))
        bits = np.zeros((len(batch), _BITMAP), bool)
        bits[texts_of, keys % np.uint64(_BITMAP)] = True
        rank = np.arange(len(keys)) - np.repeat(np.cumsum(size) - size, size)
        first = rank <= (size - np.ceil(threshold * size - _SLACK).astype(np.int64))[texts_of]
        sizes.append(size)
        bitmaps.append(np.packbits(bits, axis=1).view(np.uint64))
        rare.append(keys[first] & np.uint64(2**48 - 1))
        owners.append(texts_of[first] + number * _BATCH)
    return _Sketches(*(np.concatenate(parts) for parts in (sizes, bitmaps, rare, owners)))


def _grams(texts: Sequence[str]) -> tuple[Any, Any]:
    """Return the hashes of all 3-grams of a batch in order, and the number of the text of each."""
    import numpy as np

    padded = [text.ljust(3, "\0") for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    letters = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    texts_of = np.repeat(np.arange(len(padded), dtype=np.uint64), lengths)
    grams = letters[:-2] << np.uint64(42) | letters[1:-1] << np.uint64(21) | letters[2:]
    inside = texts_of[:-2] == texts_of[2:]
    return _mix(grams[inside]) >> np.uint64(64 - _HASH), texts_of[:-2][inside]


def _mix(numbers: Any) -> Any:
    """Spread numbers over all 64 bits (the finaliser of SplitMix64)."""
    import numpy as np

    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _candidates(sketches: _Sketches, threshold: float, families: Families) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of texts of different families that share a rare gram and have similar sizes, slice by slice."""
    import numpy as np

    order = np.lexsort((sketches.sizes[sketches.owners], sketches.rare))
    grams, owners = sketches.rare[order], sketches.owners[order]
    sizes = sketches.sizes[owners]
    starts = np.flatnonzero(np.concatenate(([True], grams[1:] != grams[:-1])))
    lengths = np.diff(np.append(starts, len(grams)))
    ends = np.repeat(starts + lengths, lengths)
    roots, joins = families.roots(), families.joins
    alive = np.arange(len(grams))
    step = 0
    while len(alive):
        step += 1
        if step & (step - 1) == 0:  # sometimes: drop the lists that have become one family
            roots, joins = families.roots(), families.joins
            listed = roots[owners]
            one = np.minimum.reduceat(listed, starts) == np.maximum.reduceat(listed, starts)
            alive = alive[~np.repeat(one, lengths)[alive]]
        alive = alive[alive + step < ends[alive]]
        # a list is ordered by size: if the next text is too large, all later ones are
        alive = alive[sizes[alive] >= threshold * sizes[alive + step] - _SLACK]
        for start in range(0, len(alive), _SLICE):
            left = owners[alive[start : start + _SLICE]]
            right = owners[alive[start : start + _SLICE] + step]
            if families.joins - joins > len(roots) // 100:
                roots, joins = families.roots(), families.joins
            new = roots[left] != roots[right]
            yield left[new], right[new]
