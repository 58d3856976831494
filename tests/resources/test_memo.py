"""A bounded memo of computed results."""

from __future__ import annotations

import pytest

from resources.memo import Memo


def test_a_value_is_computed_once_and_the_one_used_least_recently_is_dropped():
    computed: list[str] = []
    memo = Memo[str](size=2)

    def get(key: str) -> str:
        return memo.get(key, lambda: computed.append(key) or key.upper())

    assert [get(key) for key in "abab"] == ["A", "B", "A", "B"] and computed == ["a", "b"]
    assert get("a") + get("c") == "AC"
    assert computed == ["a", "b", "c"]
    assert get("a") + get("b") == "AB"
    assert computed == ["a", "b", "c", "b"]


def test_an_error_is_not_kept():
    memo = Memo[int](size=1)
    with pytest.raises(ZeroDivisionError):
        memo.get("key", lambda: 1 // 0)
    assert memo.get("key", lambda: 1) == 1
