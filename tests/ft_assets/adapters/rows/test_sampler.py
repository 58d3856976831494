from __future__ import annotations

from ft_assets.adapters.rows.sampler import StepOrder

LENGTHS = [20 + 97 * n % 380 for n in range(103)]


def batches(order: StepOrder, rows: int) -> list[list[int]]:
    found = list(order)
    return [found[start : start + rows] for start in range(0, len(found), rows)]


def padding(grouped: list[list[int]]) -> float:
    """Share of the tokens of a run that are padding."""
    padded = sum(max(LENGTHS[n] for n in batch) * len(batch) for batch in grouped)
    return 1 - sum(LENGTHS) / padded


def test_every_row_is_taken_once_in_an_order_that_seed_and_epoch_decide() -> None:
    order = StepOrder(LENGTHS, 16, seed=7)
    first = list(order)
    assert sorted(first) == list(range(103))
    assert list(order) == first
    order.begin_epoch(7)  # 7 steps of 16 rows are one epoch of 103
    assert order.epoch == 1
    second = list(order)
    assert second != first
    resumed = StepOrder(LENGTHS, 16, seed=7)
    resumed.begin_epoch(9)  # in the middle of the second epoch
    assert list(resumed) == second
    assert list(StepOrder(LENGTHS, 16, seed=8)) != first


def test_lengths_move_no_row_to_another_step() -> None:
    by_length = batches(StepOrder(LENGTHS, 16, seed=7), 16)
    as_dealt = batches(StepOrder([1] * 103, 16, seed=7), 16)
    assert [set(step) for step in by_length] == [set(step) for step in as_dealt]


def test_rows_of_like_length_share_a_micro_batch() -> None:
    sorted_padding = padding(batches(StepOrder(LENGTHS, 16, seed=7), 4))
    dealt_padding = padding(batches(StepOrder([1] * 103, 16, seed=7), 4))
    assert sorted_padding < 0.5 * dealt_padding
