"""Gates on the data sets: every row is accounted for and fits its suite; nothing leaks, moves or is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from expectations.rules import conservation, contamination, splits
from expectations.rules.splits import QUARANTINED
from expectations.violations import Violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.model import SplitSettings
from ft_assets.datasets.assign_splits import RecordKeys
from ft_assets.datasets.clean import CONFLICTS, RECORDS
from ft_assets.datasets.dataset import BY_NAME, DATASETS, DataSet
from ft_assets.datasets.find_contamination import search_contamination, touches
from ft_assets.datasets.ledger import (
    ASSET,
    LEDGER,
    listed_families,
    read_ledger,
    read_record_keys,
    record_ids,
    unknown_evidence,
    unknown_listed_ids,
)
from ft_assets.datasets.near_duplicates import near_pairs
from ft_assets.datasets.split import split_file
from ft_assets.datasets.summaries import LedgerSummary, RecordsSummary, SplitsSummary
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import count_quarantined
from ft_assets.graph.table_gate import table_fits
from resources.artifacts import Artifact, ArtifactStore
from resources.memo import Memo
from resources.parquet import read_columns, read_rows, row_count

_NOT_CONFIGURED = {"configured": False}

# Every consumer's guard calls this rule again. The keys are the versions of the inputs; whole_gate checks the bytes.
_leaks_judged = Memo[Verdict](size=4)


def is_configured(store: ArtifactStore, dataset: DataSet) -> bool:
    """Return whether config.yaml names files for a data set."""
    return store.require(dataset.records).summary_as(RecordsSummary).configured


def placed_ids(splits_artifact: Artifact, dataset: DataSet) -> Iterator[tuple[str, str]]:
    """Yield (record id, split) of every row of the three split files."""
    column = dataset.id_column
    for split in splits.SPLITS:
        for row in read_rows(splits_artifact.file(split_file(split)), [column]):
            yield row[column], split


# -- records --------------------------------------------------------------------------------------------------------
def _records_fit(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """The table fits its Great Expectations suite, which tests lengths, flags and counts."""
        artifact = evidence.store.require(dataset.records)
        if not artifact.summary_as(RecordsSummary).configured:
            return Verdict(figures=_NOT_CONFIGURED)
        return Verdict(*table_fits(evidence.store, artifact, RECORDS, dataset.suite))

    return rule


def _few_quarantined(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """No more rows are quarantined than datasets.max_quarantined_share allows, and at least one row was read."""
        asset = dataset.records
        artifact = evidence.store.require(asset)
        if not artifact.summary_as(RecordsSummary).configured:
            return Verdict(figures=_NOT_CONFIGURED)
        most = settings_of(evidence.store, "datasets").max_quarantined_share
        read, quarantined = artifact.summary_as(RecordsSummary).rows_read, count_quarantined(artifact)
        violations = conservation.few_are_quarantined(asset, read, quarantined, most)
        violations += conservation.something_was_read(asset, read, dataset.config_key)
        figures = {
            "quarantined_share": quarantined / read if read else 0.0,
            "most": most,
            "conflicts": len(artifact.json(CONFLICTS)),
        }
        return Verdict(violations, figures)

    return rule


def _rows_accounted_for(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Every row that was read is in the table or in the quarantine."""
        asset = dataset.records
        artifact = evidence.store.require(asset)
        summary = artifact.summary_as(RecordsSummary)
        kept, quarantined = _lines_kept(artifact, dataset), count_quarantined(artifact)
        figures = {
            "rows_read": summary.rows_read,
            "kept": kept,
            "quarantined": quarantined,
            "configured": summary.configured,
        }
        return Verdict(conservation.every_row_is_accounted_for(asset, summary.rows_read, kept, quarantined), figures)

    return rule


