"""Verify a file: report its format, its records, and which rows fail and why. Needs only the base install."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from expectations.codes import CODES
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.formats.dialect import DEFAULT_POLICY, Dialect, ReadPolicy, Record, RowNotes
from expectations.formats.instruction import INSTRUCTION
from expectations.formats.pairs import RETRIEVAL_PAIR, RetrievalPairRecord, explain_not_trained_on, not_trained_on
from expectations.formats.passage import PASSAGE, PassageRecord
from expectations.formats.recognise import unknown
from expectations.formats.registry import DIALECTS, FORMATS
from expectations.formats.unpaired import UNPAIRED_PREFERENCE, VERDICT_KEYS
from expectations.formats.unread import UnreadKeys
from expectations.reading import FILE_CODES, MAX_LINE_BYTES, READ_BATCH, RawRow, Rejected, escape, holds_rows
from expectations.records.duplicates import Conflict, Duplicates
from expectations.records.quarantine import set_aside
from expectations.records.read import OpenedFile, convert_rows, in_batches
from expectations.text.cleaning import text_size
from expectations.text.documents import is_document, read_document
from expectations.text.tokens import estimate_tokens
from expectations.violations import Refused, Violation, violation

if TYPE_CHECKING:
    from expectations.contracts.consumer import Consumer  # pydantic takes a tenth of a second, and few files need it

KEPT_PER_CODE = 100
REPORT_VERSION = 2
"""Version of the JSON report. Version 1 had no `report_version`, and `mend` in place of `fix`."""
VALUE_CHARS = 80
_USUAL_TOKENS = 256  # that an encoder reads: the default of `embedding.passage_max_tokens`

CLEAN, ROWS_FAIL, UNREADABLE = 0, 1, 2

_DOCUMENT_DIALECTS = {".md": "markdown", ".markdown": "markdown", ".txt": "text", ".html": "html", ".htm": "html"}
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class Failing(Rejected, frozen=True, kw_only=True, omit_defaults=True):
    """A rejected row with the wrong value in it."""

    value: str = ""
    """The value at `path`, as JSON, escaped and short; empty where there is none."""


class Training(msgspec.Struct, kw_only=True):
    """The text that a model is trained on, for the first record."""

    prompt_from: str
    """The source of the prompt's texts: a config.yaml, or the defaults."""
    messages: list[dict[str, str]]
    """The chat up to the answer."""
    targets: dict[str, str]
    """`answer`, or `chosen` and `rejected`: the texts that are learned, with reasoning in its tags."""
    rendered: dict[str, str] = {}
    """`prompt` and each target as the chat template writes them; empty without a tokenizer."""
    tokens: dict[str, int] = {}
    """The number of tokens of `prompt` and of each target; empty without a tokenizer."""


