"""Assign records to train, validation and test by cluster. A record that has a split keeps it for ever."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from expectations.canonical import hash_share, text_digest
from expectations.rules.splits import QUARANTINED, SPLITS
from expectations.text.cleaning import matching_key
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.near_duplicates import near_pairs

_FILLERS = re.compile(r"请问一下|请问|[吗呢啊呀吧的了]|\b(?:please|the|an?)\b")


@dataclass(frozen=True)
class RecordKeys:
    """One record and the keys that it shares with others: `document:aes`, `group:dialogue-7` …"""

    dataset: str
    record_id: str
    keys: tuple[str, ...]
    question: str = ""
    """Form of the question (see `question_form`); empty where questions do not group records."""

    @property
    def id(self) -> tuple[str, str]:
        """The key of the record in the ledger."""
        return self.dataset, self.record_id


@dataclass(frozen=True)
class Assignment:
    """The cluster and the split of a record. A quarantined record has the split `quarantined`, for ever."""

    cluster: str
    split: str


@dataclass(frozen=True)
class Bridge:
    """A new record that shares keys with two splits: (split, the key it shares with it) of each."""

    record: RecordKeys
    touches: list[tuple[str, str]]


@dataclass
class Assignments:
    """The assignment of every new record, and the records that had to be quarantined."""

    by_id: dict[tuple[str, str], Assignment] = field(default_factory=dict[tuple[str, str], Assignment])
    bridges: list[Bridge] = field(default_factory=list[Bridge])


def assign_splits(
    records: Iterable[RecordKeys], known: Mapping[tuple[str, str], Assignment], settings: SplitSettings
) -> Assignments:
    """Assign a split to every record that is not `known` yet.

    A new record takes the split of the known ones it shares a key with; one that shares keys with two splits is
    quarantined. A cluster of new records takes the split of a keyed hash of its smallest key, so that equal clusters
    get the same split in every data set. Only what is new is compared: known records that share no key with a new one
    decide nothing.
    """
    quarantined = {record_id for record_id, assignment in known.items() if assignment.split == QUARANTINED}
    records = [record for record in records if record.id not in quarantined]
    new = [record for record in records if record.id not in known]
    questions = {record.question for record in records if record.question}
    twins = _Twins(questions, {record.question for record in new}, settings.near_duplicate)
    touched = set(chain.from_iterable(_keys(record, twins) for record in new))
    new += [record for record in records if record.id in known and not touched.isdisjoint(_keys(record, twins))]
    records = sorted(new, key=lambda record: record.id)
    # a cluster whose records are all gone still keeps its split
    splits = {assignment.cluster: assignment.split for assignment in known.values() if assignment.split != QUARANTINED}
    result = Assignments()
    while True:
        by_id, bridges = _assign_once(records, known, twins, splits, settings)
        if not bridges:
            result.by_id = by_id
            return result
        result.bridges += bridges
        # a quarantined record joins no cluster, so the clusters it seemed to join are computed again without it
        bridging = {bridge.record.id for bridge in bridges}
        records = [record for record in records if record.id not in bridging]
        twins.remove({bridge.record.question for bridge in bridges} - {record.question for record in records})


def choose_split(representative: str, settings: SplitSettings) -> str:
    """Return the split of a new cluster: a keyed hash of its representative, read as a number in [0, 1)."""
    key = hashlib.blake2b(settings.key.encode(), digest_size=32).digest()
    number = hash_share(representative, key)
    if number < settings.train:
        return SPLITS[0]
    return SPLITS[1] if number < settings.train + settings.validation else SPLITS[2]


def question_form(question: str) -> str:
    """Return a question as a matching key, without the words that only make it polite or grammatical.

    One more 的 or 吗 changes a third of the 3-grams of a short Chinese question: its near-duplicates would be missed.
    """
    folded = unicodedata.normalize("NFKC", question).casefold()
    return matching_key(_FILLERS.sub(" ", folded)) or matching_key(folded)


def cluster_key(question: str) -> str:
    """Return the key that records of this form of a question share."""
    return f"question:{text_digest(question)[:32]}"


def _assign_once(
    records: Sequence[RecordKeys],
    known: Mapping[tuple[str, str], Assignment],
    twins: _Twins,
    splits: Mapping[str, str],
    settings: SplitSettings,
) -> tuple[dict[tuple[str, str], Assignment], list[Bridge]]:
    """Return the assignments of the new records, and the new records that share keys with two splits.

    `splits`: those of the clusters that the ledger has.
    """
    clusters = _Clusters()
    for record in records:
        if assignment := known.get(record.id):
            clusters.add_known(assignment, _keys(record, twins))
    bridges: list[Bridge] = []
    joined: list[RecordKeys] = []
    for record in records:
        if record.id in known:
            continue
        keys = _keys(record, twins)
        touched = {split: key for key in reversed(keys) if (split := clusters.split_of(key))}
        if len(touched) > 1:
            bridges.append(Bridge(record, sorted(touched.items())))
        else:
            clusters.join(keys)
            joined.append(record)
    by_id: dict[tuple[str, str], Assignment] = {}
    for record in joined:
        assignment = clusters.assignment_of(record.keys[0])
        if assignment is None:
            representative = clusters.smallest(record.keys[0])
            cluster = text_digest(representative)[:16]
            assignment = Assignment(cluster, splits.get(cluster) or choose_split(representative, settings))
        by_id[record.id] = assignment
    return by_id, bridges


def _keys(record: RecordKeys, twins: _Twins) -> list[str]:
    return [*record.keys, *map(cluster_key, twins.of(record.question))]


class _Twins:
    """Questions that are nearly the same: the links that join each family of them, not every pair.

    Two questions of which none is new are not compared: both have their splits already.
    """

    def __init__(self, questions: Iterable[str], new: Collection[str], threshold: float) -> None:
        self._new = new
        self._threshold = threshold
        self._links: dict[str, list[str]] = {}
        self._link(questions)

    def of(self, question: str) -> Sequence[str]:
        """Return the questions that are linked with this one."""
        return self._links.get(question, ())

    def remove(self, questions: Iterable[str]) -> None:
        """Remove questions. They may have been the only link within their families, so link the others again."""
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
        for left, right, _ in near_pairs(texts, self._threshold, new=[text in self._new for text in texts]):
            self._links.setdefault(texts[left], []).append(texts[right])
            self._links.setdefault(texts[right], []).append(texts[left])


class _Clusters:
    """Union-find over keys. The smallest key of a cluster is its root; a cluster may already have an assignment."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._assigned: dict[str, Assignment] = {}

    def smallest(self, key: str) -> str:
        """Return the smallest key of the cluster of `key`."""
        parent = self._parent
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def assignment_of(self, key: str) -> Assignment | None:
        """Return the assignment of the cluster of `key`, if it has one."""
        return self._assigned.get(self.smallest(key))

    def split_of(self, key: str) -> str | None:
        """Return the split of the cluster of `key`, if it has one."""
        assignment = self.assignment_of(key)
        return assignment.split if assignment else None

    def join(self, keys: Sequence[str]) -> None:
        """Join the clusters of all keys. None of them may have another split than the others."""
        for key in keys[1:]:
            low, high = sorted((self.smallest(keys[0]), self.smallest(key)))
            if low != high:
                self._parent[high] = low
                both = [known for known in (self._assigned.pop(high, None), self._assigned.get(low)) if known]
                if both:
                    self._assigned[low] = min(both, key=lambda known: known.cluster)

    def add_known(self, assignment: Assignment, keys: Sequence[str]) -> None:
        """Add a record that has a split already. Its keys that another split has (its text was edited) stay apart."""
        own_key = f"~{assignment.cluster}"
        self._assigned.setdefault(self.smallest(own_key), assignment)
        self.join([own_key, *(key for key in keys if self.split_of(key) in (None, assignment.split))])
