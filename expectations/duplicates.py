"""Repetitions and contradictions within a data set, found while its records pass by."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from expectations.formats.codes import CODES
from expectations.formats.dialect import Turn
from expectations.formats.instruction import InstructionRecord
from expectations.formats.pairs import RetrievalPairRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.qa import QaRecord
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected, escape
from expectations.records import Record, in_batches
from expectations.text import comparison_key_of_clean as comparison_key
from expectations.text import matching_key

_PREVIEW_CHARS = 80
_LINE_BITS = 40


class Conflict(msgspec.Struct, kw_only=True):
    """One question with different answers (FT-DUP-003). None is dropped for that; a person decides."""

    question: str
    lines: list[str]
    """`file:line` of each row that disagrees with one before it, the first one included."""
    answers: list[str]
    """The start of the answer on each of these lines."""


class _Keys(msgspec.Struct, gc=False):
    """What a record is compared by. Keys are 64-bit hashes, good for this process alone."""

    name: str
    path: str
    """JSON path of the name."""
    row: int
    """0 where a question and its answer are all that a row says."""
    question: int = 0
    """Rows of one question must agree; 0 when that is not asked."""
    answer: int = 0
    asked: str = ""
    said: str = ""
    contrary: str = ""
    """What a row that contradicts this one says, where the question key tells; else it must be remembered."""


class Duplicates:
    """Fed record by record; holds 64-bit keys of what passed by, not the texts: about 100 bytes a row.

    An id used twice (FT-DUP-001), a row that says the same twice (FT-DUP-002) and a query-passage pair judged twice
    with different scores (FT-QREL-004) are rejected, the first one stays. Different answers to one question, or a pair
    preferred both ways, are kept and listed in `conflicts`. Questions match by `matching_key`, rows by the gentler
    `comparison_key` (their contexts as they are): only what says the same is thrown away. Among a million rows the
    chance that two different ones share a key is 3 in 100 million.
    """

    def __init__(self, file_sha256: Mapping[str, str] | None = None) -> None:
        """`file_sha256`: the hashes of the files by name, for the quarantine lines."""
        self.conflicts: list[Conflict] = []
        self._hashes = file_sha256 or {}
        self._files: list[str] = []
        self._file = ""  # the last of them
        self._ids, self._rows, self._questions = _Table(), _Table(), _Table()
        self._answers = array("q")  # of each question, in the order met: the key of its first answer,
        self._places = array("Q")  # where that stands,
        self._previews: list[str] = []  # and how it begins
        self._disputed: dict[int, tuple[Conflict, dict[int, int]]] = {}  # with the place of each answer

    def sift(self, records: Iterable[Record | Rejected]) -> Iterator[Record | Rejected]:
        """The same stream, with repetitions turned into `Rejected`."""
        for batch in in_batches(records):
            yield from [
                self._hear(record) if isinstance(record, Rejected) else self.feed(record) or record for record in batch
            ]

    def _hear(self, rejected: Rejected) -> Rejected:
        """In the quarantine for another reason, but it contradicts all the same."""
        if rejected.question:
            question, answer = _question_key(rejected.question, ()), hash(comparison_key(rejected.answer))
            keys = _Keys("", "$", 0, question, answer, rejected.question, rejected.answer)
            self._note(keys, self._place(rejected.file, rejected.line))
        return rejected

    def feed(self, record: Record) -> Rejected | None:
        """Takes note of a record; a `Rejected` when it repeats an earlier one."""
        keys = _keys_of(record)
        place = self._place(record.source, record.line_no)
        first = self._rows.add(keys.row, place) if keys.row else self._note(keys, place)
        if first:
            return self._reject(record, "FT-DUP-002", "$", f"says the same as {self._show(first)}")
        if first := self._ids.add(hash((type(record), keys.name)), place):
            if type(record) is QrelRecord:
                reason = f"the pair is judged otherwise in {self._show(first)}"
                return self._reject(record, "FT-QREL-004", keys.path, reason)
            reason = f"the id `{escape(keys.name)}` is that of {self._show(first)}"
            return self._reject(record, "FT-DUP-001", keys.path, reason)
        if keys.question and keys.row:
            self._note(keys, place)
        return None

    def _note(self, keys: _Keys, place: int) -> int:
        """Where the question was answered the same before, or 0; an answer that differs is a conflict."""
        index = len(self._answers)
        first = self._questions.add(keys.question, index + 1) - 1
        if first < 0:
            self._answers.append(keys.answer)
            self._places.append(place)
            self._previews.append("" if keys.contrary else _preview(keys.said))
            return 0
        if first not in self._disputed:
            if keys.answer == self._answers[first]:
                return self._places[first]
            preview = self._previews[first] or _preview(keys.contrary)
            lines = [self._show(self._places[first])]
            conflict = Conflict(question=keys.asked, lines=lines, answers=[preview])
            self.conflicts.append(conflict)
            self._disputed[first] = conflict, {self._answers[first]: self._places[first]}
        conflict, known = self._disputed[first]
        if keys.answer in known:
            return known[keys.answer]
        known[keys.answer] = place
        conflict.lines.append(self._show(place))
        conflict.answers.append(_preview(keys.said))
        return 0

    def _place(self, file: str, line: int) -> int:
        """A file and a line as one number, never 0."""
        if file != self._file:
            self._file = file
            self._files.append(file)
        return (len(self._files) - 1) << _LINE_BITS | (line or 1)

    def _show(self, place: int) -> str:
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
            suggestion=CODES[code].mend,
        )


class _Table:
    """64-bit keys, each with the number it came with first: open addressing in two arrays, 24 to 96 bytes a key."""

    def __init__(self) -> None:
        self._mask = (1 << 12) - 1
        self._count = 0
        self._keys, self._values = self._empty()

    def add(self, key: int, value: int) -> int:
        """The number that the key came with first, or 0 when this is the first time. `value` is not 0."""
        key = key or 1  # 0 marks a free slot
        keys, mask = self._keys, self._mask
        slot = key & mask
        while found := keys[slot]:
            if found == key:
                return self._values[slot]
            slot = (slot + 1) & mask
        keys[slot] = key
        self._values[slot] = value
        self._count += 1
        if self._count * 3 > mask * 2:
            self._grow()
        return 0

    def _grow(self) -> None:
        old_keys, old_values = self._keys, self._values
        self._mask = self._mask * 4 + 3
        self._keys, self._values = self._empty()
        keys, values, mask = self._keys, self._values, self._mask
        for key, value in zip(old_keys, old_values, strict=True):
            if key:
                slot = key & mask
                while keys[slot]:
                    slot = (slot + 1) & mask
                keys[slot] = key
                values[slot] = value

    def _empty(self) -> tuple[array[int], array[int]]:
        size = 8 * (self._mask + 1)
        return array("q", bytes(size)), array("Q", bytes(size))


def _keys_of(record: Record) -> _Keys:
    """What a row says, without its place; queries and passages with their id, since judgements name it."""
    match record:
        case PreferenceRecord():
            asked = comparison_key(record.question)
            chosen, rejected = comparison_key(record.chosen), comparison_key(record.rejected)
            around = (*record.context, record.system)
            if record.history:
                around += tuple(text for turn in record.history for text in _texts(turn))
            # different chosen texts are normal; the same two texts preferred both ways are not
            pair = (chosen, rejected) if chosen < rejected else (rejected, chosen)
            question = hash((asked, around, pair))
            return _Keys(
                record.record_id,
                "$.record_id",
                0,
                question,
                hash(chosen),
                record.question,
                record.chosen,
                record.rejected,
            )
        case InstructionRecord():
            past = [text for turn in record.history for text in _texts(turn)]
            texts = [comparison_key(text) for text in (record.question, record.system, record.reasoning)]
            answer = hash(comparison_key(record.answer))
            row = hash(("instruction", *texts, answer, *record.context, *past))
            question = _question_key(record.question, (*record.context, *past))
            return _Keys(record.record_id, "$.record_id", row, question, answer, record.question, record.answer)
        case QaRecord():
            given = (*record.references, record.golden_reference or "", record.student_answer or "")
            answer = hash(comparison_key(record.answer))
            verdict = comparison_key(record.explanation or "")
            row = hash(("qa", comparison_key(record.question), answer, given, record.verdict, verdict))
            question = _question_key(record.question, given)
            return _Keys(record.record_id, "$.record_id", row, question, answer, record.question, record.answer)
        case _:
            return _keys_of_retrieval(record)


def _keys_of_retrieval(record: RetrievalPairRecord | QueryRecord | PassageRecord | QrelRecord) -> _Keys:
    """The same for what has no answer to disagree on."""
    match record:
        case RetrievalPairRecord():
            row = hash(("retrieval_pair", comparison_key(record.query), *record.positives, "", *record.negatives))
            return _Keys(record.record_id, "$.record_id", row)
        case QueryRecord():
            row = hash(("query", record.query_id, comparison_key(record.query)))
            return _Keys(record.query_id, "$.query_id", row)
        case PassageRecord():
            row = hash(("passage", record.document_id, comparison_key(record.title), comparison_key(record.text)))
            return _Keys(record.document_id, "$.document_id", row)
        case QrelRecord():
            row = hash(("qrels", record.query_id, record.passage_id, record.score))
            return _Keys(f"{record.query_id}\t{record.passage_id}", "$", row)


def _question_key(question: str, around: tuple[str, ...]) -> int:
    return hash((matching_key(question), around))


def _texts(turn: Turn) -> tuple[str, str]:
    return turn.question, turn.answer


def _preview(text: str) -> str:
    return escape(text[:_PREVIEW_CHARS])
