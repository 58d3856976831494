"""The number of rows doubles: no record moves, no near-duplicates are in two splits (by an independent method)."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

import pytest

from expectations.rules.splits import QUARANTINED, SPLITS
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import RecordKeys, assign_splits, cluster_key, question_form
from tests.ft_assets.datasets.conftest import TOPICS, Project, instruction

pytestmark = pytest.mark.slow

SETTINGS = SplitSettings(near_duplicate=0.6)
HAN = "的一是在不有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面"
FRAMES = ("请问{}吗？", "{}呢", "请说明：{}。", "{}，为什么", "Please explain {}", "{} in short", "what about {}?")


class Planted:
    """Families of questions in Chinese and English, nothing else alike: `before` and `after` are the two halves.

    A family is one question with its edits and paraphrases, in both halves. In every tenth, two questions that are not
    alike are old, and a new one says what both ask: where these are in two splits, it is a bridge.
    """

    def __init__(self, rows: int) -> None:
        self._dice = random.Random(rows)  # noqa: S311
        self.questions: dict[str, str] = {}
        self.family: dict[str, int] = {}
        self.between: dict[str, tuple[str, str]] = {}
        """A new question -> the two old ones it says both of."""
        old: list[str] = []
        rest: list[str] = []
        for number in range(rows):
            if len(self.questions) >= rows:
                break
            if number % 10 == 0:
                left, middle, right = self._text(12), self._text(24), self._text(12)
                pair = self._add(number, left + middle), self._add(number, middle + right)
                self.between[self._add(number, left + middle + right)] = pair
                old += pair
            else:
                rest += [self._add(number, text) for text in self._paraphrases()]
        self._dice.shuffle(rest)
        self.before = [*old, *rest[: rows // 2 - len(old)]]
        self.after = [*rest[rows // 2 - len(old) :], *self.between]

    def cards(self, record_ids: Iterable[str]) -> list[RecordKeys]:
        forms = ((record_id, question_form(self.questions[record_id])) for record_id in record_ids)
        return [RecordKeys("instruction", record_id, (cluster_key(form),), form) for record_id, form in forms]

    def alike(self, record_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """All pairs of near-duplicates: every pair of each family is compared, without the code that is tested."""
        families: defaultdict[int, list[tuple[str, set[str]]]] = defaultdict(list)
        for record_id in record_ids:
            form = question_form(self.questions[record_id])
            families[self.family[record_id]].append((record_id, {form[n : n + 3] for n in range(len(form) - 2)}))
        for members in families.values():
            for (left, a), (right, b) in combinations(members, 2):
                if len(a & b) >= SETTINGS.near_duplicate * len(a | b):
                    yield left, right

    def _add(self, family: int, question: str) -> str:
        record_id = f"r{self._dice.getrandbits(64):016x}"
        self.questions[record_id], self.family[record_id] = question, family
        return record_id

    def _text(self, length: int) -> str:
        return "".join(self._dice.choices(HAN, k=length))

    def _paraphrases(self) -> Iterator[str]:
        text = self._text(self._dice.randint(20, 60))
        if self._dice.random() < 0.5:
            words = ("".join(self._dice.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(12))
            text = " ".join(words)
        yield text
        for _ in range(self._dice.choice([0, 0, 1, 2, 5, 11])):
            at = self._dice.randrange(len(text))
            edited = text[:at] + self._dice.choice(HAN) + text[at + self._dice.randrange(2) :]
            yield self._dice.choice(FRAMES).format(edited) if self._dice.random() < 0.5 else edited


def _check_growth(planted: Planted, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """0 ids moved, 0 near-duplicates across splits, every bridge in the quarantine and nothing but bridges."""
    assert {record_id: after[record_id] for record_id in before} == before
    placed = [record_id for record_id, split in after.items() if split != QUARANTINED]
    assert [pair for pair in planted.alike(placed) if after[pair[0]] != after[pair[1]]] == []
    bridges = {new for new, (left, right) in planted.between.items() if before[left] != before[right]}
    kept_out = {record_id for record_id, split in after.items() if split == QUARANTINED}
    assert bridges and bridges <= kept_out
    joined: defaultdict[str, set[str]] = defaultdict(set)
    for left, right in planted.alike(after):
        joined[left].add(right)
        joined[right].add(left)
    for record_id in kept_out:  # the records it is linked with are in two splits
        family, reached = {record_id}, [record_id]
        while reached:
            new = joined[reached.pop()] - family
            family |= new
            reached += new
        assert len({before[member] for member in family & before.keys()}) > 1


def _check_shares(after: Mapping[str, str]) -> None:
    shares = Counter(after.values())
    for split, wanted in zip(SPLITS, (SETTINGS.train, SETTINGS.validation, SETTINGS.test), strict=True):
        assert abs(shares[split] / len(after) - wanted) < 0.05


@pytest.mark.parametrize("rows", [4000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_growth_to_twice_the_rows_moves_no_id_and_leaks_no_near_duplicate(rows: int):
    planted = Planted(rows)
    first = assign_splits(planted.cards(planted.before), {}, SETTINGS)
    assert not first.bridges
    assert len(first.by_id) == len(planted.before) == rows // 2
    grown = assign_splits(planted.cards([*planted.after, *planted.before]), first.by_id, SETTINGS)
    assert not grown.by_id.keys() & first.by_id.keys()
    before = {record_id: assignment.split for (_, record_id), assignment in first.by_id.items()}
    after = before | {record_id: assignment.split for (_, record_id), assignment in grown.by_id.items()}
    after |= {bridge.record.record_id: QUARANTINED for bridge in grown.bridges}
    assert after.keys() == planted.questions.keys()
    _check_growth(planted, before, after)
    _check_shares(after)


def test_growth_through_the_assets_moves_no_id_and_leaks_no_near_duplicate(project: Project):
    planted = Planted(1000)
    project.config["datasets"]["split"] = SETTINGS.model_dump(mode="json")
    topics = [instruction(topic) for topic in TOPICS]

    def run(record_ids: list[str]) -> dict[str, str]:
        rows = [
            {"record_id": record_id, "question": planted.questions[record_id], "answer": f"答 {record_id}"}
            for record_id in record_ids
        ]
        project.instructions([*topics, *rows])
        assert project.run(checks=False).success
        splits = {record_id: split for (_, record_id), split in project.splits().items()}
        return {record_id: splits[record_id] for record_id in record_ids}

    before = run(planted.before)
    after = run([*planted.after, *planted.before])
    _check_growth(planted, before, after)
    quarantined = {row["raw"] for row in project.quarantine("split_ledger")}
    assert {question_form(planted.questions[r]) for r in after if after[r] == QUARANTINED} == quarantined
