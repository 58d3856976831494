from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import encode


def test_texts_are_the_same_every_time_different_from_each_other_and_mixed_in_length():
    made = encode.texts(200)
    assert made == encode.texts(200)
    assert len(set(made)) == 200
    lengths = sorted(len(text.split()) for text in made)
    assert lengths[0] < 20 and 50 < lengths[100] < 75 and lengths[-1] > 200


@pytest.mark.slow
def test_all_vectors_of_a_corpus_that_was_encoded_before_are_reused(tmp_path: Path):
    encode.small_corpus(tmp_path, 60)
    first, second = (encode.encode_corpus(tmp_path) for _ in range(2))
    assert (first["encoded"], first["reused"]) == (60, 0)
    assert (second["encoded"], second["reused"]) == (0, 60)
