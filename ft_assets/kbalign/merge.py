"""The questions of both kinds in one table: each once, and none that a person has written already, in any split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from expectations.canonical import hash_share
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from expectations.records.read import write_quarantine
from ft_assets.datasets.assign_splits import question_form
from ft_assets.datasets.clean import RECORDS
from ft_assets.datasets.dataset import DATASETS
from ft_assets.datasets.near_duplicates import Families, near_pairs
from ft_assets.graph.quarantine import QUARANTINE, count_codes
from ft_assets.kbalign.jobs import GENERATED_FILE, LONG, RECORDS_FILE, SHORT, MergeSummary, RecordRow
from resources.artifacts import Artifact
from resources.parquet import TableWriter, arrow_schema, read_rows

Find = Callable[[str], Artifact]


def write_records(find: Find, folder: Path, *, near_duplicate: float, references_share: float) -> MergeSummary:
    """Write records.parquet and quarantine.jsonl; return the summary. `find` returns the artifact of an asset."""
    rows = list(_read(find, references_share))
    twins = _find_twins(list(hand_written_questions(find)), [row.question for row in rows], near_duplicate)
    codes: Counter[str] = Counter()
    with TableWriter(folder / RECORDS_FILE, arrow_schema(RecordRow)) as table:
        kept = [row for n, row in enumerate(rows) if n not in twins]
        for row in kept:
            table.add(row)
    rejected = (_reject(rows[n], twin) for n, twin in sorted(twins.items()))
    write_quarantine(folder / QUARANTINE, count_codes(rejected, codes))
    return MergeSummary(
        candidates=len(rows),
        kept=len(kept),
        quarantined=len(twins),
        with_reference=sum(row.has_reference for row in kept),
        codes=dict(codes),
    )


def hand_written_questions(find: Find) -> Iterator[str]:
    """Yield the questions of all records of all data sets, whatever their split."""
    for dataset in DATASETS:
        for row in read_rows(find(dataset.records).file(RECORDS), [dataset.question]):
            yield row[dataset.question]


def _read(find: Find, references_share: float) -> Iterator[RecordRow]:
    """Yield the rows of both assets in the order of their ids, so that of two twins the same one stays."""
    rows = [(asset, row) for asset in (SHORT, LONG) for row in read_rows(find(asset).file(GENERATED_FILE))]
    for asset, row in sorted(rows, key=lambda each: (each[1]["record_id"], each[0])):
        yield RecordRow(**row, made_by=asset, has_reference=hash_share(row["record_id"]) < references_share)


def _find_twins(written: list[str], generated: list[str], threshold: float) -> dict[int, str]:
    """Return the number of each generated question that has a twin before it -> the twin. Hand-written ones are
    first."""
    questions = [*written, *generated]
    forms = list(map(question_form, questions))
    families = Families(len(questions))
    first: dict[str, int] = {}
    for n, form in enumerate(forms):
        families.join(first.setdefault(form, n), n)
    for left, right, _ in near_pairs(forms, threshold):
        families.join(left, right)
    roots = [families.root(n) for n in range(len(written), len(questions))]
    return {n: questions[root] for n, root in enumerate(roots) if root != n + len(written)}


def _reject(row: RecordRow, twin: str) -> Rejected:
    reason = f"it is the question “{twin}”, or nearly so"
    fix = "nothing, or lower datasets.split.near_duplicate"
    return set_aside("FT-KBA-008", row.passage_ids[0], 0, reason, fix, path=f"$.{row.record_id}", raw=_as_text(row))


def _as_text(row: RecordRow) -> str:
    return msgspec.json.encode({"question": row.question, "answer": row.answer}).decode()
