"""In which order rows are trained: at random, and so that micro batches pad little."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


class StepOrder:
    """A sampler: every epoch a new order by `seed`, and the rows of each optimizer step sorted by length.

    A step sees the rows it would see unsorted, so its gradient is the same; only which of them share a micro batch, and
    with it the padding, changes. Order depends on nothing but seed, epoch and `step_rows` (the global batch), so that
    it is the same whatever the micro batches and the number of processes, and after an interruption. Only the last step
    of an epoch may see more: several processes fill it up with the epoch's first rows until each has as many.
    """

    def __init__(self, lengths: Sequence[int], step_rows: int, seed: int) -> None:
        self.epoch = 0
        self._lengths, self._step_rows, self._seed = lengths, step_rows, seed

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rows = list(range(len(self._lengths)))
        random.Random(f"{self._seed}-{self.epoch}").shuffle(rows)  # noqa: S311 -- an order, not a secret
        for start in range(0, len(rows), self._step_rows):
            # the longest first: what does not fit in memory shows at once
            yield from sorted(rows[start : start + self._step_rows], key=lambda row: -self._lengths[row])

    def begin_epoch(self, global_step: int) -> None:
        """Take the order of the epoch that goes on after `global_step` optimizer steps."""
        self.epoch = global_step // -(-len(self._lengths) // self._step_rows)
