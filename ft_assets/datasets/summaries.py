"""The summaries of the artifacts of this stage, as their manifests hold them."""

from __future__ import annotations

import msgspec

from expectations.rules.splits import SPLITS


class RecordsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `<data set>_records`."""

    configured: bool
    """True if config.yaml names files for the data set."""
    rows_read: int
    """Lines of the files."""
    kept: int
    """Rows of records.parquet."""
    quarantined: int
    quarantined_share: float
    conflicts: int
    codes: dict[str, int]
    """Code of a rule -> quarantined rows."""
    languages: dict[str, int] = {}
    thinking: dict[str, int] = {}
    not_read: dict[str, int] = {}
    """Key that no field takes -> rows that have it."""
    allowed: dict[str, int] = {}
    """Code of a rule that `datasets.allow` names -> rows that break it and are used."""
    lines_kept: int | msgspec.UnsetType = msgspec.UNSET
    """Lines of the files that became records, where one record comes from several lines."""


class LedgerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `split_ledger`. `new`: records that the ledger before did not have; `listed`: rows of lists of
    duplicates."""

    records: int
    new: int
    clusters: int
    quarantined: int
    splits: dict[str, dict[str, int]]
    """Data set -> split -> records."""
    listed: int = 0


class SplitsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `<data set>_splits`."""

    configured: bool
    """True if config.yaml names files for the data set."""
    train: int
    validation: int
    test: int
    quarantined: int = 0
    """Records that the ledger quarantined."""
    left_out: int = 0
    """Records that the ledger holds out, and that training has seen: the artifact's own quarantine lists them."""
    strata: dict[str, dict[str, dict[str, int | float]]] = {}
    """Column -> its value -> records by split, and `draws` (see `Stratum.summary`)."""

    def counts(self) -> dict[str, int]:
        """Return the records by split."""
        return {split: getattr(self, split) for split in SPLITS}
