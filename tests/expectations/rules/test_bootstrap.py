from __future__ import annotations

import tracemalloc

import pytest

from expectations.rules import bootstrap as module
from expectations.rules.bootstrap import bootstrap, paired_bootstrap


def test_an_interval_does_not_depend_on_how_many_values_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(n % 7 == 0) for n in range(438)]
    whole = bootstrap(values)
    assert whole.low < whole.mean < whole.high
    monkeypatch.setattr(module, "_DRAWN_AT_ONCE", 1_000)
    assert bootstrap(values) == whole
    monkeypatch.setattr(module, "_DRAWN_AT_ONCE", 10)
    assert bootstrap(values) == whole


def test_many_questions_take_no_more_memory_than_a_few() -> None:
    values = [n % 3 / 2 for n in range(20_000)]
    tracemalloc.start()
    try:
        paired_bootstrap(values, values[::-1])
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_values_of_other_questions_are_not_paired() -> None:
    with pytest.raises(ValueError, match="2 values of the candidate, 1 of the baseline"):
        paired_bootstrap([1.0, 0.0], [1.0])
