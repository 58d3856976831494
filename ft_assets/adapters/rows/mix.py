"""Files that count more or less than others in a training."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from expectations.canonical import hash_share
from expectations.violations import violation
from ft_assets.adapters.refusals import SUBJECT, refuse_if
from ft_assets.adapters.rows.tokenise import Row
from ft_assets.config.model import MixEntry


def mix(rows: Sequence[Row], entries: Sequence[MixEntry]) -> list[Row]:
    """Return the rows in their order, each as often as the first entry that matches its file has it; other files count
    once. Ids choose the rows of a limit or of a part of a repetition, so that a new row moves no other.
    Raises Refused (FT-TRAIN-072) for an entry that matches no row."""
    if not entries:
        return list(rows)
    groups: dict[int, list[Row]] = {number: [] for number in range(len(entries))}
    for row in rows:
        number = _find(row["source"], entries)
        if number is not None:
            groups[number].append(row)
    files = ", ".join(sorted({row["source"] for row in rows})[:5])
    refuse_if(
        SUBJECT,
        [
            violation("FT-TRAIN-072", where=SUBJECT, field=f"mix[{n}].files", found=entries[n].files, expected=files)
            for n, matched in groups.items()
            if not matched
        ],
    )
    times = {id(row): 1 for row in rows}
    for number, matched in groups.items():
        entry = entries[number]
        chosen = sorted(matched, key=lambda row: hash_share(row["record_id"]))[: entry.max_rows]
        times |= {id(row): 0 for row in matched}
        whole, part = divmod(entry.repeat, 1)
        times |= {id(row): int(whole) + (n < round(part * len(chosen))) for n, row in enumerate(chosen)}
    mixed: list[Row] = []
    for row in rows:
        mixed += [row] * times[id(row)]
    return mixed


def _find(source: str, entries: Sequence[MixEntry]) -> int | None:
    return next((number for number, entry in enumerate(entries) if fnmatchcase(source, entry.files)), None)
