"""Residue of a prompt template that may be meant: it counts when several rows of a file repeat it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

LEAST_ROWS = 3
"""A slot with the same text before it, in so many rows of a file, was left by a template."""

_Row = TypeVar("_Row")


class Residues(Generic[_Row]):
    """The residue in one file, counted by its field. A caller ends each row, and takes the rows to refuse later."""

    def __init__(self) -> None:
        self.current: set[tuple[str, str]] = set()
        """(path, residue) of the current row."""
        self._rows: Counter[tuple[str, str]] = Counter()
        self._waiting: list[tuple[int, _Row, tuple[str, str]]] = []

    def note(self, path: str, residue: str) -> None:
        """Note residue in a field of the current row."""
        self.current.add((path, residue))

    def end_row(self, number: int, row: _Row, *, counted: bool = False) -> None:
        """Count what the current row has. `number` is the caller's own. `counted`: the row need not be taken later."""
        self._rows.update(self.current)
        if not counted:
            self._waiting += [(number, row, key) for key in sorted(self.current)]
        self.current.clear()

    def take_repeated(self) -> Iterator[tuple[int, _Row, str, str]]:
        """Yield (number, row, path, reason) of the rows since the last call whose residue enough rows have."""
        waiting, self._waiting = self._waiting, []
        for number, row, (path, residue) in waiting:
            if (rows := self._rows[path, residue]) >= LEAST_ROWS:
                yield number, row, path, f"found the template residue {residue[:60]!r}, which is in {rows} rows so far"
