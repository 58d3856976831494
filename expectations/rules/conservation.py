"""Rules on what was read: nothing is lost between a file and its table; a row is kept, or quarantined with a reason."""

from __future__ import annotations

from collections.abc import Mapping

from expectations.violations import Violation, violation


def few_are_quarantined(where: str, read: int, quarantined: int, most: float) -> list[Violation]:
    """FT-DATA-001: the share of quarantined rows is at most `most` (0 to 1)."""
    share = quarantined / read if read else 0.0
    if share <= most:
        return []
    message = f"{quarantined} of {read} rows are quarantined"
    return [
        violation(
            "FT-DATA-001",
            where=where,
            message=message,
            field="quarantined share",
            found=round(share, 4),
            expected=f"at most {most}",
        )
    ]


def every_row_is_accounted_for(where: str, read: int, kept: int, quarantined: int) -> list[Violation]:
    """FT-DATA-002: rows read = rows in the table + rows in the quarantine."""
    if read == kept + quarantined:
        return []
    return [
        violation(
            "FT-DATA-002",
            where=where,
            message=f"{read} rows were read, but {kept} are in the table and {quarantined} in the quarantine",
            field="rows",
            found=kept + quarantined,
            expected=read,
            fix=f"ft run --asset {where}",
        )
    ]


def every_key_is_read(where: str, not_read: Mapping[str, int]) -> list[Violation]:
    """FT-DATA-004: no row has a key that no field takes. `not_read`: key -> rows."""
    return [
        violation("FT-DATA-004", where=where, field=key, found=f"{rows} rows", expected="no such key")
        for key, rows in not_read.items()
    ]


def something_was_read(where: str, read: int, key: str) -> list[Violation]:
    """FT-DATA-003: files that are configured hold at least one row."""
    if read:
        return []
    fix = f"Correct the files, or remove them from {key} in config.yaml."
    return [violation("FT-DATA-003", where=where, field=key, found=0, expected="at least 1 row", fix=fix)]
