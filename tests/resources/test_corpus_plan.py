"""The plan of a corpus grows in proportion, says what does not fit, and refuses texts that mean nothing."""

from __future__ import annotations

import pytest

from resources.corpus_plan import Cluster, cluster_of, count_of, plan_corpus
from resources.estimate import GIB
from resources.fit_plan import CARDS

MINILM = 6 * (4 * 384**2 + 2 * 384 * 1536)


@pytest.mark.parametrize(
    ("text", "count"), [("200000", 200_000), ("200k", 200_000), ("1.5M", 1_500_000), ("1B", 10**9), ("1,000", 1000)]
)
def test_numbers_are_read_as_people_write_them(text: str, count: int) -> None:
    assert count_of(text) == count


@pytest.mark.parametrize("text", ["", "many", "0", "-5", "1T", "1.5.2M"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="no number of passages"):
        count_of(text)


def test_a_cluster_is_nodes_of_cores_memory_and_a_card() -> None:
    assert cluster_of("64") == Cluster(1, 64, 256 * GIB)
    assert cluster_of("8x16/64GB") == Cluster(8, 16, 64 * GIB)
    nodes = cluster_of("2 x 16/128GB/A100 80GB")
    assert nodes.card is not None and nodes.card.tflops == 312
    assert cluster_of("1/8GB/RTX A6000").card == CARDS["A6000"]
    for wrong in ("", "0", "0x16", "8x0/64GB", "8/64GB/A4000", "x16", "8x", "8x16/64", "8x16/64GB/Abacus"):
        with pytest.raises(ValueError, match=r"no cluster|no card"):
            cluster_of(wrong)


def test_ten_times_the_passages_take_ten_times_the_time_and_may_not_fit() -> None:
    nodes = cluster_of("16/64GB")
    small, large = (plan_corpus(count, MINILM, 384, 128, nodes, price=2.0) for count in (10**6, 10**8))
    assert large.seconds == pytest.approx(100 * small.seconds)
    assert large.vectors_file == 100 * small.vectors_file
    assert all(step.fits for step in small.steps)
    assert {step.step for step in large.steps if not step.fits} >= {"gates on passages", "encoder: training"}
    assert large.money == pytest.approx(large.seconds / 3600 * 2.0)


def test_a_card_encodes_instead_of_the_cores() -> None:
    with_gpu, without = (plan_corpus(10**6, MINILM, 384, 128, cluster_of(text)) for text in ("16/64GB/A100", "16/64GB"))
    assert [step.on_gpu for step in with_gpu.steps] == [step.step.startswith("vectors") for step in with_gpu.steps]
    assert with_gpu.seconds < without.seconds
