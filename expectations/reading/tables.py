"""Tables of text: CSV, TSV, and the columns of TREC files, which blanks separate. A row under a header is an object.

A first row that names columns is a header, whether a format has these names or not: it is never read as data.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, cast

import msgspec

from expectations.reading.decode import decode_utf8
from expectations.reading.lines import read_tsv
from expectations.reading.rows import BLANK, BOM, RawRow, Rejected, Source, Unreadable, escape, escape_bytes
from expectations.reading.streams import CHUNK

_SAMPLE_LINES = 20
_JUDGED_BY = 5  # rows after a first row that tell whether it is a header

_COLUMN_WORDS = """
question questions answer answers query queries response responses prompt completion instruction input output
chosen rejected system system_prompt context contexts documents passages references history messages
conversations conversation reasoning reasoning_content thinking cot evidence keypoints ground_truth
retrieval_result chosen_score rejected_score score_chosen score_rejected chosen_rating rejected_rating margin
label kto_tag desired desirable weight train loss training difficulty language lang group category source question_text
answer_text user assistant human gpt user_input retrieved_contexts reference golden_answers golden_answer
golden_reference student_answer verdict explanation dependency raw_input augment_input data_type data content
contents index paragraphs record_id preferred_output non_preferred_output rejected_response rejected_messages id
_id idx title text url body passage paragraph segment document document_id doc_id docid did docno doc pid p_id
passage_id passage-id corpus_id corpus-id corpusid doc-id document-id paragraph_id query_id query-id queryid qid
q_id topic topic_id question_id score rel relevance relevancy grade judgment judgement rating iteration iter
rank run tag anchor positive negative positives negatives pos neg pos_scores neg_scores positive_passages
negative_passages positive_scores negative_scores in_batch_negatives metadata 问题 答案 相关法规 format_version domain
rerank_passage prediction version type ground_truths target
"""
COLUMNS = frozenset(_COLUMN_WORDS.split())
"""Names of columns in the files that are read here. A test compares them with the keys of all dialects."""

_TYPED_WORDS = """
score rel relevance relevancy grade judgment judgement rating iteration label kto_tag desired desirable weight train
loss training chosen_score rejected_score score_chosen score_rejected chosen_rating rejected_rating margin verdict
dependency in_batch_negatives format_version evidence
"""
_TYPED = frozenset(_TYPED_WORDS.split())
"""Columns of numbers and of true and false, and others that may be empty: there, an empty cell is null."""
_LISTED_WORDS = """
messages conversations conversation history context contexts documents passages references evidence chosen
rejected positive_passages negative_passages positives negatives pos neg pos_scores neg_scores positive_scores
negative_scores answers questions golden_answers retrieval_result retrieved_contexts
"""
_LISTED = frozenset(_LISTED_WORDS.split())
"""Columns that may hold a JSON list in a cell."""

_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,3})?")
_COLUMN_NAME = re.compile(r"[^\W\d][\w ./:()\[\]-]{0,47}")
_ID = re.compile(r"\S{1,80}")
_QUOTED_CELL = re.compile(r'(?<=[\t\n])"(?:[^"]|"")*"(?=[\t\r\n]|\Z)')


Mapped = Mapping[str, str]
"""Columns that a map names -> the key that each is read as."""
NO_COLUMNS: Mapped = {}


class Shape(msgspec.Struct, frozen=True):
    """The separation of a table's cells."""

    delimiter: str
    """One character; empty where blanks and tabs separate cells."""
    quoted: bool = False
    """True if a cell may be in quotes, and then holds line ends and delimiters."""
    skips_blanks: bool = False
    """True if a blank follows every delimiter."""
    skipped_lines: int = 0
    """Lines before the table: Excel's `sep=;`."""