def _keys_are_read(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Every key of the rows is read, where datasets.strict demands it; otherwise the others are only listed."""
        not_read = evidence.store.require(dataset.records).summary_as(RecordsSummary).not_read
        strict = settings_of(evidence.store, "datasets").strict
        violations = conservation.every_key_is_read(dataset.records, not_read) if strict else []
        return Verdict(violations, {"not_read": not_read, "strict": strict})

    return rule


def _lines_kept(artifact: Artifact, dataset: DataSet) -> int:
    """Return the number of lines of the files that the table accounts for."""
    if not dataset.line_lists:
        return row_count(artifact.file(RECORDS))
    return sum(map(dataset.lines_of, read_rows(artifact.file(RECORDS), list(dataset.line_lists))))


# -- ledger ---------------------------------------------------------------------------------------------------------
def _nothing_moved(evidence: Evidence) -> Verdict:
    """Every record has the split that older ledgers of the same key gave it, and no record is missing in the ledger."""
    ledger = evidence.store.require(ASSET)
    now = _split_by_id(ledger)
    violations: list[Violation] = []
    older = [version for version in evidence.store.versions(ASSET) if _is_older(version, ledger)]
    for version in older:
        violations += splits.no_id_moved(ASSET, now, _split_by_id(version))
    missing = [record_id for record_id in record_ids(evidence.store) if record_id not in now]
    violations += splits.all_are_dealt(ASSET, missing)
    return Verdict(violations, {"records": len(now), "older_ledgers": len(older), "missing": len(missing)})


def _split_by_id(ledger: Artifact) -> dict[tuple[str, str], str]:
    return {record_id: assignment.split for record_id, assignment in read_ledger(ledger).items()}


def _clusters_are_whole(evidence: Evidence) -> Verdict:
    """Every cluster is in one split."""
    rows = list(read_rows(evidence.store.require(ASSET).file(LEDGER), ["cluster", "split"]))
    violations = splits.no_cluster_in_two_splits(ASSET, ((row["cluster"], row["split"]) for row in rows))
    return Verdict(violations, {"clusters": len({row["cluster"] for row in rows})})


def _nothing_leaks(evidence: Evidence) -> Verdict:
    """No document, passage, group, listed family or (nearly) equal question is in two splits, over all data sets."""
    store, settings = evidence.store, _split_settings(evidence)
    return _leaks_judged.get(_versions(store, settings), lambda: _judge_leaks(store, settings))


def _versions(store: ArtifactStore, settings: SplitSettings) -> tuple[str, ...]:
    """Return the versions of all that a rule over every data set reads."""
    inputs = [store.require(asset) for asset in (ASSET, "passages", *(dataset.records for dataset in DATASETS))]
    return (str(store.root), settings.model_dump_json(), *(artifact.data_version for artifact in inputs))


def _judge_leaks(store: ArtifactStore, settings: SplitSettings) -> Verdict:
    placed = list(_placed_records(store, settings))
    violations = splits.nothing_shared_across(ASSET, _shared_keys(placed))
    by_question: dict[str, tuple[str, str]] = {}
    for record, split in placed:
        by_question.setdefault(record.question, (split, _name(record)))
    places = list(by_question.values())
    pairs = near_pairs(list(by_question), settings.near_duplicate)
    twins = [(places[left], places[right], similarity) for left, right, similarity in pairs]
    violations += splits.no_twins_across(ASSET, twins)
    return Verdict(violations, {"records": len(placed), "near_duplicates": len(twins)})


def _placed_records(store: ArtifactStore, settings: SplitSettings) -> Iterator[tuple[RecordKeys, str]]:
    """Yield every record that is in a split, with its split."""
    artifact = store.require(ASSET)
    ledger = read_ledger(artifact)
    for record in read_record_keys(store, settings, listed_families(artifact)):
        assignment = ledger.get(record.id)
        if assignment is not None and assignment.split != QUARANTINED:
            yield record, assignment.split


def _shared_keys(placed: Iterable[tuple[RecordKeys, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, split, record) for every key of every record."""
    for record, split in placed:
        for key in record.keys:
            yield key, split, _name(record)


def _name(record: RecordKeys) -> str:
    return f"{record.dataset}:{record.record_id}"


def _evidence_is_known(evidence: Evidence) -> Verdict:
    """The passages, sections and documents that records name as evidence are in the corpus."""
    unknown = unknown_evidence(evidence.store)
    return Verdict(splits.evidence_is_known(ASSET, unknown), {"unknown": len(unknown)})


def _listed_ids_are_known(evidence: Evidence) -> Verdict:
    """The ids in lists of duplicates are those of records."""
    listed = evidence.store.require(ASSET).summary_as(LedgerSummary).listed
    unknown = unknown_listed_ids(evidence.store)
    return Verdict(splits.listed_ids_are_known(ASSET, unknown), {"listed": listed, "unknown": len(unknown)})


def _is_older(artifact: Artifact, ledger: Artifact) -> bool:
    same_key = artifact.manifest.recipe.settings["key"] == ledger.manifest.recipe.settings["key"]
    return same_key and artifact.manifest.created_at < ledger.manifest.created_at


def _split_settings(evidence: Evidence) -> SplitSettings:
    return settings_of(evidence.store, "datasets").split


# -- splits ---------------------------------------------------------------------------------------------------------
def _splits_are_filled(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Train, validation and test each have records."""
        asset = dataset.splits
        artifact = evidence.store.require(asset)
        if not is_configured(evidence.store, dataset):
            return Verdict(figures=_NOT_CONFIGURED)
        counts = _count_rows(artifact)
        return Verdict(splits.every_split_is_filled(asset, counts), counts)

    return rule


def _count_rows(artifact: Artifact) -> dict[str, int]:
    return {split: row_count(artifact.file(split_file(split))) for split in splits.SPLITS}


def _splits_follow_the_ledger(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Every record is once in the split that the ledger names, or is quarantined there. No other row exists.

        Left out are held-out records that training has seen, and no others; the artifact's quarantine lists them.
        """
        store, asset = evidence.store, dataset.splits
        artifact = store.require(asset)
        placed = list(placed_ids(artifact, dataset))
        seen = search_contamination(store, _split_settings(evidence)).of(dataset)
        ledger = {
            record_id: QUARANTINED if (owner, record_id) in seen else split
            for (owner, record_id), split in _split_by_id(store.require(ASSET)).items()
            if owner == dataset.name
        }
        ids = read_columns(store.require(dataset.records).file(RECORDS), [dataset.id_column])[dataset.id_column]
        summary = artifact.summary_as(SplitsSummary)
        listed = count_quarantined(artifact) if summary.left_out else 0
        violations = splits.no_id_twice(asset, placed)
        violations += splits.every_record_has_its_place(asset, ids, dict(placed), ledger)
        violations += conservation.every_row_is_accounted_for(
            asset, len(ids), len(placed), summary.quarantined + listed
        )
        return Verdict(violations, {"records": len(ids), "placed": len(placed), "left_out": listed})

    return rule


def _shares_are_near(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Each split's share of the records is near the share in config.yaml."""
        asset = dataset.splits
        settings = _split_settings(evidence)
        wanted = {"train": settings.train, "validation": settings.validation, "test": settings.test}
        counts = _count_rows(evidence.store.require(asset))
        total = sum(counts.values())
        shares = {f"{split}_share": count / total if total else 0.0 for split, count in counts.items()}
        return Verdict(splits.shares_are_near(asset, counts, wanted), shares)

    return rule


def _strata_are_alike(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Each source, difficulty and language is split in the same shares as all records, within noise.

        It does not block, because the rows are right: a hash decides the shares. But if it fails, the test split is
        not the same mixture as the train split, and figures on test do not apply to that mixture.
        """
        asset = dataset.splits
        strata = evidence.store.require(asset).summary_as(SplitsSummary).strata
        figures = {"strata": splits.strata_table(strata)} if any(strata.values()) else _NOT_CONFIGURED
        return Verdict(splits.strata_are_alike(asset, strata), figures)

    return rule


def _no_contamination(dataset: DataSet) -> Callable[[Evidence], Verdict]:
    def rule(evidence: Evidence) -> Verdict:
        """Few questions or answers of validation or test are in a text or a passage that training sees.

        Texts of all data sets are compared by runs of 13 words or Chinese characters, without boilerplate.
        Passages that held-out queries should find are compared too. Such records are left out of validation and test;
        more of them than datasets.split.max_contaminated_share block. Exact rule: expectations/rules/contamination.py.
        """
        settings = _split_settings(evidence)
        found = search_contamination(evidence.store, settings)
        hits = [hit for hit in found.search.hits if touches(hit, dataset)]
        violations: list[Violation] = []
        for name in dict.fromkeys(hit.held_out.dataset for hit in hits):
            count, total = len(found.of(BY_NAME[name])), found.held_out[name]
            too_many = contamination.few_were_seen(dataset.splits, name, count, total, settings.max_contaminated_share)
            if too_many:
                examples = [hit for hit in hits if hit.held_out.dataset == name]
                violations += too_many
                violations += contamination.nothing_was_seen(dataset.splits, examples, settings.contamination)
        figures = {
            "held_out_texts": found.search.held_out,
            "training_texts": found.search.seen,
            "hits": len(hits),
            "left_out": len(found.of(dataset)),
            "most": settings.max_contaminated_share,
            "boilerplate_runs": found.search.boilerplate,
        }
        return Verdict(violations, figures)

    return rule


def _record_gates(dataset: DataSet) -> list[Gate]:
    asset = dataset.records
    return [
        whole_gate(asset),
        Gate(asset, "table_fits_its_suite", _records_fit(dataset)),
        Gate(asset, "few_rows_are_quarantined", _few_quarantined(dataset)),
        Gate(asset, "every_row_is_accounted_for", _rows_accounted_for(dataset)),
        Gate(asset, "keys_are_read", _keys_are_read(dataset), needs=("dataset_settings",)),
    ]


def _split_gates(dataset: DataSet) -> list[Gate]:
    asset = dataset.splits
    return [
        whole_gate(asset),
        Gate(asset, "every_split_is_filled", _splits_are_filled(dataset)),
        Gate(asset, "splits_follow_the_ledger", _splits_follow_the_ledger(dataset), needs=("dataset_settings",)),
        Gate(asset, "no_contamination", _no_contamination(dataset), needs=("dataset_settings",)),
        Gate(asset, "shares_are_near", _shares_are_near(dataset), blocking=False, needs=("dataset_settings",)),
        Gate(asset, "strata_are_alike", _strata_are_alike(dataset), blocking=False),
    ]


GATES: list[Gate] = [
    *chain.from_iterable(map(_record_gates, DATASETS)),
    whole_gate(ASSET),
    Gate(ASSET, "nothing_moved", _nothing_moved),
    Gate(ASSET, "clusters_are_whole", _clusters_are_whole),
    Gate(ASSET, "nothing_leaks", _nothing_leaks),
    Gate(ASSET, "evidence_is_known", _evidence_is_known, blocking=False),
    Gate(ASSET, "listed_ids_are_known", _listed_ids_are_known, blocking=False),
    *chain.from_iterable(map(_split_gates, DATASETS)),
]
