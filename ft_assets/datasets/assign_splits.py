"""Deals records into train, validation and test by cluster. What was dealt once is never dealt again."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from expectations.canonical import text_digest
from expectations.rules.splits import QUARANTINED, SPLITS
from expectations.text.cleaning import matching_key
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.near_duplicates import near_pairs

_FILLERS = re.compile(r"请问一下|请问|[吗呢啊呀吧的了]|\b(?:please|the|an?)\b")


@dataclass(frozen=True)
class Card:
    """One record as dealing sees it. `keys` say what it shares with others: `document:aes`, `group:dialogue-7` …"""

    dataset: str
    record_id: str
    keys: tuple[str, ...]
    question: str = ""
    """Form of the question (see `question_form`); empty where questions do not group."""

    @property
    def id(self) -> tuple[str, str]:
        return self.dataset, self.record_id


@dataclass(frozen=True)
class Dealt:
    """Where a record lies. A quarantined one has the split `quarantined`, for ever."""

    cluster: str
    split: str


@dataclass(frozen=True)
class Bridge:
    """A new record that touches clusters of two splits: (split, the key it shares with it) of each."""

    card: Card
    touches: list[tuple[str, str]]


@dataclass
class Deal:
    """Where every new record goes, and which of them had to be kept out."""

    dealt: dict[tuple[str, str], Dealt] = field(default_factory=dict[tuple[str, str], Dealt])
    bridges: list[Bridge] = field(default_factory=list[Bridge])


def deal(cards: Iterable[Card], known: Mapping[tuple[str, str], Dealt], settings: SplitSettings) -> Deal:
    """Deal every card that is not `known` yet.

    A new card takes the split of the old ones it touches; one that touches two splits is kept out; a cluster of new
    cards only is dealt by a keyed hash of its smallest key, so that equal clusters land alike in every data set.
    """
    out = {record for record, dealt in known.items() if dealt.split == QUARANTINED}
    cards = sorted((card for card in cards if card.id not in out), key=lambda card: card.id)
    twins = _Twins({card.question for card in cards if card.question}, settings.near_duplicate)
    result = Deal()
    while True:
        dealt, bridges = _round(cards, known, twins, settings)
        if not bridges:
            result.dealt = dealt
            return result
        result.bridges += bridges
        # a card that is kept out joins nobody, so what it seemed to join is looked at again without it
        kept_out = {bridge.card.id for bridge in bridges}
        cards = [card for card in cards if card.id not in kept_out]
        twins.forget({bridge.card.question for bridge in bridges} - {card.question for card in cards})


def choose_split(representative: str, settings: SplitSettings) -> str:
    """The split of a new cluster: a keyed hash of its representative, read as a number in [0, 1)."""
    key = hashlib.blake2b(settings.key.encode(), digest_size=32).digest()
    number = int.from_bytes(hashlib.blake2b(representative.encode(), digest_size=8, key=key).digest()) / 2**64
    if number < settings.train:
        return SPLITS[0]
    return SPLITS[1] if number < settings.train + settings.validation else SPLITS[2]


def question_form(question: str) -> str:
    """What a question asks, as a matching key: without the words that only make it polite or grammatical.

    One more 的 or 吗 changes a third of the 3-grams of a short Chinese question; it would be nobody's twin.
    """
    folded = unicodedata.normalize("NFKC", question).casefold()
    return matching_key(_FILLERS.sub(" ", folded)) or matching_key(folded)


def question_key(question: str) -> str:
    """The group key of a question that has this form."""
    return f"question:{text_digest(question)[:32]}"


def _round(
    cards: Sequence[Card],
    known: Mapping[tuple[str, str], Dealt],
    twins: _Twins,
    settings: SplitSettings,
) -> tuple[dict[tuple[str, str], Dealt], list[Bridge]]:
    groups = _Groups()
    # clusters that have no living member still own their names
    splits = {dealt.cluster: dealt.split for dealt in known.values() if dealt.split != QUARANTINED}
    for card in cards:
        if before := known.get(card.id):
            groups.seat(before, _keys(card, twins))
    new = [card for card in cards if card.id not in known]
    bridges: list[Bridge] = []
    seated: list[Card] = []
    for card in new:
        keys = _keys(card, twins)
        touched = {split: key for key in reversed(keys) if (split := groups.split(key))}
        if len(touched) > 1:
            bridges.append(Bridge(card, sorted(touched.items())))
        else:
            groups.join(keys)
            seated.append(card)
    dealt: dict[tuple[str, str], Dealt] = {}
    for card in seated:
        found = groups.dealt(card.keys[0])
        if found is None:
            representative = groups.smallest(card.keys[0])
            cluster = text_digest(representative)[:16]
            found = Dealt(cluster, splits.get(cluster) or choose_split(representative, settings))
        dealt[card.id] = found
    return dealt, bridges


def _keys(card: Card, twins: _Twins) -> list[str]:
    return [*card.keys, *map(question_key, twins.of(card.question))]


class _Twins:
    """Which questions are nearly the same: links that join each family of them, not every pair."""

    def __init__(self, questions: Iterable[str], threshold: float) -> None:
        self._threshold = threshold
        self._links: dict[str, list[str]] = {}
        self._link(questions)

    def of(self, question: str) -> Sequence[str]:
        return self._links.get(question, ())

    def forget(self, questions: Iterable[str]) -> None:
        """Take questions out. The rest of their families may have hung together by them only: link it anew."""
        gone = set(questions)
        family: set[str] = set()
        reached = [question for question in gone if question in self._links]
        while reached:
            question = reached.pop()
            if question not in family:
                family.add(question)
                reached += self._links.pop(question)
        self._link(family - gone)

    def _link(self, questions: Iterable[str]) -> None:
        texts = sorted(questions)
        for left, right, _ in near_pairs(texts, self._threshold):
            self._links.setdefault(texts[left], []).append(texts[right])
            self._links.setdefault(texts[right], []).append(texts[left])


class _Groups:
    """Union-find over group keys. The smallest key of a group is its root; a group may already have been dealt."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._dealt: dict[str, Dealt] = {}

    def smallest(self, key: str) -> str:
        parent = self._parent
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def dealt(self, key: str) -> Dealt | None:
        return self._dealt.get(self.smallest(key))

    def split(self, key: str) -> str | None:
        dealt = self.dealt(key)
        return dealt.split if dealt else None

    def join(self, keys: Sequence[str]) -> None:
        """Make the groups of all keys one. None of them may lie in another split than the rest."""
        for key in keys[1:]:
            low, high = sorted((self.smallest(keys[0]), self.smallest(key)))
            if low != high:
                self._parent[high] = low
                both = [dealt for dealt in (self._dealt.pop(high, None), self._dealt.get(low)) if dealt]
                if both:
                    self._dealt[low] = min(both, key=lambda dealt: dealt.cluster)

    def seat(self, dealt: Dealt, keys: Sequence[str]) -> None:
        """Put a record that was dealt before. Keys that lie in another split (its text was edited) stay apart."""
        mine = f"~{dealt.cluster}"
        self._dealt.setdefault(self.smallest(mine), dealt)
        self.join([mine, *(key for key in keys if self.split(key) in (None, dealt.split))])
