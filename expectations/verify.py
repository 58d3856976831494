"""A file in, a report out: what it is, what it becomes, which rows fail and why. Starts with the base install alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from expectations.duplicates import Conflict, Duplicates
from expectations.formats.codes import CODES
from expectations.formats.dialect import Policy, Thinking
from expectations.formats.recognise import DIALECTS, SAMPLE, recognise_rows, unknown
from expectations.reading import FILE_CODES, MAX_LINE_BYTES, Rejected, Row, read_rows
from expectations.records import Record, convert_rows
from expectations.violations import Refused, Violation

KEPT_PER_CODE = 100
SHOWN_PER_CODE = 3

CLEAN, ROWS_FAIL, UNREADABLE = 0, 1, 2


class Report(msgspec.Struct, kw_only=True):
    """What was found in one file."""

    file: str
    format: str = ""
    """The record format it becomes: instruction, preference, query, qrel, passage."""
    dialect: str = ""
    rows: int = 0
    clean: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Rejected rows by code, all of them."""
    rejected: list[Rejected] = msgspec.field(default_factory=list[Rejected])
    """The first 100 of each code, in file order."""
    conflicts: list[Conflict] = msgspec.field(default_factory=list[Conflict])
    notes: list[str] = msgspec.field(default_factory=list[str])
    """What is ambiguous or mixed."""
    first: dict[str, Any] | None = None
    """The first record as it will be used."""
    unreadable: str = ""
    """Why the file as a whole cannot be used; empty when it can."""

    @property
    def exit_code(self) -> int:
        """0 clean, 1 rows fail, 2 unreadable."""
        if self.unreadable:
            return UNREADABLE
        return ROWS_FAIL if self.counts else CLEAN


def verify_file(
    path: Path,
    format: str | None = None,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    thinking: Thinking = "allow_empty",
    min_margin: float = 0.0,
) -> Report:
    """Reads a file once and judges every row, duplicates included. `format` is a format's or a dialect's name.

    Conflicting answers (FT-DUP-003) are reported and fail nothing. Refused when `format` is not one that is known.
    """
    names = {dialect.kind for dialect in DIALECTS} | {dialect.name for dialect in DIALECTS}
    if format is not None and format not in names:
        raise Refused(
            "format",
            [
                Violation(
                    code="FT-DIALECT-001",
                    where=str(path),
                    message=f"the format `{format}` is none of {', '.join(sorted(names))}",
                    mend="Name one of these formats, or leave it to be recognised.",
                )
            ],
        )
    report = Report(file=str(path))
    try:
        rows = read_rows(path, max_line_bytes=max_line_bytes)
        first = list(islice(rows, SAMPLE))
    except (Refused, OSError) as error:
        report.unreadable = _first_message(error)
        return report
    values = [row.value for row in first if isinstance(row, Row)]
    found = recognise_rows(values, name=path.name, kind=format)
    if found is None and values:
        report.unreadable = (
            f"{unknown(str(path), values, format).message}; read are: {unknown('', [], format).expected}"
        )
        report.rows = len(first) + sum(1 for _ in rows)
        return report
    if found:
        report.format, report.dialect, report.notes = found.dialect.kind, found.dialect.name, found.notes
    policy = Policy(thinking=thinking, min_margin=min_margin)
    records = convert_rows(path, chain(first, rows), found and found.dialect, policy, kind=format)
    _count(report, Duplicates(), records)
    return report


def _count(report: Report, duplicates: Duplicates, records: Iterator[Record | Rejected]) -> None:
    counts: Counter[str] = Counter()
    for record in duplicates.sift(records):
        if isinstance(record, Rejected):
            counts[record.code] += 1
            if counts[record.code] <= KEPT_PER_CODE:
                report.rejected.append(record)
            if record.code in FILE_CODES:
                report.unreadable = record.reason
                continue
        elif report.first is None:
            report.first = msgspec.to_builtins(record)
        report.rows += 1
        report.clean += not isinstance(record, Rejected)
    report.counts = dict(sorted(counts.items()))
    report.conflicts = duplicates.conflicts
    if report.rows == 0 and not report.unreadable:
        report.unreadable = "the file has no rows"
    elif not report.format and not report.unreadable:
        report.unreadable = "no row could be read; JSONL, a JSON array of objects, or TSV is expected"


def report_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {**msgspec.to_builtins(report), "exit_code": report.exit_code}


def report_table(report: Report) -> str:
    """The report for a terminal: what the file is, each code with its first rows, conflicts, the first record."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = StringIO()
    console = Console(file=output, width=120, highlight=False, markup=False, emoji=False)
    what = f"{report.format} ({report.dialect})" if report.format else "not recognised"
    console.print(
        f"{report.file}: {what}, {report.rows} rows, {report.clean} clean, {report.rows - report.clean} rejected"
    )
    if report.unreadable:
        console.print(f"  unreadable: {report.unreadable}")
    for note in report.notes:
        console.print(f"  note: {note}")
    if report.counts:
        table = Table("code", "rows", "what", "first lines")
        for code, count in report.counts.items():
            some = [row for row in report.rejected if row.code == code][:SHOWN_PER_CODE]
            lines = [f"line {row.line} {row.path}: {row.reason}\n  {row.raw[:80]}" for row in some]
            title, _, mend = CODES[code]
            table.add_row(code, str(count), Text(f"{title}\nMend: {mend}"), Text("\n".join(lines)))
        console.print(table)
    for conflict in report.conflicts:
        console.print(f"  FT-DUP-003 different answers to: {conflict.question}")
        for line, answer in zip(conflict.lines, conflict.answers, strict=True):
            console.print(f"    {line}: {answer}")
    if report.first:
        console.print("  first record:")
        for name, value in report.first.items():
            console.print(f"    {name}: {value!r}"[:400])
    return output.getvalue()


def _first_message(error: Refused | OSError) -> str:
    return error.violations[0].message if isinstance(error, Refused) else error.strerror or str(error)
