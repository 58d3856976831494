"""Gates on the data sets: rows are accounted for and fit their suite; nothing leaks, moves or is missing in a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from expectations.rules import conservation, contamination, splits
from expectations.rules.contamination import Search
from expectations.tables.gate import Table
from expectations.violations import Violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import Card
from ft_assets.datasets.clean import CONFLICTS, ID_COLUMN, RECORDS
from ft_assets.datasets.find_contamination import search_contamination, touches
from ft_assets.datasets.ledger import ASSET, DATASETS, LEDGER, read_cards, read_ledger, record_ids, unknown_evidence
from ft_assets.datasets.near_duplicates import near_pairs
from ft_assets.datasets.split import split_file
from ft_assets.graph import quarantine
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.table_gate import table_fits
from resources.artifacts import Artifact, ArtifactStore
from resources.memo import Memo
from resources.parquet import read_columns, read_rows, row_count

_NOT_CONFIGURED = {"configured": False}
_TABLE: dict[str, Table] = {
    "instruction": "instruction_records",
    "preference": "preference_records",
    "retrieval": "retrieval_records",
}
_CONFIG_KEY = {dataset: f"datasets.{dataset}" for dataset in DATASETS}


def is_configured(store: ArtifactStore, dataset: str) -> bool:
    """Whether config.yaml names files for a data set."""
    return bool(store.require(f"{dataset}_records").summary["configured"])


def placed_ids(artifact: Artifact, dataset: str) -> Iterator[tuple[str, str]]:
    """(record id, split) of every row of the three split files."""
    column = ID_COLUMN[dataset]
    for split in splits.SPLITS:
        for row in read_rows(artifact.file(split_file(split)), [column]):
            yield row[column], split


# Every consumer's guard asks again. The keys are the versions of the inputs, and whole_gate checks the bytes.
_leaks_judged = Memo[Verdict](size=4)
_contamination_found = Memo[Search](size=4)


# -- records --------------------------------------------------------------------------------------------------------
def _records_fit(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """The table fits its Great Expectations suite, judged on lengths, flags and counts."""
        artifact = evidence.store.require(f"{dataset}_records")
        if not artifact.summary["configured"]:
            return Verdict(figures=_NOT_CONFIGURED)
        return Verdict(*table_fits(evidence.store, artifact, RECORDS, _TABLE[dataset]))

    return rule


def _few_quarantined(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """No more rows are quarantined than datasets.max_quarantined_share allows, and at least one row was read."""
        asset = f"{dataset}_records"
        artifact = evidence.store.require(asset)
        if not artifact.summary["configured"]:
            return Verdict(figures=_NOT_CONFIGURED)
        most = settings_of(evidence.store, "datasets").max_quarantined_share
        read, out = artifact.summary["rows_read"], _quarantined(artifact)
        broken = conservation.few_are_quarantined(asset, read, out, most)
        broken += conservation.something_was_read(asset, read, _CONFIG_KEY[dataset])
        conflicts = len(artifact.json(CONFLICTS))
        return Verdict(broken, {"quarantined_share": out / read if read else 0.0, "most": most, "conflicts": conflicts})

    return rule


def _rows_accounted_for(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Every row that was read is in the table or in the quarantine."""
        asset = f"{dataset}_records"
        artifact = evidence.store.require(asset)
        read, out = artifact.summary["rows_read"], _quarantined(artifact)
        kept = _lines_kept(artifact) if dataset == "retrieval" else row_count(artifact.file(RECORDS))
        figures = {"rows_read": read, "kept": kept, "quarantined": out, "configured": artifact.summary["configured"]}
        return Verdict(conservation.every_row_is_accounted_for(asset, read, kept, out), figures)

    return rule


def _quarantined(artifact: Artifact) -> int:
    return sum(1 for _ in quarantine.read_quarantine(artifact.file(quarantine.FILE)))


def _lines_kept(artifact: Artifact) -> int:
    """Lines of the query and qrel files that the retrieval table stands for."""
    rows = read_rows(artifact.file(RECORDS), ["positive_ids", "negative_ids"])
    return sum(1 + len(row["positive_ids"]) + len(row["negative_ids"]) for row in rows)


