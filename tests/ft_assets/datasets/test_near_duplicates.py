from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest

from ft_assets.datasets.near_duplicates import Families, jaccard, near_pairs

HAN = "密钥算法分组加密解密签名验证证书协议"


def _families(texts: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[int]:
    families = Families(len(texts))
    for left, right in pairs:
        families.join(left, right)
    return families.roots().tolist()


def _edited(seed: int, count: int) -> list[str]:
    """Texts in Chinese and English of all lengths, each with edits of it, and very short ones of six characters."""
    dice = random.Random(seed)  # noqa: S311
    texts: list[str] = []
    for n in range(count):
        alphabet = HAN if n % 2 else "abcdefghijklmnopqrstuvwxyz"
        text = "".join(dice.choices(alphabet, k=dice.randint(1, 60)))
        for _ in range(dice.randrange(5)):
            at = dice.randrange(len(text))
            texts.append(text[:at] + dice.choice(alphabet) * dice.randrange(3) + text[at + 1 :])
        texts += [text, "".join(dice.choices("甲乙丙丁戊己", k=dice.randint(0, 9)))]
    dice.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0])
def test_exactly_the_families_are_joined_that_comparing_every_pair_gives(threshold: float):
    texts = _edited(int(threshold * 10), 120)
    alike = {
        (i, j): jaccard(texts[i], texts[j]) for i, j in combinations(range(len(texts)), 2) if texts[i] and texts[j]
    }
    expected = [pair for pair, similarity in alike.items() if similarity >= threshold]
    found = list(near_pairs(texts, threshold))
    assert expected and _families(texts, ((i, j) for i, j, _ in found)) == _families(texts, expected)
    assert all(similarity == alike[(i, j)] for i, j, similarity in found)
    assert len(found) == len({(i, j) for i, j, _ in found}) < len(texts)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_with_new_texts_exactly_the_pairs_count_in_which_a_text_is_new(threshold: float):
    texts = _edited(7, 120)
    new = [n % 5 == 0 for n in range(len(texts))]
    expected = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if (new[i] or new[j]) and texts[i] and texts[j] and jaccard(texts[i], texts[j]) >= threshold
    ]
    found = [(i, j) for i, j, _ in near_pairs(texts, threshold, new=new)]
    assert expected and set(found) <= set(expected) and _families(texts, found) == _families(texts, expected)
    assert list(near_pairs(texts, threshold, new=[False] * len(texts))) == []


def test_texts_of_all_sizes_around_the_threshold_are_found():
    dice = random.Random(3)  # noqa: S311
    for size in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 31, 32, 33, 40, 64, 65, 80, 127, 128, 160):
        base = "".join(chr(0x4E00 + n) for n in dice.sample(range(5000), size + 2))
        for cut in range(size * 7 // 10, size + 1, size // 30 + 1):
            other = base[: cut + 2] + "".join(dice.choices(HAN, k=dice.choice([0, size // 9])))
            alike = jaccard(base, other) >= 0.8
            assert [pair[:2] for pair in near_pairs([base, other], 0.8)] == ([(0, 1)] if alike else [])


def test_a_chain_of_edits_is_followed_though_its_ends_are_not_alike():
    base = [chr(0x4E00 + n) for n in range(60)]
    chain = ["".join(base[n : n + 40]) for n in range(0, 20, 2)]
    assert jaccard(chain[0], chain[-1]) < 0.5
    assert len(set(_families(chain, ((i, j) for i, j, _ in near_pairs(chain, 0.8))))) == 1


def test_empty_texts_are_nobodys_twin_and_equal_ones_are():
    assert list(near_pairs([], 0.8)) == list(near_pairs(["", ""], 0.8)) == list(near_pairs(["密"], 0.8)) == []
    assert list(near_pairs(["", "密", "", "密"], 0.8)) == [(1, 3, 1.0)]


def test_texts_that_are_all_one_template_stay_affordable():
    dice = random.Random(0)  # noqa: S311
    sums = {f"计算{dice.randrange(10**5)}加{dice.randrange(10**5)}等于多少" for _ in range(5000)}
    copies = {f"{'请说明分组密码的工作模式' * 3}{n}" for n in range(5000)}
    start = time.perf_counter()
    list(near_pairs(sorted(sums), 0.8))
    assert len(list(near_pairs(sorted(copies), 0.8))) == len(copies) - 1
    assert time.perf_counter() - start < 10
