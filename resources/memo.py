"""Results that this process has computed before, at most so many of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """The results of one computation, by key, for as long as the process lives or until `size` newer ones came.

    The key must name everything that the result depends on (versions, hashes, stamps), so that an entry never becomes
    wrong. Say where the memo is made what it holds. Threads may share it; two that ask at once may both compute.

    >>> squares = Memo[int](size=100)
    >>> squares.get(3, lambda: 3 * 3)
    9
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[Hashable, Value] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value of `key`, computed if it is not here. What `compute` raises is not kept."""
        with self._lock:
            if key in self._values:
                self._values[key] = self._values.pop(key)  # the last place is the newest
                return self._values[key]
        value = compute()
        with self._lock:
            value = self._values.setdefault(key, value)  # another thread may have been first: one value for all
            while len(self._values) > self._size:
                del self._values[next(iter(self._values))]
        return value