# -- ledger ---------------------------------------------------------------------------------------------------------
def _nothing_moved(evidence: Evidence) -> Verdict:
    """No record moved against any older ledger of the same key, and every record of today is in the ledger."""
    ledger = evidence.store.require(ASSET)
    now = {record: dealt.split for record, dealt in read_ledger(ledger).items()}
    broken: list[Violation] = []
    older = [a for a in evidence.store.versions(ASSET) if _is_older(a, ledger)]
    for artifact in older:
        before = {record: dealt.split for record, dealt in read_ledger(artifact).items()}
        broken += splits.no_id_moved(ASSET, now, before)
    missing = [record for record in record_ids(evidence.store) if record not in now]
    broken += splits.all_are_dealt(ASSET, missing)
    return Verdict(broken, {"records": len(now), "older_ledgers": len(older), "missing": len(missing)})


def _clusters_are_whole(evidence: Evidence) -> Verdict:
    """Every cluster lies in one split."""
    rows = list(read_rows(evidence.store.require(ASSET).file(LEDGER), ["cluster", "split"]))
    broken = splits.no_cluster_in_two_splits(ASSET, ((row["cluster"], row["split"]) for row in rows))
    return Verdict(broken, {"clusters": len({row["cluster"] for row in rows})})


def _nothing_leaks(evidence: Evidence) -> Verdict:
    """No document, passage, group or (nearly) equal question is in two splits, over all three data sets at once."""
    store, settings = evidence.store, _split_settings(evidence)
    return _leaks_judged.get(_versions(store, settings), lambda: _judge_leaks(store, settings))


def _versions(store: ArtifactStore, settings: SplitSettings) -> tuple[str, ...]:
    """The versions of all that a rule over the three data sets looks at."""
    inputs = [store.require(asset) for asset in (ASSET, "passages", *(f"{dataset}_records" for dataset in DATASETS))]
    return (str(store.root), settings.model_dump_json(), *(artifact.data_version for artifact in inputs))


def _judge_leaks(store: ArtifactStore, settings: SplitSettings) -> Verdict:
    ledger = read_ledger(store.require(ASSET))
    placed = [(card, ledger[card.id].split) for card in read_cards(store, settings) if card.id in ledger]
    placed = [(card, split) for card, split in placed if split != splits.QUARANTINED]
    held = ((key, split, f"{card.dataset}:{card.record_id}") for card, split in placed for key in card.keys)
    broken = splits.nothing_shared_across(ASSET, held)
    first: dict[str, tuple[Card, str]] = {}
    for card, split in placed:
        first.setdefault(card.question, (card, split))
    ends = [(split, f"{card.dataset}:{card.record_id}") for card, split in first.values()]
    twins = [(ends[i], ends[j], alike) for i, j, alike in near_pairs(list(first), settings.near_duplicate)]
    broken += splits.no_twins_across(ASSET, twins)
    return Verdict(broken, {"records": len(placed), "near_duplicates": len(twins)})


def _evidence_is_known(evidence: Evidence) -> Verdict:
    """The passages, sections and documents that records name as evidence are in the corpus."""
    unknown = unknown_evidence(evidence.store)
    return Verdict(splits.evidence_is_known(ASSET, unknown), {"unknown": len(unknown)})


def _is_older(artifact: Artifact, ledger: Artifact) -> bool:
    same_key = artifact.manifest.recipe.settings["key"] == ledger.manifest.recipe.settings["key"]
    return same_key and artifact.manifest.created_at < ledger.manifest.created_at


def _split_settings(evidence: Evidence) -> SplitSettings:
    return settings_of(evidence.store, "datasets").split


