"""Records come, go and come back in any order: none ever changes its split, and no key is in two splits.

A document's records may all leave, others of that document come, and the first ones come back: each keeps its split, so
that the document would be in two. The gate FT-SPLIT-006 then names it; nothing is trained on it.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from expectations.rules.splits import QUARANTINED, nothing_shared_across
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import Assignment, RecordKeys, assign_splits

Id = tuple[str, str]
KEYS = st.sets(st.sampled_from([f"document:{letter}" for letter in "abcdefgh"]), min_size=1, max_size=3)


class Ledger(RuleBasedStateMachine):
    """A ledger and the records that lie in the files now."""

    def __init__(self) -> None:
        super().__init__()
        self.present: dict[Id, RecordKeys] = {}
        self.keys: dict[Id, tuple[str, ...]] = {}
        self.ledger: dict[Id, Assignment] = {}
        self.returned: set[Id] = set()

    @rule(dataset=st.sampled_from(["instruction", "retrieval"]), number=st.integers(0, 15), keys=KEYS)
    def add(self, dataset: str, number: int, keys: set[str]) -> None:
        """Add a record; one that was there before comes back as it was."""
        record_id = (dataset, str(number))
        if record_id in self.ledger and record_id not in self.present:
            self.returned.add(record_id)
        kept = self.keys.setdefault(record_id, tuple(sorted(keys)))
        self.present[record_id] = RecordKeys(*record_id, kept)

    @rule(number=st.integers(0, 100))
    def remove(self, number: int) -> None:
        if self.present:
            del self.present[sorted(self.present)[number % len(self.present)]]

    @rule(share=st.sampled_from([0.5, 0.8]))
    def run(self, share: float) -> None:
        """Assign what is new, with shares that a person may have changed in between; then once more."""
        changed = SplitSettings(train=share, validation=0.1, test=round(0.9 - share, 1))
        made = assign_splits(self.present.values(), self.ledger, changed)
        new = made.by_id | {bridge.record.id: Assignment("", QUARANTINED) for bridge in made.bridges}
        assert not new.keys() & self.ledger.keys(), "an id that has a split keeps it"
        self.ledger |= new
        assert self.present.keys() <= self.ledger.keys()
        again = assign_splits(self.present.values(), self.ledger, changed)
        assert not again.by_id and not again.bridges

    @invariant()
    def no_key_is_in_two_splits_or_a_gate_names_it(self) -> None:
        splits = {key: self.ledger[key].split for key in sorted(self.present) if key in self.ledger}
        placed = {key: split for key, split in splits.items() if split != QUARANTINED}
        held = [(key, split, "/".join(record)) for record, split in placed.items() for key in self.keys[record]]
        named = nothing_shared_across("split_ledger", held)
        of_returned = {key for record in self.returned for key in self.keys[record]}
        assert all(any(key in str(one) for key in of_returned) for one in named), named


Ledger.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None, derandomize=True)
test_the_ledger = Ledger.TestCase