class Report(msgspec.Struct, kw_only=True):
    """The result for one file."""

    file: str
    format: str = ""
    """The record format of the file: instruction, preference, passage …"""
    dialect: str = ""
    versions: list[int] = []
    """The versions of a canonical file's rows, the current one where they state none; empty for another dialect."""
    rows: int = 0
    clean: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Rejected rows by code, all of them."""
    rejected: list[Failing] = msgspec.field(default_factory=list[Failing])
    """The first 100 of each code, in file order."""
    thinking: str = ""
    """The policy on reasoning; empty where the format has none."""
    with_reasoning: int = 0
    """Clean rows with reasoning after the policy was applied."""
    without_reasoning: int = 0
    turns: str = ""
    """The answers of a dialogue that are learned, `last` or `all`; empty where the format is not `instruction`."""
    not_learned: int = 0
    """Earlier answers that are history (`last`), or answers that are marked as not to be learned (`all`)."""
    verdicts: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Clean answers by their verdict, where the format is `unpaired_preference`."""
    conflicts: list[Conflict] = msgspec.field(default_factory=list[Conflict])
    notes: list[str] = msgspec.field(default_factory=list[str])
    """Notes on what is ambiguous or mixed."""
    first: dict[str, Any] | None = None
    """The first record as it will be used."""
    training: Training | None = None
    """What a model is trained on for this record."""
    violations: list[Violation] = msgspec.field(default_factory=list[Violation])
    """The broken rules of the contract that the file was checked against."""
    not_read: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Keys that no field takes, each with its number of rows."""
    typos: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Key that is not read -> the key that was probably meant."""
    allowed: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Code of a rule that is allowed -> rows that break it and are used."""
    strict: bool = False
    """True if a key that is not read fails the file."""
    max_quarantined: float = 0.0
    """The share of rows that may fail."""
    unreadable: str = ""
    """The reason why the whole file cannot be used; empty when it can."""
    unreadable_code: str = ""

    @property
    def failed(self) -> int:
        """The number of rejected rows."""
        return self.rows - self.clean

    @property
    def exit_code(self) -> int:
        """0 when clean, 1 when rows fail, the contract is broken or (`strict`) a key is not read, 2 when unreadable."""
        if self.unreadable:
            return UNREADABLE
        if self.strict and self.not_read:
            return ROWS_FAIL
        return ROWS_FAIL if self.violations or self.failed > self.max_quarantined * self.rows else CLEAN


def verify_file(
    path: Path,
    format: str | None = None,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    policy: ReadPolicy = DEFAULT_POLICY,
    against: Consumer | None = None,
    max_quarantined: float = 0.0,
    strict: bool = False,
    mapping: ColumnMap = NO_MAP,
) -> Report:
    """Read a file once and check every row, duplicates included. `format` is the name of a format or of a dialect.

    Conflicting answers (FT-DUP-003) are reported and fail nothing. `against`: a consumer that must know the file's
    format in this version. `strict`: a key that is not read fails the file. `mapping`: the file's names for keys and
    roles. Refused when `format` is unknown.
    """
    check_format(format, str(path))
    report = Report(file=str(path), max_quarantined=max_quarantined, strict=strict)
    if opens_as_document(path, format) and not mapping.columns:
        _verify_document(report, path)
    else:
        _verify_rows(report, path, format, max_line_bytes, policy, mapping)
    if against and report.format and not report.unreadable:
        report.violations = _broken_contract(against, report)
    return report


def _broken_contract(consumer: Consumer, report: Report) -> list[Violation]:
    """Return violations (FT-CON-003) for a format, or a version of it, that `consumer` neither reads nor writes."""
    known = {
        name: sorted({*consumer.reads.get(name, []), *consumer.writes.get(name, [])})
        for name in {**consumer.reads, **consumer.writes}
    }
    fix = f"write a format and a version that {consumer.name} knows, or agree with {consumer.owner} on this one"
    if report.format not in known:
        return [
            violation(
                "FT-CON-003",
                where=report.file,
                message=f"{consumer.name} does not exchange files of this format.",
                field="format",
                found=report.format,
                expected=sorted(known),
                fix=fix,
            )
        ]
    versions = known[report.format]
    return [
        violation(
            "FT-CON-003",
            where=report.file,
            message=f"{consumer.name} does not know this version of the format.",
            field=report.format,
            found=version,
            expected=versions,
            fix=fix,
        )
        for version in report.versions
        if version not in versions
    ]


def check_format(format: str | None, where: str) -> None:
    """Refuse a name that is neither a format's nor a dialect's (FT-DIALECT-001)."""
    names = {*FORMATS, *(dialect.name for dialect in DIALECTS), *_DOCUMENT_DIALECTS.values()}
    if format is not None and format not in names:
        message = f"the format `{format}` is none of {', '.join(sorted(names))}"
        fix = "Name one of these formats, or leave the option out: the format is recognised."
        raise Refused("format", [violation("FT-DIALECT-001", where=where, message=message, fix=fix)])


def opens_as_document(path: Path, format: str | None) -> bool:
    """Return whether a file is text with headings, to be cut into sections, and not a file of rows."""
    if not (path.is_file() and is_document(path)):
        return False
    if format is None and path.suffix.lower() == ".txt" and holds_rows(path):
        return False
    return format in (None, PASSAGE.name, *_DOCUMENT_DIALECTS.values())


def read_sections(path: Path) -> Iterator[PassageRecord | Rejected]:
    """Yield the sections of a document as records, one a section; an empty section is rejected (FT-CORPUS-002)."""
    for section in read_document(path, path.name):
        if isinstance(section, Rejected):
            yield section
            continue
        text = section.whole[section.start : section.end].strip()
        if text:
            yield PassageRecord(
                document_id=section.section_id,
                title=" > ".join(section.headings),
                text=text,
                source=section.file,
                line_no=section.line,
            )
        else:
            reason = "the section has no text"
            fix = "write the section, or delete it"
            heading = " > ".join(section.headings)
            yield set_aside("FT-CORPUS-002", section.file, section.line, reason, fix, raw=escape(heading))


def _verify_document(report: Report, path: Path) -> None:
    report.format, report.dialect = PASSAGE.name, _DOCUMENT_DIALECTS[path.suffix.lower()]
    try:
        _count(report, _note_longest(report, read_sections(path)), lambda _: None)
    except (Refused, OSError) as error:
        _give_up(report, error)
        return
    _finish(report)


def _verify_rows(  # noqa: PLR0917 - as `verify_file`
    report: Report, path: Path, format: str | None, max_line_bytes: int, policy: ReadPolicy, mapping: ColumnMap
) -> None:
    formats = [format] if format else []
    try:
        opened = OpenedFile(path, max_line_bytes=max_line_bytes, mapping=mapping)
        recognition = opened.recognise(formats)
    except (Refused, OSError) as error:
        _give_up(report, error)
        return
    if recognition is None and opened.read:
        problem = unknown(str(path), opened.read, formats)
        known = f"; read are: {problem.expected}" if problem.expected else ""
        report.unreadable_code, report.unreadable = problem.code, f"{problem.message}{known}"
        report.rows = sum(1 for _ in opened.rows(None))
        return
    dialect = recognition and recognition.dialect
    if recognition:
        report.format, report.dialect = recognition.dialect.format.name, recognition.dialect.name
        report.notes = recognition.notes
        if recognition.dialect.format.has_reasoning:
            report.thinking = policy.thinking
        if recognition.dialect.format is INSTRUCTION:
            report.turns = policy.turns
    rows = _RecentRows(opened.rows(dialect), dialect)
    duplicates = Duplicates()
    unread, notes = UnreadKeys(), RowNotes(policy)
    records = duplicates.sift(convert_rows(path, rows, dialect, policy, unread=unread, notes=notes))
    if report.format == PASSAGE.name:
        records = _note_longest(report, records)
    try:
        _count(report, records, rows.find)
    except Refused as error:  # the map names a column that no row has
        _give_up(report, error)
        return
    report.not_read = unread.sorted()
    report.not_learned += notes.skipped
    report.allowed = dict(sorted(notes.allowed_rows.items()))
    report.typos = {name: typo for name, typo in unread.typos.items() if typo}
    report.conflicts = duplicates.conflicts
    if dialect and dialect.canonical:
        report.versions = sorted(rows.versions) or [dialect.format.version]
    _finish(report)


class _RecentRows:
    """The rows of a file, passed on one by one; keeps the last ones, and the versions that rows state."""

    def __init__(self, rows: Iterable[RawRow | Rejected], dialect: Dialect[Any] | None) -> None:
        # three steps, each of a batch, lie between the reading of a row and its verdict
        self._recent: deque[RawRow | Rejected] = deque(maxlen=6 * READ_BATCH)
        self.versions: set[int] = set()
        self._rows = rows
        self._canonical = dialect is not None and dialect.canonical

    def __iter__(self) -> Iterator[RawRow | Rejected]:
        for batch in in_batches(self._rows):
            self._recent.extend(batch)
            if self._canonical:
                self._note_versions(batch)
            yield from batch

    def _note_versions(self, batch: Iterable[RawRow | Rejected]) -> None:
        """Note the versions of rows; a row of the quick lane has the version of the first rows."""
        for row in batch:
            untyped: Any = row.untyped if isinstance(row, RawRow) else None
            if isinstance(untyped, dict):
                version = cast("dict[str, Any]", untyped).get("format_version")
                if type(version) is int:
                    self.versions.add(version)

    def find(self, rejected: Rejected) -> RawRow | None:
        """Return the row that was rejected; None for one that was never read, or where several are on its line."""
        rows: list[RawRow] = []
        for row in reversed(self._recent):
            if row.line < rejected.line:
                break
            if row.line == rejected.line and isinstance(row, RawRow) and rejected.offset in (-1, row.offset):
                rows.append(row)
        return rows[0] if len(rows) == 1 else None


def _count(report: Report, records: Iterable[Record | Rejected], find_row: Callable[[Rejected], RawRow | None]) -> None:
    """Count clean and rejected rows and keep the first ones; `find_row` returns the rejected row, if it is known."""
    clean = with_reasoning = earlier = desirable = 0
    unused = Counter[str]()
    of_dialogues, has_verdicts = report.turns == "last", report.format == UNPAIRED_PREFERENCE.name
    of_pairs = report.format == RETRIEVAL_PAIR.name
    for record in records:
        if isinstance(record, Rejected):
            _note_rejected(report, record, find_row(record))
            report.rows += record.code not in FILE_CODES
            continue
        if not clean:
            report.first = msgspec.to_builtins(record)
        clean += 1
        if report.thinking and getattr(record, "reasoning", ""):
            with_reasoning += 1
        if of_dialogues and (history := getattr(record, "history", ())):
            earlier += len(history)
        if has_verdicts and getattr(record, "desirable", False):
            desirable += 1
        if of_pairs and isinstance(record, RetrievalPairRecord):
            unused.update(not_trained_on(record))
    report.not_learned = earlier
    if unused:
        report.notes.append(explain_not_trained_on(unused))
    if has_verdicts:
        report.verdicts = {"desirable": desirable, "undesirable": clean - desirable}
        keys = ", ".join(f"`{key}`" for key in VERDICT_KEYS)
        report.notes.append(f"KTO data, by its verdicts ({keys}): `dpo.loss: kto` trains on it, and SFT never does")
    report.clean, report.rows = clean, report.rows + clean
    if report.thinking:
        report.with_reasoning, report.without_reasoning = with_reasoning, clean - with_reasoning


def _note_longest(report: Report, records: Iterable[Record | Rejected]) -> Iterator[Record | Rejected]:
    """Yield the records; then note the tokens of the longest text, if an encoder of the usual length would cut it."""
    longest, size = None, 0
    for record in records:
        # the estimate takes longer than all other checks together: it is made once
        if isinstance(record, PassageRecord) and 3 * len(record.text) > size and text_size(record.text) > size:
            longest, size = record, text_size(record.text)
        yield record
    tokens = estimate_tokens(f"{longest.title}\n{longest.text}") if longest else 0
    if longest and tokens > _USUAL_TOKENS:
        report.notes.append(
            f"the longest text has about {tokens} tokens (an estimate; line {longest.line_no}): passages are cut to "
            "what the encoder reads (`corpus.max_tokens`)"
        )


def _note_rejected(report: Report, rejected: Rejected, row: RawRow | None) -> None:
    counted = report.counts[rejected.code] = report.counts.get(rejected.code, 0) + 1
    if counted <= KEPT_PER_CODE:
        value = show_value(row.value, rejected.path) if row else ""
        report.rejected.append(Failing(**msgspec.structs.asdict(rejected), value=value))
    if rejected.code in FILE_CODES:
        report.unreadable, report.unreadable_code = rejected.reason, rejected.code


def _finish(report: Report) -> None:
    report.counts = dict(sorted(Counter(report.counts).items()))
    if report.unreadable:
        return
    if report.rows == 0:
        report.unreadable, report.unreadable_code = "the file has no rows", "FT-ROW-012"
    elif not report.format:
        code = max(report.counts, key=lambda code: report.counts[code])
        first = next(row for row in report.rejected if row.code == code)
        report.unreadable = f"no row could be read. {CODES[code].title}, first at line {first.line}: {first.reason}"
        report.unreadable_code = code
        if code == "FT-ROW-002":
            report.unreadable += "; JSONL, a JSON array of objects, or TSV is expected"


def _give_up(report: Report, error: Refused | OSError) -> None:
    if isinstance(error, Refused):
        first = error.violations[0]
        report.unreadable_code, report.unreadable = first.code, first.message
        if first.field:  # of the column map: both names, and the fix
            report.unreadable = "; ".join(problem.text for problem in error.violations)
    else:
        report.unreadable_code, report.unreadable = "FT-ROW-012", error.strerror or str(error)


def show_value(row: Any, path: str) -> str:
    """Return the value at a JSON path of a row, as escaped JSON of at most 80 characters; empty where there is none."""
    value: Any = row
    at = 1
    if not path.startswith("$") or path == "$":
        return ""
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            return ""
        key, index = step.groups()
        try:
            value = value[key] if index is None else value[int(index)]
        except (LookupError, TypeError):  # the field is missing, or the value around it is of another type
            return ""
        at = step.end()
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):  # a table may hold what JSON does not
        text = repr(value)
    shown = escape(text)
    return shown if len(shown) <= VALUE_CHARS else shown[: VALUE_CHARS - 1] + "…"
