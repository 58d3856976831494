"""What must hold of the splits: nothing is in two of them, nothing moved, nothing leaked, nothing got lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import hypot, sqrt

from expectations.markdown import markdown_cell, markdown_table
from expectations.violations import Violation

SPLITS = ("train", "validation", "test")
QUARANTINED = "quarantined"
_SHOWN = 20  # violations of one rule that are spelt out
_NEW_DEAL = "change datasets.split.key in config.yaml (deals every cluster anew)"


def no_id_twice(where: str, placed: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-003: no record is in two splits, or twice in one. `placed`: (record id, split) of every row."""
    first: dict[str, str] = {}
    violations: list[Violation] = []
    for record_id, split in placed:
        if record_id in first:
            violations.append(
                Violation(
                    code="FT-SPLIT-003", where=where, message=f"record {record_id} is in the splits twice.",
                    field="split", found=[first[record_id], split], expected="one",
                    fix=f"ft run --asset {where}",
                )
            )  # fmt: skip
        first[record_id] = split
    return violations[:_SHOWN]


def no_cluster_in_two_splits(where: str, placed: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-004: a cluster lies in one split. `placed`: (cluster, split) of every ledger row."""
    splits: dict[str, set[str]] = {}
    for cluster, split in placed:
        if split != QUARANTINED:
            splits.setdefault(cluster, set()).add(split)
    return [
        Violation(
            code="FT-SPLIT-004", where=where, message=f"cluster {cluster} lies in more than one split.",
            field="split", found=sorted(found), expected="one", fix=_NEW_DEAL,
        )
        for cluster, found in splits.items() if len(found) > 1
    ][:_SHOWN]  # fmt: skip


def no_id_moved(
    where: str, now: Mapping[tuple[str, str], str], before: Mapping[tuple[str, str], str]
) -> list[Violation]:
    """FT-SPLIT-005: a record that an older ledger placed lies where it lay. Keys: (data set, record id)."""
    return [
        Violation(
            code="FT-SPLIT-005", where=where, message=f"{dataset} record {record_id} moved or left the ledger.",
            field="split", found=now.get((dataset, record_id)), expected=split,
            fix=f"delete this version of {where} and run `ft run --asset {where}`",
        )
        for (dataset, record_id), split in before.items() if now.get((dataset, record_id)) != split
    ][:_SHOWN]  # fmt: skip


def all_are_dealt(where: str, missing: Iterable[tuple[str, str]]) -> list[Violation]:
    """FT-SPLIT-009: every record is in the ledger. `missing`: (data set, record id) of those that are not."""
    return [
        Violation(
            code="FT-SPLIT-009", where=where, message=f"{dataset} record {record_id} is not in the ledger.",
            fix=f"ft run --asset {where}",
        )
        for dataset, record_id in missing
    ][:_SHOWN]  # fmt: skip


def evidence_is_known(where: str, unknown: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-SPLIT-010: evidence is in the corpus; else it groups by its name alone. `unknown`: (data set, id, name)."""
    return [
        Violation(
            code="FT-SPLIT-010", where=where, message=f"the evidence of {dataset} record {record_id} is unknown.",
            field="evidence", found=name, expected="a passage, section or document of the corpus",
            fix="correct the id in the data, or add the document to corpus.files",
        )
        for dataset, record_id, name in unknown
    ][:_SHOWN]  # fmt: skip


def nothing_shared_across(where: str, held: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-SPLIT-006: no document, passage, group or question is in two splits. `held`: (key, split, record id)."""
    first: dict[str, tuple[str, str]] = {}
    violations: dict[str, Violation] = {}
    for key, split, record_id in held:
        other, other_id = first.setdefault(key, (split, record_id))
        if other != split and key not in violations:
            violations[key] = _leak(where, f"{key} is in both.", (other, other_id), (split, record_id))
    return list(violations.values())[:_SHOWN]


def no_twins_across(where: str, twins: Iterable[tuple[tuple[str, str], tuple[str, str], float]]) -> list[Violation]:
    """FT-SPLIT-006: nearly equal questions share a split. `twins`: (split, record id) of both, and their similarity."""
    return [
        _leak(where, f"their questions are {similarity:.0%} the same.", left, right)
        for left, right, similarity in twins if left[0] != right[0]
    ][:_SHOWN]  # fmt: skip


def every_split_is_filled(where: str, counts: Mapping[str, int]) -> list[Violation]:
    """FT-SPLIT-002: train, validation and test all hold records."""
    return [
        Violation(
            code="FT-SPLIT-002", where=where, message=f"the {split} split is empty.", field=split, found=0,
            expected="at least 1",
            fix="add data, or change datasets.split.key (deals every cluster anew) together with datasets.split."
            f"{split} or datasets.split.group_by (smaller clusters) in config.yaml",
        )
        for split in SPLITS if not counts.get(split)
    ]  # fmt: skip


def shares_are_near(
    where: str, counts: Mapping[str, int], wanted: Mapping[str, float], tolerance: float = 0.5
) -> list[Violation]:
    """FT-SPLIT-007: each split's share of the records is within `tolerance` (relative) of the share asked for."""
    total = sum(counts.values())
    return [
        Violation(
            code="FT-SPLIT-007", where=where, message=f"the {split} split is far from its share.", field=split,
            found=round(counts.get(split, 0) / total, 3), expected=share, fix=_NEW_DEAL,
        )
        for split, share in wanted.items()
        if total and abs(counts.get(split, 0) / total - share) > tolerance * share
    ]  # fmt: skip


def share_noise(share: float, draws: float) -> float:
    """How far the share of a split may lie off by chance alone in what was dealt in `draws` independent draws.

    Three standard deviations of a binomial share, sqrt(share (1 - share) / draws), and 3 / draws for shares so small
    that a normal curve does not fit them: fewer than one honest stratum in some hundreds falls outside. Records are
    dealt by cluster, so the draws are clusters, not records; with few of them nothing can be told, and nothing is.
    """
    return 3 * sqrt(share * (1 - share) / draws) + 3 / draws


def strata_are_alike(where: str, strata: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Violation]:
    """FT-SPLIT-011: each source, difficulty and language has the shares that the records of the others have.

    `strata`: field -> stratum -> records by split, and `draws`. Within the noise of both sides (see `share_noise`). A
    stratum of more than half of the records is what the others are measured by.
    """
    violations: list[Violation] = []
    for field, found in strata.items():
        everything = {key: sum(counts[key] for counts in found.values()) for key in (*SPLITS, "draws")}
        for name, counts in found.items():
            rest = {key: everything[key] - counts[key] for key in everything}
            here, there = _records(counts), _records(rest)
            if here > there:
                continue
            for split in SPLITS:
                share, expected = counts[split] / here, rest[split] / there
                pooled = everything[split] / (here + there)
                noise = hypot(share_noise(pooled, counts["draws"]), share_noise(pooled, rest["draws"]))
                if abs(share - expected) > noise:
                    violations.append(
                        Violation(
                            code="FT-SPLIT-011", where=f"{where}, {field} {name}", field=f"{split} share",
                            message=f"{share:.1%} of its {here:.0f} records are in {split}, of others {expected:.1%}.",
                            found=round(share, 3), expected=f"{expected:.3f} ± {noise:.3f}",
                            fix=f"add data to this {field} (new clusters are dealt by the shares), or {_NEW_DEAL}",
                        )
                    )  # fmt: skip
    return violations[:_SHOWN]


def strata_table(strata: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The strata as Markdown: records and the share of each split, the largest first."""
    rows: list[list[str]] = []
    for field, found in strata.items():
        totals = {name: _records(counts) for name, counts in found.items()}
        for name in sorted(totals, key=lambda name: -totals[name])[:_SHOWN]:
            shares = [f"{found[name][split] / totals[name]:.1%}" for split in SPLITS]
            rows.append([field, markdown_cell(name), f"{totals[name]:.0f}", *shares])
    return markdown_table(["field", "value", "records", *SPLITS], rows, numbers=["records", *SPLITS])


def every_record_has_its_place(
    where: str, records: Iterable[str], placed: Mapping[str, str], ledger: Mapping[str, str]
) -> list[Violation]:
    """FT-SPLIT-008: a record is in the split that the ledger names, or quarantined by it, and nothing else is there.

    `records`: the ids that were read; `placed` and `ledger`: record id -> split.
    """
    violations: list[Violation] = []
    expected: dict[str, str | None] = {record_id: ledger.get(record_id) for record_id in records}
    for record_id in dict.fromkeys([*expected, *placed]):
        found, wanted = placed.get(record_id, QUARANTINED), expected.get(record_id)
        if found != wanted:
            violations.append(
                Violation(
                    code="FT-SPLIT-008", where=where, message=f"record {record_id} is not where the ledger puts it.",
                    field="split", found=found, expected=wanted or "not there", fix="ft run --group datasets",
                )
            )  # fmt: skip
    return violations[:_SHOWN]


def _records(counts: Mapping[str, float]) -> float:
    return sum(counts[split] for split in SPLITS)


def _leak(where: str, message: str, left: tuple[str, str], right: tuple[str, str]) -> Violation:
    return Violation(
        code="FT-SPLIT-006", where=where, message=f"{left[1]} and {right[1]} lie in different splits and {message}",
        field="split", found=[left[0], right[0]], expected="one split",
        fix=f"give the record that was edited a new id, or {_NEW_DEAL}",
    )  # fmt: skip