def shape_of(name: str, start: bytes, mapped: Mapped = NO_COLUMNS) -> Shape | None:
    """Return the shape of a table, by the file's name and its first bytes; None for a file that is no table."""
    if start.lstrip(BLANK)[:1] in (b"{", b"[") or b"\x00" in start[:4]:  # a NUL: UTF-16, which is refused row by row
        return None
    text = start.lstrip(b"\r\n").decode("utf-8", "replace")
    lines = [line for line in text.split("\n") if line.strip()]
    if len(start) >= CHUNK - 64 and len(lines) > 1:
        lines.pop()  # cut
    lines = [line.rstrip("\r") for line in lines[:_SAMPLE_LINES]]
    suffix = name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if not lines:
        return None
    if suffix == "csv":
        return _csv_shape(text, lines, mapped)
    tabs = {line.count("\t") for line in lines}
    if len(tabs) == 1 and tabs <= {1, 2, 3, 5}:
        return _tab_shape(text, mapped)
    width = lines[0].count("\t")
    is_headed = _is_known_header(lines[0].split("\t"), mapped) and any(line.count("\t") == width for line in lines[1:])
    has_tabs = suffix in ("tsv", "tab") or is_headed
    return _blank_shape(name, lines) or (
        _tab_shape(text, mapped) if has_tabs else _shape_by_header(text, lines, mapped)
    )


def _tab_shape(text: str, mapped: Mapped) -> Shape:
    """Return the shape of a TSV file: quoted when it has a header, and every quote in it is that of a quoted cell."""
    lines = text.split("\n", 1)
    if not _is_known_header(lines[0].rstrip("\r").split("\t"), mapped) or '"' not in text:
        return Shape("\t")
    rest = _QUOTED_CELL.sub("", "\n" + text)
    if len(text) >= CHUNK // 4:
        rest = rest.rpartition("\n")[0] if '"' in rest.rpartition("\n")[2] else rest
    return Shape("\t", quoted='"' not in rest)


def _csv_shape(text: str, lines: Sequence[str], mapped: Mapped) -> Shape:
    """Return the shape of a CSV file: the delimiter that finds most known columns in the first row, then most cells."""
    stated = re.match(r"sep=(.)\r?\n", text)
    if stated:
        return Shape(stated[1], quoted=True, skipped_lines=1)
    found: list[tuple[int, int, int, str]] = []
    for order, delimiter in enumerate(",;\t|"):
        cells = _first_row(text, delimiter) or [lines[0]]
        found.append((sum(_is_known(cell, mapped) for cell in cells), len(cells), -order, delimiter))
    delimiter = max(found)[3]
    return Shape(delimiter, quoted=True, skips_blanks=_follows_blank(lines[0], delimiter))


def _follows_blank(line: str, delimiter: str) -> bool:
    return delimiter != "\t" and 0 < line.count(delimiter) == line.count(f"{delimiter} ")


def _shape_by_header(text: str, lines: Sequence[str], mapped: Mapped) -> Shape | None:
    """Return the shape of CSV in a file of another name: its first row has known columns only, and rows are as wide."""
    for delimiter in ",;|":
        cells = _first_row(text, delimiter)
        if cells and len(cells) > 1 and all(_is_known(cell, mapped) for cell in cells):
            shape = Shape(delimiter, quoted=True, skips_blanks=_follows_blank(lines[0], delimiter))
            rows = list(islice(_parsed(text, delimiter), 4))
            if len(rows) > 1 and all(len(row) == len(cells) for row in rows[:-1]):
                return shape
    return None