# -- splits ---------------------------------------------------------------------------------------------------------
def _splits_are_filled(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Train, validation and test each hold records."""
        asset = f"{dataset}_splits"
        artifact = evidence.store.require(asset)
        if not is_configured(evidence.store, dataset):
            return Verdict(figures=_NOT_CONFIGURED)
        counts = {split: row_count(artifact.file(split_file(split))) for split in splits.SPLITS}
        return Verdict(splits.every_split_is_filled(asset, counts), counts)

    return rule


def _splits_follow_the_ledger(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Every record is once in the split that the ledger names, or quarantined by it; nothing else is there."""
        asset = f"{dataset}_splits"
        placed = list(placed_ids(evidence.store.require(asset), dataset))
        ledger = {
            record_id: dealt.split
            for (owner, record_id), dealt in read_ledger(evidence.store.require(ASSET)).items() if owner == dataset
        }  # fmt: skip
        column = ID_COLUMN[dataset]
        records = evidence.store.require(f"{dataset}_records").file(RECORDS)
        ids = read_columns(records, [column])[column]
        broken = splits.no_id_twice(asset, placed)
        broken += splits.every_record_has_its_place(asset, ids, dict(placed), ledger)
        return Verdict(broken, {"records": len(ids), "placed": len(placed)})

    return rule


def _shares_are_near(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Each split's share of the records is near the one asked for."""
        asset = f"{dataset}_splits"
        summary = evidence.store.require(asset).summary
        settings = _split_settings(evidence)
        wanted = {"train": settings.train, "validation": settings.validation, "test": settings.test}
        counts: dict[str, int] = {split: summary[split] for split in splits.SPLITS}
        broken = splits.shares_are_near(asset, counts, wanted)
        total = sum(counts.values())
        return Verdict(broken, {f"{s}_share": n / total if total else 0.0 for s, n in counts.items()})

    return rule


def _strata_are_alike(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Each source, difficulty and language is dealt in the shares of all records, within noise.

        A finding, not a stop: shares come out of a hash and are never forced, so nothing is wrong with the rows, but
        a figure measured on test then speaks for another mixture than the one that was trained on.
        """
        asset = f"{dataset}_splits"
        strata = evidence.store.require(asset).summary["strata"]
        figures = {"strata": splits.strata_table(strata)} if any(strata.values()) else _NOT_CONFIGURED
        return Verdict(splits.strata_are_alike(asset, strata), figures)

    return rule


def _no_contamination(dataset: str) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """No validation or test question or answer was seen in training: in another text, or in a passage.

        Judged by runs of 13 words or Chinese characters over all data sets at once, without boilerplate; retrieval's
        passages too. See expectations/contamination.py for what counts.
        """
        store, settings = evidence.store, _split_settings(evidence)
        found = _contamination_found.get(_versions(store, settings), lambda: search_contamination(store, settings))
        hits = [hit for hit in found.hits if touches(hit, dataset)]
        figures = {"held_out_texts": found.held_out, "training_texts": found.seen, "hits": len(hits)}
        figures["boilerplate_runs"] = found.boilerplate
        return Verdict(contamination.nothing_was_seen(f"{dataset}_splits", hits, settings.contamination), figures)

    return rule


def _record_gates(dataset: str) -> list[Gate]:
    asset = f"{dataset}_records"
    return [
        whole_gate(asset),
        Gate(asset, "table_fits_its_suite", _records_fit(dataset)),
        Gate(asset, "few_rows_are_quarantined", _few_quarantined(dataset)),
        Gate(asset, "every_row_is_accounted_for", _rows_accounted_for(dataset)),
    ]


def _split_gates(dataset: str) -> list[Gate]:
    asset = f"{dataset}_splits"
    return [
        whole_gate(asset),
        Gate(asset, "every_split_is_filled", _splits_are_filled(dataset)),
        Gate(asset, "splits_follow_the_ledger", _splits_follow_the_ledger(dataset)),
        Gate(asset, "no_contamination", _no_contamination(dataset), needs=("dataset_settings",)),
        Gate(asset, "shares_are_near", _shares_are_near(dataset), blocking=False, needs=("dataset_settings",)),
        Gate(asset, "strata_are_alike", _strata_are_alike(dataset), blocking=False),
    ]


GATES: list[Gate] = [
    *chain.from_iterable(_record_gates(dataset) for dataset in DATASETS),
    whole_gate(ASSET),
    Gate(ASSET, "nothing_moved", _nothing_moved),
    Gate(ASSET, "clusters_are_whole", _clusters_are_whole),
    Gate(ASSET, "nothing_leaks", _nothing_leaks),
    Gate(ASSET, "evidence_is_known", _evidence_is_known, blocking=False),
    *chain.from_iterable(_split_gates(dataset) for dataset in DATASETS),
]
