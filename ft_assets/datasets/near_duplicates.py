"""Find near-duplicate texts: an exact join on the Jaccard similarity of character 3-grams. It misses no pair.

The grams of a text are dealt into parts by their hash. Two texts that reach the threshold differ in few grams, so most
parts are equal in both, and one of the rarest is: a text is compared only with texts that share a rare part with it
(the partitions of PartEnum, Arasu et al. 2006, in the order of a prefix filter). Bitmaps of the grams show first how
many grams two texts can share at most.
"""
# pyright: basic
# the shapes and dtypes of numpy are not declared here

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_BATCH = 2**14  # texts whose grams are held at once: their number has 14 bits
_SLICE = 2**14  # candidate pairs that are compared at once
_SORTED = 2**23  # entries that are sorted at once
_HASH = 40  # bits of a gram's hash
_COUNTED = 16  # batches in which grams are counted: more change no order by much
_SLOT_BITS = 20  # bits of the slot in which a gram is counted: its frequency need not be exact
_BITMAP = 512  # bits
_SLACK = 1e-9  # 0.8 * 35 is a little more than 28 in floating point


def near_pairs(
    texts: Sequence[str], threshold: float, *, new: Sequence[bool] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, Jaccard) of texts at least `threshold` alike; a family of n texts yields the n-1 links that join it.

    Texts are matching keys. An empty text is no near-duplicate. With `new`, only pairs in which a text is new are
    compared, and families are joined by these alone. Time grows with the texts (reading their grams is most of it) and
    with the pairs that share a rare part: texts that all follow one template cost the square of their number (divided
    by what their slots differ in). Below a threshold of about 0.65 a part is a single gram, and common words are shared
    by so many texts that time grows faster than their number.
    """
    import numpy as np

    positions = [n for n, text in enumerate(texts) if text]
    fresh = np.ones(len(positions), bool) if new is None else np.array([new[n] for n in positions], bool)
    if len(positions) < 2 or not fresh.any():
        return
    sketches = _sketch([texts[n] for n in positions], threshold)
    families = Families(len(positions))
    share = threshold / (1 + threshold)  # of the grams of both texts, counted separately, that both must have
    for left, right in _candidates(sketches, threshold, families, fresh):
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
    common = len(a & b)
    return common / (len(a) + len(b) - common)


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
    entries: list[tuple[Any, Any]]
    """By batch: the rare parts, one entry for each text that has it among its rarest (uint64), and the texts (uint32).
    """


class _Grams(NamedTuple):
    """The different grams of a batch of texts, sorted by text and hash."""

    hashes: Any
    """uint64 [G], below 2**40."""
    texts_of: Any
    """The number of the text of each (int64 [G])."""
    rarities: Any
    """int64 [G], from 1."""

    def of(self, texts: Any) -> _Grams:
        """Return the grams of these texts (bool [N])."""
        chosen = texts[self.texts_of]
        return _Grams(*(part[chosen] for part in self))


def _sketch(texts: Sequence[str], threshold: float) -> _Sketches:
    import numpy as np

    batches = [texts[n : n + _BATCH] for n in range(0, len(texts), _BATCH)]
    counts = np.zeros(2**_SLOT_BITS, np.int64)
    for batch in batches[:: len(batches) // _COUNTED + 1]:
        counts += np.bincount(_grams(batch)[0] >> np.uint64(_HASH - _SLOT_BITS), minlength=len(counts))
    # any order of all parts works; sums of these bring the parts first that the fewest texts have
    rarity = 1 + (8 * np.log2(max(counts.sum(), 1) / np.maximum(counts, 1))).astype(np.int64)
    sizes, bitmaps, entries = [], [], []
    for number, batch in enumerate(batches):
        hashes, texts_of = _grams(batch)
        keys = texts_of << np.uint64(_HASH) | hashes
        keys.sort()
        keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        texts_of, hashes = (keys >> np.uint64(_HASH)).astype(np.int64), keys & np.uint64(2**_HASH - 1)
        size = np.bincount(texts_of, minlength=len(batch))
        bits = np.zeros((len(batch), _BITMAP), bool)
        bits[texts_of, hashes % np.uint64(_BITMAP)] = True
        sizes.append(size)
        bitmaps.append(np.packbits(bits, axis=1).view(np.uint64))
        grams = _Grams(hashes, texts_of, rarity[(hashes >> np.uint64(_HASH - _SLOT_BITS)).astype(np.int64)])
        for rare, texts_of in _entries(grams, size, threshold):
            entries.append((rare, (texts_of + number * _BATCH).astype(np.uint32)))
    return _Sketches(np.concatenate(sizes), np.concatenate(bitmaps), entries)


def _entries(grams: _Grams, size: Any, threshold: float) -> Iterator[tuple[Any, Any]]:
    """Yield (entries, their texts) of a batch. Two texts that are alike have an entry in common.

    `size`: grams of each text (int64 [N]). All sizes of a class, from one power of two to the next, have one number of
    parts. A pair is compared in the class of its smaller text, so a text is in its own class and in that of the
    smallest text it can be alike to. If `most` grams at most are in one text of a pair alone, `most` parts of a text
    differ at most, and the rarest equal one is among its `most + 1` rarest. Where a text has no more parts than that,
    none may be equal, in both texts: these get their rarest grams as entries, too.
    """
    import numpy as np

    # grams of a part at most, so that a text has half as many parts again as may differ; 2.5 was the fastest at 0.8
    load = min(1.4 * (threshold / max(1 - threshold, _SLACK) / 1.5 - 1), 2.5)
    smallest = np.ceil(threshold * size - _SLACK).astype(np.int64)
    lacking = np.full(len(size), load < 0.5)
    if load >= 0.5:
        own, lower = np.frexp(size)[1], np.frexp(smallest)[1]
        # most differ between this text and the largest that it can be alike to; in the lower class, and its equal
        for classes, members, share in ((own, own > 0, 1 / threshold), (lower, lower < own, 1)):
            most = np.floor((1 - threshold) / (1 + threshold) * (1 + share) * size + _SLACK).astype(np.int64)
            if members.any():
                keys = _parts(grams.of(members), classes, load)
                lacking |= members & (np.bincount(_text_of(keys), minlength=len(size)) <= most)
                yield _first(keys, most)
    if lacking.any():
        rest = grams.of(lacking)
        yield _first(_rarest_first(rest.texts_of, rest.rarities, rest.hashes), size - smallest)


def _parts(grams: _Grams, classes: Any, load: float) -> Any:
    """Return the parts of the texts as numbers of `_rarest_first`. `classes`: of each text (int [N])."""
    import numpy as np

    count = np.ceil(2.0**classes / load).astype(np.uint64)[grams.texts_of]
    # the grams of a text are sorted, so a range of hashes is a part
    part = (grams.hashes * count) >> np.uint64(_HASH)
    place = part << np.uint64(8) | classes.astype(np.uint64)[grams.texts_of]
    starts = np.flatnonzero(np.diff(grams.texts_of, prepend=-1) | np.diff(part, prepend=part[:1]).astype(bool))
    content = np.add.reduceat(grams.hashes, starts) + _mix(place[starts])
    return _rarest_first(grams.texts_of[starts], np.add.reduceat(grams.rarities, starts), content)


def _rarest_first(texts_of: Any, rarities: Any, hashes: Any) -> Any:
    """Return a number for each part (14 bits of its text, 14 of its rarity, 36 of its hash) that sorts the parts."""
    import numpy as np

    rank = 2**14 - 1 - np.minimum(rarities, 2**14 - 1)
    return (
        texts_of.astype(np.uint64) << np.uint64(50)
        | rank.astype(np.uint64) << np.uint64(36)
        | _mix(hashes) >> np.uint64(28)
    )


def _text_of(keys: Any) -> Any:
    import numpy as np

    return (keys >> np.uint64(50)).astype(np.int64)


def _first(keys: Any, most: Any) -> tuple[Any, Any]:
    """Return the `most + 1` smallest numbers of `_rarest_first` of each text (without the text), and the texts."""
    import numpy as np

    keys.sort()
    texts_of = _text_of(keys)
    size = np.bincount(texts_of, minlength=len(most))
    rank = np.arange(len(keys)) - (np.cumsum(size) - size)[texts_of]
    kept = rank <= most[texts_of]
    return keys[kept] & np.uint64(2**50 - 1), texts_of[kept]


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


def _candidates(sketches: _Sketches, threshold: float, families: Families, fresh: Any) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of texts of different families that share a rare part and have similar sizes, slice by slice.

    A text of each pair is `fresh` (bool [N]).
    """
    groups = sum(len(rare) for rare, _ in sketches.entries) // _SORTED + 1
    for group in range(groups):
        owners, starts = _lists(sketches, group, groups)
        if len(owners):
            # a fresh entry is compared with all that follow it in its list, and with earlier ones that are not fresh
            for way in (1, -1) if not fresh.all() else (1,):
                yield from _neighbours(owners, starts, sketches.sizes[owners], threshold, families, fresh, way)


