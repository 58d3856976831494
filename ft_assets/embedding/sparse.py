"""Sparse vectors of many texts in three flat arrays, a tenth of the memory of two arrays a text."""

# pyright: basic
# numpy's shapes are not typed here.
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import overload

import numpy as np

SparseVector = tuple[np.ndarray, np.ndarray]
"""Token ids (int32, ascending) and their weights (float32, above 0)."""
_BATCH = 4096


class SparseRows(Sequence[SparseVector]):
    """Sparse vectors, read like a list of pairs. Items and slices are views."""

    def __init__(self, indices: np.ndarray, values: np.ndarray, bounds: np.ndarray) -> None:
        """`bounds` [N + 1]: row n is in `indices[bounds[n]:bounds[n + 1]]`."""
        self.indices, self.values, self.bounds = indices, values, bounds

    @classmethod
    def of(cls, vectors: Iterable[SparseVector]) -> SparseRows:
        """Return these vectors in flat arrays; some thousand pairs are in memory at a time."""
        if isinstance(vectors, SparseRows):
            return vectors
        rest = iter(vectors)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while batch := list(islice(rest, _BATCH)):
            lengths = np.array([len(ids) for ids, _ in batch], np.int64)
            parts.append((np.concatenate([ids for ids, _ in batch]), np.concatenate([w for _, w in batch]), lengths))
        empty = np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64)
        indices, values, lengths = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
        return cls(indices.astype(np.int32, copy=False), values, np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, item: int) -> SparseVector: ...
    @overload
    def __getitem__(self, item: slice) -> SparseRows: ...
    def __getitem__(self, item: int | slice) -> SparseVector | SparseRows:
        if isinstance(item, slice):
            start, stop, step = item.indices(len(self))
            if step != 1:
                return SparseRows.of(self[n] for n in range(start, stop, step))
            bounds = self.bounds[start : max(start, stop) + 1]
            part = slice(bounds[0], bounds[-1])
            return SparseRows(self.indices[part], self.values[part], bounds - bounds[0])
        row = range(len(self))[item]
        part = slice(self.bounds[row], self.bounds[row + 1])
        return self.indices[part], self.values[part]

    def take(self, rows: Iterable[int]) -> SparseRows:
        """Return the vectors of these rows, in this order."""
        return SparseRows.of(map(self.__getitem__, rows))

    def wide(self, tokens: np.ndarray) -> np.ndarray:
        """Return the vectors as rows with one column for each of `tokens`, which ascend. [N, tokens]"""
        wide = np.zeros((len(self), len(tokens)), np.float32)
        if len(tokens):
            columns = np.searchsorted(tokens, self.indices).clip(max=len(tokens) - 1)
            known = tokens[columns] == self.indices
            rows = np.repeat(np.arange(len(self)), np.diff(self.bounds))
            wide[rows[known], columns[known]] = self.values[known]
        return wide
