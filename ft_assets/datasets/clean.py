"""Read the files of a data set into clean Parquet, a quarantine and conflicts, as one stream.

Nothing reads the raw files after this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import msgspec

from expectations.formats.column_map import ColumnMap
from expectations.formats.dialect import ReadPolicy, RowNotes
from expectations.formats.unread import UnreadKeys
from expectations.reading import Rejected
from expectations.records.duplicates import Duplicates
from expectations.records.read import Record, read_records, write_quarantine
from ft_assets.datasets.dataset import DataSet, Join
from ft_assets.datasets.passage_index import PassageIndex
from ft_assets.datasets.summaries import RecordsSummary
from ft_assets.graph.quarantine import QUARANTINE, count_codes
from ft_assets.graph.source_files import shown_path
from resources.artifacts import write_json
from resources.parquet import TableWriter, arrow_schema

RECORDS = "records.parquet"
CONFLICTS = "conflicts.json"


def read_files(
    dataset: DataSet,
    files: Mapping[str, Mapping[Path, ColumnMap]],
    root: Path,
    *,
    max_line_bytes: int,
    policy: ReadPolicy,
    unread: UnreadKeys,
    notes: RowNotes,
) -> dict[str, Iterator[Record | Rejected]]:
    """Return a stream of rows for each key of config.yaml. A row names its file by the path in the project.

    `files`: the files of each key with their maps. `unread` counts the keys that no field takes, `notes` the rows that
    an allowed rule lets pass.
    """

    def read(kind: str, mapped: Mapping[Path, ColumnMap]) -> Iterator[Record | Rejected]:
        for path, mapping in mapped.items():
            yield from read_records(
                path,
                kind,
                name=shown_path(path, root),
                max_line_bytes=max_line_bytes,
                policy=policy,
                mapping=mapping,
                unread=unread,
                notes=notes,
            )

    return {key: read(kind, files[key]) for key, kind in dataset.files.items()}


def clean_records(
    dataset: DataSet,
    rows: Mapping[str, Iterable[Record | Rejected]],
    hashes: Mapping[str, str],
    folder: Path,
    *,
    index: PassageIndex | None = None,
    unread: UnreadKeys,
    notes: RowNotes,
) -> RecordsSummary:
    """Write the rows of `read_files` as records.parquet below `folder`; return the summary.

    `hashes`: sha256 of the files by their shown path. `index`: the passages of the corpus, for a data set that finds
    passages. `unread`, `notes`: those of `read_files`. `rows_read` in the summary counts lines of the files.
    """
    duplicates = Duplicates(hashes)
    streams = {key: duplicates.sift(stream) for key, stream in rows.items()}
    records: Iterable[msgspec.Struct | Rejected]
    if dataset.join is None:
        records = chain.from_iterable(streams.values())
    elif index is None:
        raise ValueError(f"the records of {dataset.name} need the passages")
    else:
        records = _join(dataset.join, streams, index, hashes)
    summary = _write(dataset, duplicates, records, folder)
    return msgspec.structs.replace(summary, not_read=unread.sorted(), allowed=dict(sorted(notes.allowed_rows.items())))


def write_nothing(dataset: DataSet, folder: Path) -> RecordsSummary:
    """Write the empty table of a data set without files in config.yaml; return its summary."""
    return _write(dataset, Duplicates(), (), folder, configured=False)


def _join(
    join: Join, streams: Mapping[str, Iterable[Record | Rejected]], index: PassageIndex, hashes: Mapping[str, str]
) -> Iterator[msgspec.Struct | Rejected]:
    rejected: list[Rejected] = []
    rows = {key: _kept(stream, rejected) for key, stream in streams.items()}
    yield from rejected
    for record in join(rows, index):
        if isinstance(record, Rejected):
            yield msgspec.structs.replace(record, file_sha256=hashes.get(record.file, ""))
        else:
            yield record


def _kept(rows: Iterable[Record | Rejected], rejected: list[Rejected]) -> list[Record]:
    """Return the records; append the rejected rows to `rejected`."""
    kept: list[Record] = []
    for row in rows:
        if isinstance(row, Rejected):
            rejected.append(row)
        else:
            kept.append(row)
    return kept


def _write(
    dataset: DataSet,
    duplicates: Duplicates,
    records: Iterable[msgspec.Struct | Rejected],
    folder: Path,
    *,
    configured: bool = True,
) -> RecordsSummary:
    codes: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    thinking: Counter[str] = Counter()
    lines = 0
    with TableWriter(folder / RECORDS, arrow_schema(dataset.record)) as table:

        def write_kept() -> Iterator[Rejected]:
            """Write the records to the table; yield the rejected rows."""
            nonlocal lines
            for record in records:
                if isinstance(record, Rejected):
                    yield record
                    continue
                table.add(record)
                lines += dataset.lines_of(msgspec.structs.asdict(record)) if dataset.line_lists else 1
                languages[getattr(record, "language", "")] += 1
                if dataset.reasoning:
                    thinking["with_reasoning" if getattr(record, dataset.reasoning) else "without_reasoning"] += 1

        write_quarantine(folder / QUARANTINE, count_codes(write_kept(), codes))
    write_json(folder / CONFLICTS, [msgspec.to_builtins(conflict) for conflict in duplicates.conflicts])
    read = lines + codes.total()
    return RecordsSummary(
        configured=configured,
        rows_read=read,
        kept=table.rows,
        quarantined=codes.total(),
        quarantined_share=round(codes.total() / read, 6) if read else 0.0,
        conflicts=len(duplicates.conflicts),
        codes=dict(codes),
        languages=dict(languages),
        thinking=dict(thinking),
        lines_kept=lines if configured and dataset.line_lists else msgspec.UNSET,
    )
