"""Find repeated and contradicting rows of a data set while its records are read one after another."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from expectations.codes import CODES
from expectations.formats.dialect import Keys, Record
from expectations.formats.keys import question_key
from expectations.formats.registry import FORMAT_OF
from expectations.reading import Rejected, escape
from expectations.records.read import in_batches
from expectations.text.cleaning import comparison_key_of_clean as comparison_key

_PREVIEW_CHARS = 80
_LINE_BITS = 40
_KEY_BITS = (1 << 60) - 1
"""A Python number of up to 60 bits takes 32 bytes, a longer one 48."""


class Conflict(msgspec.Struct, kw_only=True):
    """One question with different answers (FT-DUP-003). No row is dropped for it; a person decides."""

    question: str
    lines: list[str]
    """`file:line` of the first row, and of each later row with another answer."""
    answers: list[str]
    """The start of the answer on each of these lines."""


class Duplicates:
    """Takes one record after another and keeps 60-bit keys of them, not their texts: about 200 bytes a row.

    An id used twice (FT-DUP-001), the same row twice (FT-DUP-002) and a query-passage pair judged twice with different
    scores (FT-QREL-004) are rejected; the first row is kept. Different answers to one question, or a pair preferred
    both ways, are kept and listed in `conflicts`. Questions match by `matching_key`, rows by the stricter
    `comparison_key` (their contexts exactly): only equal rows are dropped. Among a million rows the chance that two
    different ones share a key is 1 in a million.
    """

    def __init__(self, file_sha256: Mapping[str, str] | None = None) -> None:
        """`file_sha256`: the hashes of the files by name, for the quarantine lines."""
        self.conflicts: list[Conflict] = []
        self._hashes = file_sha256 or {}
        self._files: list[str] = []
        self._file = ""  # the last of them
        self._begin = 0  # the place of its line 0
        # Every row gets a number. These give, for each key, the number of the first row with it.
        self._ids: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._questions: dict[int, int] = {}
        self._places = array("Q")  # for each number: its file and line,
        self._answers = array("q")  # the key of its answer,
        self._previews: dict[int, str] = {}  # and the start of the answer, where a contradicting row does not imply it
        self._disputed: dict[int, tuple[Conflict, dict[int, int]]] = {}  # with the number of each answer

    def sift(self, records: Iterable[Record | Rejected]) -> Iterator[Record | Rejected]:
        """Yield the same records, with a `Rejected` in place of each repetition."""
        for batch in in_batches(records):
            yield from [
                self._compare_rejected(record) if isinstance(record, Rejected) else self.feed(record) or record
                for record in batch
            ]

    def _compare_rejected(self, rejected: Rejected) -> Rejected:
        """Return a row that was rejected for another reason, after its answer was compared with those of other rows."""
        if rejected.question:
            question, answer = question_key(rejected.question, ()), hash(comparison_key(rejected.answer))
            keys = Keys("", "$", 0, question, answer, rejected.question, rejected.answer)
            self._note(keys, self._number(rejected.file, rejected.line, answer))
        return rejected

    def feed(self, record: Record) -> Rejected | None:
        """Remember a record; return a `Rejected` when it repeats an earlier one."""
        format = FORMAT_OF[type(record)]
        keys = format.keys(record)
        number = self._number(record.source, record.line_no, keys.answer)
        first = _first(self._rows, keys.row, number) if keys.row else self._note(keys, number)
        if first is not None:
            return self._reject(record, "FT-DUP-002", "$", f"the same row as {self._show(first)}")
        first = self._ids.setdefault(hash((type(record), keys.id)) & _KEY_BITS, number)
        if first != number:
            code, reason = format.same_id
            return self._reject(record, code, keys.id_path, reason.format(id=escape(keys.id), place=self._show(first)))
        if keys.question and keys.row:
            self._note(keys, number)
        return None

    def _note(self, keys: Keys, number: int) -> int | None:
        """Return the number of an earlier row with this question and answer, if any; another answer is a conflict."""
        first = self._questions.setdefault(keys.question & _KEY_BITS, number)
        if first == number:
            if not keys.opposite_text:
                self._previews[number] = _preview(keys.answer_text)
            return None
        if first not in self._disputed:
            if keys.answer == self._answers[first]:
                return first
            preview = self._previews.get(first) or _preview(keys.opposite_text)
            conflict = Conflict(question=keys.question_text, lines=[self._show(first)], answers=[preview])
            self.conflicts.append(conflict)
            self._disputed[first] = conflict, {self._answers[first]: first}
        conflict, known = self._disputed[first]
        if keys.answer in known:
            return known[keys.answer]
        known[keys.answer] = number
        conflict.lines.append(self._show(number))
        conflict.answers.append(_preview(keys.answer_text))
        return None

    def _number(self, file: str, line: int, answer: int) -> int:
        """Return a number for the row at this place."""
        if file != self._file:
            self._file = file
            self._files.append(file)
            self._begin = (len(self._files) - 1) << _LINE_BITS
        self._places.append(self._begin | line)
        self._answers.append(answer)
        return len(self._answers) - 1

    def _show(self, number: int) -> str:
        place = self._places[number]
        return f"{self._files[place >> _LINE_BITS]}:{place & ((1 << _LINE_BITS) - 1)}"

    def _reject(self, record: Record, code: str, path: str, reason: str) -> Rejected:
        return Rejected(
            file=record.source,
            file_sha256=self._hashes.get(record.source, ""),
            line=record.line_no,
            offset=-1,
            code=code,
            path=path,
            reason=reason,
            raw=escape(msgspec.json.encode(record).decode()),
            suggestion=CODES[code].fix,
        )


def _first(numbers: dict[int, int], key: int, number: int) -> int | None:
    """Return the number of the first row with a key; None when it is this one."""
    first = numbers.setdefault(key & _KEY_BITS, number)
    return None if first == number else first


def _preview(text: str) -> str:
    return escape(text[:_PREVIEW_CHARS])