def _lists(sketches: _Sketches, group: int, groups: int) -> tuple[Any, Any]:
    """Return the texts of one group of rare parts: a list for each part that several have, by size; and the starts."""
    import numpy as np

    chosen = [(rare % np.uint64(groups) == group, rare, owners) for rare, owners in sketches.entries]
    rare = np.concatenate([rare[part] for part, rare, _ in chosen])
    owners = np.concatenate([owners[part] for part, _, owners in chosen])
    order = np.argsort(rare)
    rare = rare[order]
    equal = np.concatenate(([False], rare[1:] == rare[:-1], [False]))
    shared = equal[1:] | equal[:-1]
    rare, owners = rare[shared], owners[order[shared]].astype(np.int64)
    order = np.lexsort((sketches.sizes[owners], rare))
    rare = rare[order]
    return owners[order], np.flatnonzero(np.concatenate(([True], rare[1:] != rare[:-1]))[: len(rare)])


def _neighbours(  # noqa: PLR0917 - what one walk over the lists needs
    owners: Any, starts: Any, sizes: Any, threshold: float, families: Families, fresh: Any, way: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (fresh text, other) of `_lists`: the neighbours first, then the texts after them, and so on.

    `sizes`: of the owners. `way`: 1, or -1 backwards; then the others are not fresh.
    """
    import numpy as np

    begun = fresh[owners]
    lengths = np.diff(np.append(starts, len(owners)))
    firsts, ends = np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)
    roots, joins = families.roots(), families.joins
    alive = np.flatnonzero(begun)
    step = 0
    while len(alive):
        step += 1
        if step & (step - 1) == 0:  # sometimes: drop the lists that have become one family
            roots, joins = families.roots(), families.joins
            listed = roots[owners]
            one = np.minimum.reduceat(listed, starts) == np.maximum.reduceat(listed, starts)
            alive = alive[~np.repeat(one, lengths)[alive]]
        others = alive + way * step
        alive = alive[(others < ends[alive]) & (others >= firsts[alive])]
        # a list is ordered by size: if the next text is too large (or too small), all later ones are
        small, large = np.sort([sizes[alive], sizes[alive + way * step]], axis=0)
        alive = alive[small >= threshold * large - _SLACK]
        pairs = alive if way == 1 else alive[~begun[alive - step]]
        for start in range(0, len(pairs), _SLICE):
            left = owners[pairs[start : start + _SLICE]]
            right = owners[pairs[start : start + _SLICE] + way * step]
            if families.joins - joins > len(roots) // 100:
                roots, joins = families.roots(), families.joins
            apart = roots[left] != roots[right]
            yield left[apart], right[apart]
