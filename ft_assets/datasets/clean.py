"""Files in, clean Parquet, quarantine and conflicts out, as one stream. Nobody reads the raw files after this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from expectations.formats.dialect import Kind, Policy
from expectations.formats.instruction import InstructionRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected
from expectations.records.duplicates import Duplicates
from expectations.records.read import Record, read_records, write_quarantine
from ft_assets.datasets.join_qrels import RetrievalRecord, join_judgements
from ft_assets.datasets.passage_index import PassageIndex
from ft_assets.graph import quarantine
from ft_assets.graph.source_files import shown_path
from resources.artifacts import write_json
from resources.parquet import TableWriter, arrow_schema

RECORDS = "records.parquet"
CONFLICTS = "conflicts.json"
RECORD_TYPES: dict[str, type[msgspec.Struct]] = {
    "instruction": InstructionRecord,
    "preference": PreferenceRecord,
    "retrieval": RetrievalRecord,
}
ID_COLUMN = {"instruction": "record_id", "preference": "record_id", "retrieval": "query_id"}
_Item = TypeVar("_Item")


def clean_records(
    dataset: str,
    files: Sequence[Path],
    root: Path,
    hashes: Mapping[str, str],
    folder: Path,
    *,
    max_line_bytes: int,
    policy: Policy,
) -> dict[str, Any]:
    """Instruction or preference files -> records.parquet below `folder`; returns the summary.

    `hashes`: sha256 of the files by their shown path.
    """
    duplicates = Duplicates(hashes)
    kind: Kind = "instruction" if dataset == "instruction" else "preference"
    return _write(dataset, duplicates, duplicates.sift(_read(kind, files, root, max_line_bytes, policy)), folder)


def clean_judgements(
    queries: Sequence[Path],
    qrels: Sequence[Path],
    root: Path,
    hashes: Mapping[str, str],
    folder: Path,
    *,
    index: PassageIndex,
    max_line_bytes: int,
    policy: Policy,
) -> dict[str, Any]:
    """Query and qrel files -> records.parquet, one row a query; returns the summary, whose rows are lines of both."""
    duplicates = Duplicates(hashes)
    kept: Counter[str] = Counter()

    def records() -> Iterator[RetrievalRecord | Rejected]:
        rejected: list[Rejected] = []
        asked = _only(QueryRecord, duplicates.sift(_read("query", queries, root, max_line_bytes, policy)), rejected)
        judged = _only(QrelRecord, duplicates.sift(_read("qrels", qrels, root, max_line_bytes, policy)), rejected)
        yield from rejected
        for item in join_judgements(asked, judged, index):
            if isinstance(item, RetrievalRecord):
                kept["lines"] += 1 + len(item.positive_ids) + len(item.negative_ids)
                yield item
            else:
                yield msgspec.structs.replace(item, file_sha256=hashes.get(item.file, ""))

    summary = _write("retrieval", duplicates, records(), folder)
    read = kept["lines"] + summary["quarantined"]
    return summary | {
        "rows_read": read,
        "lines_kept": kept["lines"],
        "quarantined_share": _share(summary["quarantined"], read),
    }


def write_nothing(dataset: str, folder: Path) -> dict[str, Any]:
    """The artifact of a data set that config.yaml names no files for: an empty table that says so."""
    return _write(dataset, Duplicates(), (), folder) | {"configured": False}


def _write(
    dataset: str, duplicates: Duplicates, records: Iterable[msgspec.Struct | Rejected], folder: Path
) -> dict[str, Any]:
    codes: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    thinking: Counter[str] = Counter()
    with TableWriter(folder / RECORDS, arrow_schema(RECORD_TYPES[dataset])) as table:

        def kept_out() -> Iterator[Rejected]:
            for record in records:
                if isinstance(record, Rejected):
                    yield record
                else:
                    table.add(record)
                    languages[getattr(record, "language", "")] += 1
                    if isinstance(record, InstructionRecord):
                        thinking["with_reasoning" if record.reasoning else "without_reasoning"] += 1

        write_quarantine(folder / quarantine.FILE, quarantine.counted(kept_out(), codes))
    write_json(folder / CONFLICTS, [msgspec.to_builtins(conflict) for conflict in duplicates.conflicts])
    read = table.rows + codes.total()
    return {
        "configured": True,
        "rows_read": read,
        "kept": table.rows,
        "quarantined": codes.total(),
        "quarantined_share": _share(codes.total(), read),
        "conflicts": len(duplicates.conflicts),
        "codes": dict(codes),
        "languages": dict(languages),
        "thinking": dict(thinking),
    }


def _read(
    kind: Kind, files: Sequence[Path], root: Path, max_line_bytes: int, policy: Policy
) -> Iterator[Record | Rejected]:
    """Records and rejected rows of all files, named by their path in the project instead of the bare file name."""
    for path in files:
        name = shown_path(path, root)
        yield from read_records(path, kind, name=name, max_line_bytes=max_line_bytes, policy=policy)


def _only(kind: type[_Item], items: Iterable[Any], rejected: list[Rejected]) -> list[_Item]:
    found: list[_Item] = []
    for item in items:
        if isinstance(item, kind):
            found.append(item)
        else:
            rejected.append(item)
    return found


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
