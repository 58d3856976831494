"""The assignment of splits by cluster."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest

from expectations.rules.splits import QUARANTINED
from expectations.text.cleaning import matching_key
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import (
    Assignment,
    Assignments,
    RecordKeys,
    _assign_once,
    _Twins,
    assign_splits,
    choose_split,
    cluster_key,
    question_form,
)
from ft_assets.datasets.near_duplicates import jaccard
from ft_assets.datasets.passage_index import PassageIndex, document_of, resolve_passages

SETTINGS = SplitSettings()


def _families(count: int, size: int, seed: int = 0) -> list[tuple[str, str]]:
    """(id, question): families of near-duplicates in Chinese and English, one letter apart, shuffled."""
    dice = random.Random(seed)  # noqa: S311
    rows: list[tuple[str, str]] = []
    for family in range(count):
        alphabet = "密钥算法分组加密解密签名验证证书协议" if family % 2 else "abcdefghijklmnopqrstuvwxyz "
        base = "".join(dice.choice(alphabet) for _ in range(60))
        for member in range(size):
            at = dice.randrange(60)
            rows.append((f"f{family}-{member}", matching_key(base[:at] + dice.choice(alphabet) + base[at + 1 :])))
    dice.shuffle(rows)
    return rows


def _cards(rows: list[tuple[str, str]]) -> list[RecordKeys]:
    return [RecordKeys("instruction", record_id, (cluster_key(text),), text) for record_id, text in rows]


def _pairs_across(rows: list[tuple[str, str]], assignments: dict[tuple[str, str], Assignment]) -> list[tuple[str, str]]:
    """Return the near-duplicates that are in two splits, by brute force."""
    placed = [(i, text, assignments[("instruction", i)].split) for i, text in rows]
    placed = [row for row in placed if row[2] != QUARANTINED]
    return [
        (a[0], b[0])
        for a, b in combinations(placed, 2)
        if a[2] != b[2] and jaccard(a[1], b[1]) >= SETTINGS.near_duplicate
    ]


def test_growth_moves_nothing_and_no_near_duplicates_are_in_two_splits():
    rows = _families(60, 6)
    first = assign_splits(_cards(rows[:180]), {}, SETTINGS)
    assert not first.bridges and not _pairs_across(rows[:180], first.by_id)
    grown = assign_splits(_cards(rows), first.by_id, SETTINGS)
    assert not grown.by_id.keys() & first.by_id.keys()  # no record is assigned twice
    ledger = first.by_id | grown.by_id | {b.record.id: Assignment("", QUARANTINED) for b in grown.bridges}
    assert not _pairs_across(rows, ledger)
    assert {assignment.split for assignment in ledger.values()} >= {"train", "validation", "test"}


def _assign_all_again(
    records: Sequence[RecordKeys], known: Mapping[tuple[str, str], Assignment], settings: SplitSettings
) -> Assignments:
    """Assign as `assign_splits` does, but compare every pair, and let every known record take part."""
    records = sorted(
        (r for r in records if known.get(r.id, Assignment("", "")).split != QUARANTINED), key=lambda r: r.id
    )
    questions = {record.question for record in records if record.question}
    twins = _Twins(questions, questions, settings.near_duplicate)
    splits = {one.cluster: one.split for one in known.values() if one.split != QUARANTINED}
    result = Assignments()
    while True:
        result.by_id, bridges = _assign_once(records, known, twins, splits, settings)
        if not bridges:
            return result
        result.bridges += bridges
        records = [record for record in records if record.id not in {bridge.record.id for bridge in bridges}]
        twins.remove({bridge.record.question for bridge in bridges} - {record.question for record in records})


@pytest.mark.parametrize("seed", range(8))
def test_comparing_what_is_new_gives_the_splits_that_comparing_everything_gives(seed: int):
    dice = random.Random(seed)  # noqa: S311
    settings = SplitSettings(near_duplicate=dice.choice([0.6, 0.8]))
    cards = [
        RecordKeys(
            dice.choice(["instruction", "retrieval"]),
            record_id,
            (*dice.choices([f"document:{n}" for n in range(60)], k=dice.choice([0, 0, 0, 1, 2])), cluster_key(text)),
            text,
        )
        for record_id, text in _families(40, 6, seed)
    ]
    known: dict[tuple[str, str], Assignment] = {}
    bridges = 0
    for end in range(20, len(cards) + 1, 20):
        made, expected = (way(cards[:end], known, settings) for way in (assign_splits, _assign_all_again))
        assert {key: one.split for key, one in made.by_id.items()} == {
            k: one.split for k, one in expected.by_id.items()
        }
        assert {bridge.record.id for bridge in made.bridges} == {bridge.record.id for bridge in expected.bridges}
        assert not made.by_id.keys() & known.keys()
        bridges += len(made.bridges)
        known |= made.by_id | {bridge.record.id: Assignment("", QUARANTINED) for bridge in made.bridges}
    assert bridges and known.keys() == {card.id for card in cards}


def test_the_order_of_the_rows_does_not_matter():
    rows = _families(20, 3)
    assert assign_splits(_cards(rows), {}, SETTINGS).by_id == assign_splits(_cards(rows[::-1]), {}, SETTINGS).by_id


def test_a_quarantined_record_no_longer_joins_clusters():
    # x is nearly a (train) and nearly b (test), which are not alike; y is nearly x and nearly b, z nearly b alone
    words = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地玄黄宇宙洪荒"
    texts = {"a": "一二" + words, "b": words + "三四", "x": words, "y": words + "三五", "z": words + "三四六"}
    strict = SplitSettings(near_duplicate=0.9)
    known = {("instruction", "a"): Assignment("A", "train"), ("instruction", "b"): Assignment("B", "test")}
    cards = _cards(list(texts.items()))
    result = assign_splits(cards, known, strict)
    assert "x" in {bridge.record.record_id for bridge in result.bridges}
    assert result.by_id[("instruction", "z")].split == "test"
    ledger = known | result.by_id
    alike = [
        (one, other) for one, other in combinations(cards, 2) if jaccard(one.question, other.question) >= 0.9
    ]  # fmt: skip
    assert len(alike) >= 4
    assert all(
        ledger[one.id].split == ledger[other.id].split
        for one, other in alike
        if one.id in ledger and other.id in ledger
    )


def test_polite_words_do_not_hide_a_near_duplicate():
    asked = ["SM4 的分组长度是多少？", "请问SM4分组长度是多少呢", "ＳＭ４分组长度是多少?"]
    assert len({question_form(text) for text in asked}) == 1
    assert question_form("What is the key length of AES?") == question_form("Please, what is key length of an AES")
    assert question_form("SM2 签名") != question_form("SM4 签名")
    assert question_form("the") == "the" and question_form("吗？") == "吗"


def test_a_cluster_that_comes_back_keeps_its_split_though_the_shares_changed():
    card = RecordKeys("instruction", "r1", ("document:aes",))
    before = assign_splits([card], {}, SETTINGS).by_id
    shares = SplitSettings(train=0.01, validation=0.98, test=0.01)
    again = assign_splits([RecordKeys("preference", "p1", ("document:aes",))], before, shares).by_id
    assert again[("preference", "p1")] == before[card.id]


def test_shares_are_near_the_requested_ones():
    counts = {"train": 0, "validation": 0, "test": 0}
    for n in range(5000):
        counts[choose_split(f"document:{n}", SETTINGS)] += 1
    assert abs(counts["train"] / 5000 - 0.7) < 0.03 and abs(counts["test"] / 5000 - 0.2) < 0.03


def test_an_evidence_name_means_a_passage_a_section_with_its_pieces_or_a_document():
    index = PassageIndex([("aes#a", "aes"), ("aes#b", "aes"), ("aes#b~2", "aes"), ("d1", "d1"), ("d1~2", "d1")])
    assert resolve_passages(["aes#b", "aes#b~2", "gone"], index) == ["aes#b", "aes#b~2"]
    assert resolve_passages(["aes"], index) == ["aes#a", "aes#b", "aes#b~2"]
    assert resolve_passages(["aes#b~2", "d1"], index) == ["aes#b~2", "d1", "d1~2"]
    assert [document_of(name, index) for name in ("d1~2", "aes", "new#x")] == ["d1", "aes", "new"]
