"""Rules on the splits: no record is in two of them, none moved, none leaked, none got lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import hypot, sqrt

from expectations.markdown import markdown_cell, markdown_table
from expectations.violations import Violation, violation

SPLITS = ("train", "validation", "test")
QUARANTINED = "quarantined"
_SHOWN = 20  # violations of one rule that are listed

Counts = Mapping[str, float]
"""The records of a stratum by split, and `draws`: how many independent draws (clusters) assigned them."""


def no_id_twice(where: str, placed: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-003: no record is in two splits, or twice in one. `placed`: (record id, split) of every row."""
    first: dict[str, str] = {}
    violations: list[Violation] = []
    for record_id, split in placed:
        if record_id in first:
            violations.append(
                violation(
                    "FT-SPLIT-003",
                    where=where,
                    message=f"Record {record_id} is in the splits twice",
                    field="split",
                    found=[first[record_id], split],
                    expected="one",
                    fix=f"ft run --asset {where}",
                )
            )
        first[record_id] = split
    return violations[:_SHOWN]


def no_cluster_in_two_splits(where: str, placed: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-004: a cluster is in one split only. `placed`: (cluster, split) of every ledger row."""
    splits: dict[str, set[str]] = {}
    for cluster, split in placed:
        if split != QUARANTINED:
            splits.setdefault(cluster, set()).add(split)
    return [
        violation(
            "FT-SPLIT-004",
            where=where,
            message=f"Cluster {cluster} is in more than one split",
            field="split",
            found=sorted(names),
            expected="one",
        )
        for cluster, names in splits.items()
        if len(names) > 1
    ][:_SHOWN]


def no_id_moved(
    where: str, now: Mapping[tuple[str, str], str], before: Mapping[tuple[str, str], str]
) -> list[Violation]:
    """FT-SPLIT-005: a record stays where an older ledger placed it. Keys: (data set, record id)."""
    return [
        violation(
            "FT-SPLIT-005",
            where=where,
            message=f"{dataset} record {record_id} moved or left the ledger",
            field="split",
            found=now.get((dataset, record_id)),
            expected=split,
            fix=f"Delete this version of {where} and run `ft run --asset {where}`.",
        )
        for (dataset, record_id), split in before.items()
        if now.get((dataset, record_id)) != split
    ][:_SHOWN]


def all_are_dealt(where: str, missing: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-009: every record is in the ledger. `missing`: (data set, record id) of those that are not."""
    return [
        violation(
            "FT-SPLIT-009",
            where=where,
            message=f"{dataset} record {record_id} is not in the ledger",
            fix=f"ft run --asset {where}",
        )
        for dataset, record_id in missing
    ][:_SHOWN]


def evidence_is_known(where: str, unknown: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-SPLIT-010: evidence is in the corpus; else it groups by its name alone. `unknown`: (data set, id, name)."""
    return [
        violation(
            "FT-SPLIT-010",
            where=where,
            message=f"The evidence of {dataset} record {record_id} is not in the corpus",
            field="evidence",
            found=name,
            expected="a passage, section or document of the corpus",
        )
        for dataset, record_id, name in unknown
    ][:_SHOWN]


def listed_ids_are_known(where: str, unknown: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-016: lists of duplicates name ids of records. `unknown`: (file:line, id) of those that no record has."""
    return [
        violation("FT-SPLIT-016", where=place, field="id", found=record_id, expected=f"the id of a record of {where}")
        for place, record_id in unknown
    ][:_SHOWN]


def nothing_shared_across(where: str, held: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-SPLIT-006: no document, passage, group or question is in two splits. `held`: (key, split, record id)."""
    first: dict[str, tuple[str, str]] = {}
    violations: dict[str, Violation] = {}
    for key, split, record_id in held:
        other, other_id = first.setdefault(key, (split, record_id))
        if other != split and key not in violations:
            violations[key] = violation(
                "FT-SPLIT-006",
                where=where,
                message=f"{other_id} and {record_id} are in different splits, and {key} is in both",
                field="split",
                found=[other, split],
                expected="one split",
            )
    return list(violations.values())[:_SHOWN]


def no_twins_across(where: str, twins: Iterable[tuple[tuple[str, str], tuple[str, str], float]]) -> list[Violation]:
    """FT-SPLIT-013: nearly equal questions share a split. `twins`: (split, record id) of both, and their similarity."""
    return [
        violation(
            "FT-SPLIT-013",
            where=where,
            message=f"{left_id} and {right_id} are in different splits, and their questions are {similarity:.0%} "
            "the same",
            field="split",
            found=[left, right],
            expected="one split",
        )
        for (left, left_id), (right, right_id), similarity in twins
        if left != right
    ][:_SHOWN]


def every_split_is_filled(where: str, counts: Mapping[str, int]) -> list[Violation]:
    """FT-SPLIT-002: train, validation and test all hold records."""
    return [
        violation(
            "FT-SPLIT-002",
            where=where,
            message=f"The {split} split is empty",
            field=split,
            found=0,
            expected="at least 1",
            fix="Add data, or change datasets.split.key (it assigns every cluster again) together with "
            f"datasets.split.{split} or datasets.split.group_by (smaller clusters) in config.yaml.",
        )
        for split in SPLITS
        if not counts.get(split)
    ]


def shares_are_near(
    where: str, counts: Mapping[str, int], wanted: Mapping[str, float], tolerance: float = 0.5
) -> list[Violation]:
    """FT-SPLIT-007: each split's share of the records is within `tolerance` (relative) of the requested share."""
    total = sum(counts.values())
    return [
        violation(
            "FT-SPLIT-007",
            where=where,
            message=f"The share of the {split} split is far from the requested one",
            field=split,
            found=round(counts.get(split, 0) / total, 3),
            expected=share,
        )
        for split, share in wanted.items()
        if total and abs(counts.get(split, 0) / total - share) > tolerance * share
    ]


def share_noise(share: float, draws: float) -> float:
    """Return how far a split's share may be off by chance alone, when `draws` independent draws assigned the records.

    Three standard deviations of a binomial share, sqrt(share (1 - share) / draws), plus 3 / draws for shares so small
    that a normal curve does not fit them: of some hundreds of fair strata, fewer than one is outside. Records are
    assigned by cluster, so the draws are clusters, not records; with few of them nothing can be judged, and nothing is.
    """
    return 3 * sqrt(share * (1 - share) / draws) + 3 / draws


def strata_are_alike(where: str, strata: Mapping[str, Mapping[str, Counts]]) -> list[Violation]:
    """FT-SPLIT-011: each source, difficulty and language has the shares that all other records have.

    `strata`: field -> stratum -> its counts. Shares may differ by the noise of both sides (see `share_noise`). A
    stratum with more than half of the records is not judged: the others are compared with it.
    """
    violations: list[Violation] = []
    for field, by_stratum in strata.items():
        total = {key: sum(counts[key] for counts in by_stratum.values()) for key in (*SPLITS, "draws")}
        for name, counts in by_stratum.items():
            violations += _tilted_splits(where, field, name, counts, total)
    return violations[:_SHOWN]


def strata_table(strata: Mapping[str, Mapping[str, Counts]]) -> str:
    """Return the strata as Markdown: records and the share of each split, the largest first."""
    rows: list[list[str]] = []
    for field, by_stratum in strata.items():
        totals = {name: _records(counts) for name, counts in by_stratum.items()}
        for name in sorted(totals, key=lambda name: -totals[name])[:_SHOWN]:
            shares = [f"{by_stratum[name][split] / totals[name]:.1%}" for split in SPLITS]
            rows.append([field, markdown_cell(name), f"{totals[name]:.0f}", *shares])
    return markdown_table(["field", "value", "records", *SPLITS], rows, numbers=["records", *SPLITS])


def every_record_has_its_place(
    where: str, records: Iterable[str], placed: Mapping[str, str], ledger: Mapping[str, str]
) -> list[Violation]:
    """FT-SPLIT-008: a record is in the split that the ledger names, or quarantined by it, and nothing else is there.

    `records`: the ids that were read; `placed` and `ledger`: record id -> split.
    """
    expected: dict[str, str | None] = {record_id: ledger.get(record_id) for record_id in records}
    return [
        violation(
            "FT-SPLIT-008",
            where=where,
            message=f"Record {record_id} is not where the ledger puts it",
            field="split",
            found=placed.get(record_id, QUARANTINED),
            expected=expected.get(record_id) or "not there",
        )
        for record_id in dict.fromkeys([*expected, *placed])
        if placed.get(record_id, QUARANTINED) != expected.get(record_id)
    ][:_SHOWN]


def _tilted_splits(where: str, field: str, name: str, counts: Counts, total: Counts) -> Iterator[Violation]:
    """Yield the splits of which the stratum `name` has another share than the records outside it have."""
    rest = {key: total[key] - counts[key] for key in total}
    here, there = _records(counts), _records(rest)
    if here > there:
        return
    for split in SPLITS:
        share, expected = counts[split] / here, rest[split] / there
        pooled = total[split] / (here + there)
        noise = hypot(share_noise(pooled, counts["draws"]), share_noise(pooled, rest["draws"]))
        if abs(share - expected) > noise:
            yield violation(
                "FT-SPLIT-011",
                where=f"{where}, {field} {name}",
                message=f"{share:.1%} of its {here:.0f} records are in {split}, of the others {expected:.1%}",
                field=f"{split} share",
                found=round(share, 3),
                expected=f"{expected:.3f} ± {noise:.3f}",
            )


def _records(counts: Counts) -> float:
    return sum(counts[split] for split in SPLITS)
