"""The order in which rows are trained: random, and such that micro-batches need little padding."""

# datasets are untyped here
# pyright: basic
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any


def row_lengths(dataset: Any) -> list[int]:
    """Return the tokens of each row of the trainer's data; of a pair, with the longer one of its answers."""
    if "input_ids" in dataset.column_names:
        return [len(ids) for ids in dataset["input_ids"]]
    answers = [name for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in dataset.column_names]
    columns = zip(dataset["prompt_ids"], *(dataset[name] for name in answers), strict=True)
    return [len(prompt) + max(map(len, sides)) for prompt, *sides in columns]


class StepOrder:
    """A sampler with a new order by `seed` in every epoch, and the rows of each optimizer step sorted by length.

    A step has the same rows as without sorting, so its gradient is the same. Only the micro-batches within the step
    change, and with them the padding. The order depends on nothing but seed, epoch and `step_rows` (the global batch),
    so it is the same for any micro-batch size, any number of processes, and after an interruption. Only the last step
    of an epoch may have more rows: several processes fill it with the epoch's first rows until each has as many.
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
            # the longest first: a row that does not fit in memory fails at once
            yield from sorted(rows[start : start + self._step_rows], key=lambda row: -self._lengths[row])

    def begin_epoch(self, global_step: int) -> None:
        """Take the order of the epoch that continues after `global_step` optimizer steps."""
        self.epoch = global_step // -(-len(self._lengths) // self._step_rows)