def _parsed(text: str, delimiter: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        yield from (row for row in reader if row)
    except csv.Error:  # damage is reported when the rows are read
        return


def _first_row(text: str, delimiter: str) -> list[str]:
    return next(_parsed(text, delimiter), list[str]())


def _blank_shape(name: str, lines: Sequence[str]) -> Shape | None:
    """Return the shape of a TREC file, whose columns are separated by blanks or tabs; None for another text."""
    rows = [line.split() for line in lines]
    if len(rows) > 1 and _is_known_header(rows[0], NO_COLUMNS):
        rows = rows[1:]
    judged = "qrel" in name.lower()
    if all(_is_trec(row) or (judged and _is_judgement(row)) for row in rows) and len({len(row) for row in rows}) == 1:
        return Shape("")
    return None


def _is_trec(row: Sequence[str]) -> bool:
    """Return whether a row has the columns of TREC's judgements, or of the run of a search system."""
    if len(row) == 4:
        return (row[1].isdigit() or row[1] in ("Q0", "q0")) and _NUMBER.fullmatch(row[3]) is not None
    return len(row) == 6 and row[3].isdigit() and _NUMBER.fullmatch(row[4]) is not None


def _is_judgement(row: Sequence[str]) -> bool:
    return len(row) == 3 and _NUMBER.fullmatch(row[2]) is not None


def column_name(cell: str, mapped: Mapped = NO_COLUMNS) -> str:
    """Return the name of a column, in the spelling of the dialects where they know it: `Query ID` is `query_id`.

    A column that a map names keeps its own spelling.
    """
    name = cell.strip()
    if name in mapped:
        return name
    lower = name.lower()
    for spelled in (lower, lower.replace(" ", "_"), lower.replace("-", "_")):
        if spelled in COLUMNS:
            return spelled
    return name


def _is_known(cell: str, mapped: Mapped) -> bool:
    name = column_name(cell, mapped)
    return name in COLUMNS or name in mapped


def _is_known_header(cells: Sequence[str], mapped: Mapped) -> bool:
    """Return whether the cells of a first row are names of columns, at least half of them known here."""
    named = [cell.strip().strip('"') for cell in cells if cell.strip()]
    if mapped and mapped.keys() <= set(named):
        return True
    known = sum(_is_known(cell, mapped) for cell in named)
    return bool(named) and known * 2 >= len(named) and len(named) > 1 and all(map(_is_column_name, named))


def _is_column_name(cell: str) -> bool:
    return _COLUMN_NAME.fullmatch(cell.strip()) is not None and len(cell.split()) <= 4


def find_header(
    first: Sequence[str], following: Sequence[Sequence[str]], mapped: Mapped = NO_COLUMNS
) -> list[str] | None:
    """Return the names of the columns if a first row is a header; None if it is a row like the others.

    It is one when it has all columns of a map, known names, or names without a digit above rows of numbers, ids or
    longer texts.
    """
    named = [cell for cell in first if cell.strip()]
    if not mapped or not mapped.keys() <= {cell.strip() for cell in named}:
        if not named or not all(map(_is_column_name, named)):
            return None
        known = sum(_is_known(cell, mapped) for cell in named)
        if known * 2 < len(named) and not _contrasts(first, following):
            return None
    # pandas writes its index as a first column without a name
    return [column_name(cell, mapped) if cell.strip() else f"Unnamed: {n}" for n, cell in enumerate(first)]


def _contrasts(first: Sequence[str], following: Sequence[Sequence[str]]) -> bool:
    if not following or any(char.isdigit() for char in "".join(first)):
        return False
    pairs = chain.from_iterable(zip(first, row, strict=False) for row in following)
    return any(
        (_ID.fullmatch(cell.strip()) is not None and any(char.isdigit() for char in cell))
        or len(cell.split()) > len(name.split()) + 2
        or len(cell) > 4 * len(name) + 8
        for name, cell in pairs
    )


def read_table(
    stream: BinaryIO, source: Source, shape: Shape, max_line_bytes: int, mapped: Mapped = NO_COLUMNS
) -> Iterator[RawRow | Rejected]:
    """Yield the rows of a table: objects under a header, else lists of cells. Rows of empty cells are no rows."""
    rows = _rows(stream, source, shape, max_line_bytes)
    lead = list(islice(rows, 1 + _JUDGED_BY))
    first = lead[0] if lead else None
    following = [row.value for row in lead[1:] if isinstance(row, RawRow)]
    header = find_header(first.value, following, mapped) if isinstance(first, RawRow) else None
    if header is None:
        yield from chain(lead, rows)
        return
    twins = sorted({name for name in header if header.count(name) > 1})
    if twins:
        reason = f"the header names {' and '.join(f'`{escape(name)}`' for name in twins)} more than once"
        raise Unreadable("FT-TAB-004", reason)
    for row in chain(lead[1:], rows):
        yield _as_object(source, row, header, mapped) if isinstance(row, RawRow) else row


def _rows(stream: BinaryIO, source: Source, shape: Shape, max_line_bytes: int) -> Iterator[RawRow | Rejected]:
    if shape.quoted:
        return _read_quoted(stream, source, shape, max_line_bytes)
    rows = read_tsv(stream, source, max_line_bytes)
    if shape.delimiter:
        return rows
    return (row if isinstance(row, Rejected) else _split(row) for row in rows)


def _split(row: RawRow) -> RawRow:
    return msgspec.structs.replace(row, untyped=" ".join(cast("list[str]", row.untyped)).split())


def _as_object(source: Source, row: RawRow, header: Sequence[str], mapped: Mapped) -> RawRow | Rejected:
    cells: list[str] = row.value
    if len(cells) != len(header):
        names = ", ".join(f"`{escape(name)}`" for name in header[:8])
        reason = f"found {len(cells)} cells, the header names {len(header)} columns: {names}"
        return source.reject("FT-TAB-002", row.line, row.offset, reason, raw=row.raw)
    value = {
        name: _value(mapped.get(name, name), cell)
        for name, cell in zip(header, cells, strict=True)
        if cell or not name.startswith("Unnamed: ")
    }
    return RawRow(row.line, row.offset, value, row.data, named=True)


def _value(name: str, cell: str) -> Any:
    """Return the value of a cell: a text, but in a column of numbers, of true and false, or of JSON lists."""
    if name in _TYPED:
        bare = cell.strip()
        if not bare:
            return None
        if bare.lower() in ("true", "false"):
            return bare.lower() == "true"
        if _NUMBER.fullmatch(bare):
            number = float(bare)
            whole = bare.lstrip("+-").isdigit()
            return int(bare) if whole else number if math.isfinite(number) else cell
    if name in _LISTED and cell.startswith("["):
        try:
            return msgspec.json.decode(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


class _RowTooLong(Exception):
    """A row has more bytes than allowed."""


class _Lines:
    """The lines of a file for the csv module, with those of the row that is being read."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream = stream
        self._max = max_bytes
        self.number = self.offset = 0
        """Of the next line: lines and bytes before it."""
        self.row: list[bytes] = []
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        data = self._stream.readline(self._max + 2)
        if not data:
            raise StopIteration
        self.number += 1
        self.offset += len(data)
        self._size += len(data)
        if self.number == 1:
            data = data.removeprefix(BOM)
        self.row.append(data)
        if self._size > self._max + 1:
            while not data.endswith(b"\n") and (data := self._stream.readline(CHUNK)):
                self.offset += len(data)
            raise _RowTooLong
        return data.decode("utf-8", "surrogateescape")

    def begin_row(self) -> tuple[int, int]:
        """Return the line, from 1, and the offset at which the next row begins."""
        self.row, self._size = [], 0
        return self.number + 1, self.offset


def _read_quoted(stream: BinaryIO, source: Source, shape: Shape, max_line_bytes: int) -> Iterator[RawRow | Rejected]:
    """Yield rows as the csv module reads them; `line` is the first line of a row of several."""
    csv.field_size_limit(max(csv.field_size_limit(), max_line_bytes + 2))
    lines = _Lines(stream, max_line_bytes)
    reader = csv.reader(lines, delimiter=shape.delimiter, skipinitialspace=shape.skips_blanks, strict=True)
    for _ in range(shape.skipped_lines):
        next(lines, None)
    while True:
        line, offset = lines.begin_row()
        code = reason = ""
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            code, reason = "FT-TAB-003", _describe(error, line, lines.number)
        except _RowTooLong:
            code, reason = "FT-ROW-006", f"longer than {max_line_bytes} bytes"
        data = b"".join(lines.row).rstrip(b"\r\n")
        if not code and not data.strip(BLANK + shape.delimiter.encode()):
            continue
        try:
            decode_utf8(data)
        except Unreadable as error:
            code, reason = code or error.code, reason or error.reason
        if code:
            yield source.reject(code, line, offset, reason, raw=escape_bytes(data))
        else:
            yield RawRow(line, offset, [cell.replace("\r\n", "\n") for cell in cells], data)


def _describe(error: csv.Error, first: int, last: int) -> str:
    message = str(error)
    if "end of data" in message:
        return f"a quote that opens in line {first} is not closed before the end of the file, line {last}"
    if "new-line" in message:
        return "found a carriage return within a cell, or as the only sign of a line end"
    if first == last:
        return f"found text after a closing quote ({message})"
    return f"found text after a closing quote in the row of the lines {first} to {last} ({message})"
